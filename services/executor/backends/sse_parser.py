"""Parses server-sent events: bytes in, events out, no I/O.

Lines end in CR, LF or CRLF. A chunk may end anywhere (within a CRLF, a UTF-8 character, the byte order mark).
Data may span lines; comments are passed over. An event that the stream's end cuts short is never yielded.
Source: the event stream section of the HTML standard; `id` and `retry` are not needed and left out.

Lax servers end events by a single line end, leave out the last empty line, write `error:` for `event: error`,
or break off with a bare object. The parser takes these too: in a stream that keeps to the standard they
cannot mean anything else (U-10).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

_BOM = b"\xef\xbb\xbf"
_BLANK = b"\n\n"
_EVENT, _DATA = b"event: ", b"data: "
HEAD_BYTES = 4096
"""Bytes kept of the beginning, and of the end, of an event that is left out: type and numbers come first."""
PATIENCE = 8
"""How many times larger than the bound an event that is left out may be: one without an end is refused."""


class ServerSentEvent(NamedTuple):
    """One event: its `event:` field ("" without one), and its data, lines joined by LF.

    `left_out`: the event was larger than the bound; `data` is its beginning, `tail` its end.
    """

    event: str
    data: bytes
    left_out: bool = False
    tail: bytes = b""


_ALIVE = frozenset({"ping", "pong", "heartbeat", "keepalive", "keep-alive", "keep_alive", "alive"})
_BEGINS = (b"event", b"data", b"error")
"""Fields that an event may begin with."""
_raw = msgspec.json.Decoder(msgspec.Raw).decode
_NOTHING = frozenset({b"", b"null", b'""', b"[]", b"{}"})


def is_alive(type: object) -> bool:
    """Whether an event of this type only says that its server is alive (U-9)."""
    return isinstance(type, str) and type.lower().rpartition(".")[2] in _ALIVE


def says_nothing(one: ServerSentEvent) -> bool:
    """Whether an event is a sign of life, by its name or because its data is empty."""
    return one.data.strip() in _NOTHING or is_alive(one.event)


MayLeaveOut = Callable[[ServerSentEvent], bool]
"""Says whether an event may be left out, by its beginning."""


def whole_only(_: ServerSentEvent) -> bool:
    """Let no event be left out."""
    return False


class EventTooLarge(Exception):
    """An event is larger than the parser's bound. The parser cannot be used after that."""


