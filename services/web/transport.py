"""Transports: how the events of a response go over a wire.

`replay.Replay.chunks` yields whole SSE frames, encoded once for all readers of a response. A `Transport`
turns them into the ASGI messages of one answer. `stream.Stream` sends these, keeps the times, waits for a
slow client, drops one that takes nothing, and notices when a client goes.

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
    """Turns the events of one response into ASGI messages. An instance serves one answer."""

    def head(self) -> Sequence[Message]:
        """The messages before all events."""
        ...

    def events(self, frames: bytes) -> Sequence[Message]:
        """The messages for the events in `frames`, which are whole and in order. Called for each chunk. It
        should not copy `frames`: other readers get the same bytes.
        """
        ...

    def keep_alive(self) -> Sequence[Message]:
        """The messages that break a silence; none if the transport sends nothing in silence."""
        ...

    def end(self) -> Sequence[Message]:
        """The messages after the terminal event."""
        ...

    def error(self, error: RejoinderError) -> Sequence[Message]:
        """The messages that tell the client that no terminal event comes, and why. Without any the stream
        resets the connection.
        """
        ...


class Body:
    """The body of an HTTP answer: bytes as they come, and `pause` in silence. It cannot tell an error: the
    stream resets the connection then, so that no client takes the answer for whole (A-2).
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
    """A piece of an HTTP answer's body: the last one, unless there is `more`."""
    return {"type": "http.response.body", "body": data, "more_body": more}
