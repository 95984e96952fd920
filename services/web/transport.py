"""Transports: how the events of a response go over a wire.

A fan-out (`replay.Replay.chunks`) hands on whole SSE frames, encoded once for all readers of a response. A
`Transport` turns these into the ASGI messages of one answer. `stream.Stream` sends them: it keeps the times,
waits for a slow reader, drops one that takes nothing, and sees a client go.

    head → events, events, keep_alive, events … → end     the response's terminal event was among them
                                              … → error   no terminal event comes

`Body` is an HTTP answer, `sse` its use for server-sent events. `schemas.events.encoded_in` takes the frames
apart for a transport that frames events in its own way.
"""

from collections.abc import Sequence
from typing import Protocol

from starlette.types import Message

from schemas.errors import RejoinderError

Headers = Sequence[tuple[bytes, bytes]]


class Transport(Protocol):
    """Turns what is to be told of one response into ASGI messages. An instance serves one answer."""

    def head(self) -> Sequence[Message]:
        """What comes before all events."""
        ...

    def events(self, frames: bytes) -> Sequence[Message]:
        """The events in `frames`, which are whole and in order. Called for each chunk that is there: what
        other readers get as well is not copied.
        """
        ...

    def keep_alive(self) -> Sequence[Message]:
        """What breaks a silence; none when silence needs no breaking."""
        ...

    def end(self) -> Sequence[Message]:
        """What comes after the terminal event."""
        ...

    def error(self, error: RejoinderError) -> Sequence[Message]:
        """What tells the client that no terminal event comes, and why. None: its connection is reset."""
        ...


class Body:
    """The body of an HTTP answer: bytes as they come, and `pause` in silence. An answer that fails is reset,
    so that nobody takes it for whole (A-2).
    """

    def __init__(self, status: int = 200, headers: Headers = (), pause: bytes = b"") -> None:
        self._status = status
        self._headers = headers
        self._pause = [body(pause)] if pause else []

    def head(self) -> Sequence[Message]:
        """Status and headers."""
        start = {"type": "http.response.start", "status": self._status, "headers": list(self._headers)}
        return (start,)

    def events(self, frames: bytes) -> Sequence[Message]:
        """`frames` as they are."""
        return ({"type": "http.response.body", "body": frames, "more_body": True},)

    def keep_alive(self) -> Sequence[Message]:
        """`pause`."""
        return self._pause

    def end(self) -> Sequence[Message]:
        """The end of the body."""
        return (body(b"", more=False),)

    def error(self, error: RejoinderError) -> Sequence[Message]:  # noqa: ARG002 - nothing in a body says why
        """Nothing."""
        return ()


def body(data: bytes, *, more: bool = True) -> Message:
    """A piece of an HTTP answer's body; not `more` makes it the last."""
    return {"type": "http.response.body", "body": data, "more_body": more}
