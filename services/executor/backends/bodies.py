"""Reads the body of an answer as events: event stream, JSON, or JSON line by line (U-10). Pure.

The first byte that is not blank decides, not the content type: some servers stream under `text/plain`,
`application/json` or no type, and some send an error as JSON under `text/event-stream`.

    data: {…}            → an event stream, as `sse` reads it
    {…}⏎{…}⏎             → an event a line
    {…}, also over lines → one event, and [DONE]
"""

from collections.abc import Callable, Iterator

import msgspec

from services.executor.backends.sse_parser import (
    EventTooLarge,
    MayLeaveOut,
    ServerSentEvent,
    SseParser,
    whole_only,
)

DONE = ServerSentEvent("", b"[DONE]")
_BLANK = b" \t\r\n\xef\xbb\xbf"
_FIELDS = (b":", b"data", b"event", b"id", b"retry")
HEAD_BYTES = 4096
"""Bytes that are kept of any other body, for its words."""

_raw = msgspec.json.Decoder(msgspec.Raw).decode


class BodyReader:
    """Reads one body, chunk by chunk. `streams`: its content type is that of an event stream. An event, and a
    body that is one event, may take `max_bytes`.
    """

    def __init__(self, max_bytes: int, may_leave_out: MayLeaveOut = whole_only, *, streams: bool) -> None:
        self._max_bytes = max_bytes
        self._sse = SseParser(max_bytes, may_leave_out)
        self._streams = streams
        self._read: Callable[[bytes], Iterator[ServerSentEvent]] = self._first
        self._begun = b""
        self._pieces: list[bytes] = []
        self._size = 0

    @property
    def unread(self) -> bytes | None:
        """The beginning of a body that is none of these, b"" of an empty one; None if the body is read."""
        return None if self._streams or self._read not in (self._first, self._neither) else self._begun

    @property
    def is_whole(self) -> bool:
        """Whether the body is one value, and not a stream of events."""
        return self._read in (self._value, self._rest)

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """The events that `chunk` completes. Raises EventTooLarge after the events before the large one."""
        return self._read(chunk)

    def end(self) -> Iterator[ServerSentEvent]:
        """The events that the end of the body completes: JSON has no mark of its end."""
        if self._read == self._sse.feed:
            yield from self._sse.end()
        if self.is_whole or self._read == self._by_line:
            if rest := b"".join(self._pieces).strip(_BLANK):
                yield ServerSentEvent("", rest)
            yield DONE

    def _first(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        begun = self._begun + chunk
        head = begun.lstrip(_BLANK)
        if not head or (not self._streams and any(field.startswith(head) for field in _FIELDS)):
            self._begun = begun
        elif head[:1] in (b"{", b"["):
            self._read, self._begun = self._value, b""
            yield from self._value(begun)
        elif self._streams or head.startswith(_FIELDS):
            self._read, self._begun = self._sse.feed, b""
            yield from self._sse.feed(begun)
        else:
            self._read = self._neither
            yield from self._neither(chunk)

    def _value(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """Take a chunk of a value, until its first line shows that each line is a value."""
        self._keep(chunk)
        if b"\n" not in chunk:
            return
        text = b"".join(self._pieces).lstrip(_BLANK)
        first, _, rest = text.partition(b"\n")
        if not _is_value(first):
            self._read = self._rest
        elif rest.strip(_BLANK):
            self._read = self._by_line
            self._pieces, self._size = [], 0
            yield from self._by_line(text)

    def _rest(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        self._keep(chunk)
        return iter(())

    def _by_line(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            whole = b"".join((*self._pieces, line)).strip(_BLANK)
            self._pieces, self._size = [], 0
            if whole:
                yield ServerSentEvent("", whole)
        self._keep(rest)

    def _neither(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        self._begun = (self._begun + chunk)[:HEAD_BYTES]
        return iter(())

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._max_bytes:
            raise EventTooLarge(f"an answer is larger than {self._max_bytes} bytes")
        self._pieces.append(piece)


def _is_value(line: bytes) -> bool:
    try:
        _raw(line)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
