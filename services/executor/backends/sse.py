"""Server-sent events as they come off a wire: bytes in, events out, no I/O.

Lines end in CR, LF or CRLF, a chunk may end anywhere (within a CRLF, a UTF-8 character, the byte order mark),
data may span lines, comments are passed over. An event that the stream's end cuts short is never handed out.
Source: the event stream section of the HTML standard; `id` and `retry` are of no use here and left out.
"""

from collections.abc import Iterator
from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"


class ServerSentEvent(NamedTuple):
    """One event: its `event:` field ("" without one), and its data, lines joined by LF."""

    event: str
    data: bytes


class EventTooLarge(Exception):
    """An event is larger than the parser's bound; the parser is of no use after it."""


class SseParser:
    """Parses one stream, chunk by chunk. An event's data and open line may take `max_bytes` together."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._unfinished: list[bytes] = []
        self._unfinished_size = 0
        self._after_cr = False
        self._first_line = True
        self._clear()

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """The events that `chunk` completes. Raises EventTooLarge after the events before the large one."""
        for line in self._lines(chunk):
            if line:
                self._field(line)
                continue
            event, data = self._event, self._data
            self._clear()
            if data:
                yield ServerSentEvent(event, b"\n".join(data))

    def _clear(self) -> None:
        self._event = ""
        self._data: list[bytes] = []
        self._data_size = 0

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that `chunk` completes; pieces of one are joined only once, so the cost stays linear."""
        *lines, rest = self._with_lf(chunk).split(b"\n")
        for line in lines:
            whole = b"".join((*self._unfinished, line)) if self._unfinished else line
            self._unfinished.clear()
            self._unfinished_size = 0
            self._check(len(whole))
            yield self._without_bom(whole)
        if rest:
            self._unfinished.append(rest)
            self._unfinished_size += len(rest)
            self._check(self._unfinished_size)

    def _with_lf(self, chunk: bytes) -> bytes:
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in chunk else chunk

    def _without_bom(self, line: bytes) -> bytes:
        if self._first_line:
            self._first_line = False
            return line.removeprefix(_BOM)
        return line

    def _check(self, line_size: int) -> None:
        if self._data_size + line_size > self._max_bytes:
            raise EventTooLarge(f"an event is larger than {self._max_bytes} bytes")

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._data_size += len(value)
        elif name == b"event":
            self._event = value.removeprefix(b" ").decode(errors="replace")