class SseParser:
    """Parses one stream, chunk by chunk. An event's data and open line may take `max_bytes` together. For a
    larger event `may_leave_out` decides whether the stream can go on without it.
    """

    def __init__(self, max_bytes: int, may_leave_out: MayLeaveOut = whole_only) -> None:
        self._max_bytes = max_bytes
        self._may_leave_out = may_leave_out
        self._unfinished: list[bytes] = []
        self._unfinished_size = 0
        self._line_size = 0
        """Bytes of the last whole line, with those that were not kept."""
        self._after_cr = False
        self._first_line = True
        self._clear()

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """The events that `chunk` completes. Raises EventTooLarge after the events before the large one.

        Events in the usual form take the short way, if they come whole.
        """
        begun, whole, rest = self._cut(chunk)
        if begun:
            yield from self._by_line(begun)
        for block in whole:
            one = _usual(block) if len(block) <= self._max_bytes else None
            if one is None:
                yield from self._by_line(block + _BLANK)
            else:
                yield one
        if rest:
            yield from self._by_line(rest)

    def _cut(self, chunk: bytes) -> tuple[bytes, list[bytes], bytes]:
        """`chunk` as the rest of what has begun, the whole blocks behind it, and the begin of another one."""
        if self._first_line or self._after_cr or b"\r" in chunk:
            return chunk, [], b""
        begun = 0
        if self._unfinished or self._data or self._event or self._left_out:
            begun = chunk.find(_BLANK) + len(_BLANK)
            if begun < len(_BLANK):
                return chunk, [], b""
        whole = chunk.rfind(_BLANK, begun)
        if whole < 0:
            return chunk[:begun], [], chunk[begun:]
        return chunk[:begun], chunk[begun:whole].split(_BLANK), chunk[whole + len(_BLANK) :]

    def _by_line(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        for line in self._lines(chunk):
            name, value = _name_and_value(line)
            if not line or (name in _BEGINS and self._is_object()):
                yield from self._taken()
            self._field(name, value, len(line))

    def end(self) -> Iterator[ServerSentEvent]:
        """The last event, if only the line end behind it is missing. A cut object is not yielded."""
        if self._unfinished and not self._left_out:
            line = self._without_bom(b"".join(self._unfinished))
            name, value = _name_and_value(line)
            if name in _BEGINS and self._is_object():
                yield from self._taken()
            self._line_size = self._unfinished_size
            self._field(name, value, len(line))
        if self._is_object() or self._data == [b"[DONE]"]:
            yield from self._taken()

    def _taken(self) -> Iterator[ServerSentEvent]:
        event, data, left_out, tail = self._event, self._data, self._left_out, self._tail
        self._clear()
        if data:
            yield ServerSentEvent(event, b"\n".join(data), left_out, tail)

    def _is_object(self) -> bool:
        """Whether the data so far is one line with a whole object."""
        return len(self._data) == 1 and not self._left_out and is_whole_object(self._data[0])

    def _clear(self) -> None:
        self._event = ""
        self._data: list[bytes] = []
        self._data_size = 0
        self._left_out = False
        self._tail = b""

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that `chunk` completes. The pieces of a line are joined once, so the cost is linear."""
        *lines, rest = self._with_lf(chunk).split(b"\n")
        for line in lines:
            self._piece(line)
            whole = b"".join(self._unfinished) if len(self._unfinished) > 1 else self._unfinished[0]
            self._unfinished.clear()
            self._line_size, self._unfinished_size = self._unfinished_size, 0
            yield self._without_bom(whole)
        if rest:
            self._piece(rest)

    def _piece(self, piece: bytes) -> None:
        """Take more of the open line. Of an event that is left out only the beginning is kept."""
        self._unfinished_size += len(piece)
        if self._left_out:
            self._tail = (self._tail + piece[-HEAD_BYTES:])[-HEAD_BYTES:]
        size = self._data_size + self._unfinished_size
        if size > self._max_bytes and not self._left_out:
            self._leave_out(b"".join((*self._unfinished, piece)))
        elif size > self._max_bytes * PATIENCE:
            raise self._too_large()
        elif not self._left_out or not self._unfinished:
            self._unfinished.append(piece[:HEAD_BYTES] if self._left_out else piece)

    def _leave_out(self, line: bytes) -> None:
        """Keep only the beginning of an event that outgrew the bound, if it may be left out; else raise."""
        _, value = _name_and_value(line)
        head = (b"\n".join(self._data) or value)[:HEAD_BYTES]
        self._left_out = self._may_leave_out(ServerSentEvent(self._event, head, left_out=True))
        if not self._left_out:
            raise self._too_large()
        self._unfinished = [line[:HEAD_BYTES]]
        self._tail = line[-HEAD_BYTES:]
        self._data = [head] if self._data else []

    def _too_large(self) -> EventTooLarge:
        return EventTooLarge(f"an event is larger than {self._max_bytes} bytes")

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

    def _field(self, name: bytes, value: bytes, line_bytes: int) -> None:
        if name in (b"data", b"error"):
            self._data_size += self._line_size - line_bytes + len(value)
            if not (self._left_out and self._data):
                self._data.append(value)
        if name == b"error":
            self._event = "error"
        elif name == b"event":
            self._event = value.decode(errors="replace")


def is_whole_object(line: bytes) -> bool:
    """Whether `line` is one whole JSON object."""
    if not line.startswith(b"{") or not line.rstrip().endswith(b"}"):
        return False
    try:
        _raw(line)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _usual(block: bytes) -> ServerSentEvent | None:
    """The event of a block in the usual form, a line of data behind at most a line with its type."""
    head, found, data = block.partition(_DATA)
    if not found or b"\n" in data:
        return None
    if not head:
        return ServerSentEvent("", data)
    if not head.startswith(_EVENT) or head.find(b"\n") != len(head) - 1:
        return None
    return ServerSentEvent(head[len(_EVENT) : -1].decode(errors="replace"), data)


def _name_and_value(line: bytes) -> tuple[bytes, bytes]:
    if line.startswith(b"{"):
        return b"data", line
    name, _, value = line.partition(b":")
    return name, value.removeprefix(b" ")
