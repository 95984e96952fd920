"""Server-sent events as the Responses API's clients need them (A-1, A-6): the first transport.

Frames come from `schemas.events.frame`; the source joins all that are pending into one chunk.
"""

from collections.abc import AsyncIterator

from schemas.events import KEEP_ALIVE
from services.web.stream import OnEnd, Sink, Stream
from services.web.transport import Body

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
"""The headers keep caches and proxies from holding events back."""


class EventStream(Stream):
    """A stream of whole SSE frames from `source`, and a keep-alive after `keepalive_s` of silence.

    It ends cleanly when `source` returns.
    """

    def __init__(
        self,
        source: AsyncIterator[bytes],
        *,
        sink: Sink | None = None,
        keepalive_s: float = 15,
        stall_s: float = 30,
        on_end: OnEnd | None = None,
    ) -> None:
        transport = Body(headers=HEADERS, pause=KEEP_ALIVE)
        super().__init__(
            source, transport, sink=sink, keepalive_s=keepalive_s, stall_s=stall_s, on_end=on_end
        )
