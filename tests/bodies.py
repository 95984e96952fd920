"""Request bodies of every shape: a process must survive each of them, and quickly.

Each shape is a function from a size in bytes to a body of about that size. A shape within the bounds of a
request has its largest form here, one beyond them the form that costs most to refuse.
"""

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from schemas.errors import ApiError
from schemas.request import MAX_VALUES
from schemas.steps import Steps
from tests.steady import slowness

Shape = Callable[[int], bytes]


def _body(field: bytes, value: bytes) -> bytes:
    return b'{"model":"echo","background":true,"input":"x","%b":%b}' % (field, value)


def _list(element: bytes, most: int = MAX_VALUES) -> Callable[[int], bytes]:
    """As many `element`s as fit, `most` at most."""
    return lambda size: b"[" + b",".join([element] * min(most, size // (len(element) + 1))) + b"]"


def _nested(opening: bytes, core: bytes, closing: bytes, levels: int) -> bytes:
    return opening * levels + core + closing * levels


def _members(count: int, *, sort: bool, length: int = 12) -> bytes:
    names = [f"{number:0{length}d}" for number in range(count)]
    if not sort:
        random.Random(1).shuffle(names)
    return b"{" + b",".join(b'"%b":1' % name.encode() for name in names) + b"}"


def _in(field: str, value: Callable[[int], bytes]) -> Shape:
    return lambda size: _body(field.encode(), value(size - 100))


def _string(unit: bytes) -> Callable[[int], bytes]:
    return lambda size: b'"' + unit * (size // len(unit)) + b'"'


def _items(item: bytes, values: int) -> Callable[[int], bytes]:
    return _list(item, MAX_VALUES // values - 20)


_MESSAGE = b'{"role":"user","content":[{"type":"input_text","text":"x"}]}'
_CALL = b'{"type":"function_call","call_id":"c","name":"n","arguments":"{}"}'
_IMAGE = b'[{"role":"user","content":[{"type":"input_image","image_url":"data:image/png;base64,%b"}]}]'
_HALF = MAX_VALUES // 2 - 10


def _behind(members: bytes) -> bytes:
    return b'{"model":"echo","background":true,"input":"x",' + members[1:]


FITTING: Mapping[str, Shape] = {
    "one string": _in("instructions", _string(b"A")),
    "commas in a string": _in("instructions", _string(b",[{:")),
    "line breaks": _in("instructions", _string(b"\\n")),
    "escaped quotes": _in("instructions", _string(b'\\"')),
    "backslashes": _in("instructions", _string(b"\\\\")),
    "control characters": _in("instructions", _string(b"\\u0001")),
    "escaped letters": _in("instructions", _string(b"\\u4e2d")),
    "escaped pairs": _in("instructions", _string(b"\\ud83d\\ude00")),
    "letters of three bytes": _in("instructions", _string("中".encode())),
    "letters of any size": _in("instructions", _string("aé中😀".encode())),
    "picture": _in("input", lambda size: _IMAGE % (b"A" * (size - 200))),
    "white space": _in("x", lambda size: b" " * size + b"1"),
    "sorted members": _in("x", lambda _: _members(MAX_VALUES - 10, sort=True)),
    "shuffled members": _in("x", lambda _: _members(MAX_VALUES - 10, sort=False)),
    "long names": _in("x", lambda size: _members(20_000, sort=False, length=size // 20_000 - 6)),
    "members of the body": lambda _: b'{"model":"echo","input":"x",' + _members(_HALF * 2, sort=False)[1:],
    "sorted members of the body": lambda _: _behind(_members(_HALF * 2, sort=True)),
    "sorted members before others": lambda _: (
        _members(_HALF * 2, sort=True)[:-1] + b',"model":"echo","input":"x"}'
    ),
    "members of an item": _in("input", lambda _: b'[{"type":"x",%b]' % _members(_HALF * 2, sort=True)[1:]),
    "members of a tool": _in("tools", lambda _: b'[{"type":"x",%b]' % _members(_HALF * 2, sort=True)[1:]),
    "members of a schema": _in(
        "text", lambda _: b'{"format":{"type":"json_schema","schema":%b}}' % _members(_HALF * 2, sort=False)
    ),
    "small objects": _in("x", _list(b'{"b":1,"a":1}', MAX_VALUES // 3 - 10)),
    "objects in objects": _in("x", _list(_nested(b'{"b":1,"a":', b"1", b"}", 80), MAX_VALUES // 200)),
    "numbers": _in("x", _list(b"1", MAX_VALUES - 10)),
    "floats": _in("x", _list(b"-0.1234567890123456789012345678", MAX_VALUES - 10)),
    "hard floats": _in("x", _list(b"1.7976931348623157e308", MAX_VALUES // 33 - 10)),
    "long numbers": _in("x", _list(b"9" * 4300, MAX_VALUES // 320)),
    "long floats": _in("x", _list(b"0." + b"3" * 700 + b"e-305", MAX_VALUES // 110)),
    "empty lists": _in("x", _list(b"[]", MAX_VALUES - 10)),
    "empty objects": _in("x", _list(b"{}", MAX_VALUES - 10)),
    "lists in lists": _in("x", _list(_nested(b"[", b"1", b"]", 95), MAX_VALUES // 96 - 10)),
    "empty strings": _in("include", _list(b'""', MAX_VALUES - 10)),
    "messages": _in("input", _items(_MESSAGE, 6)),
    "bare messages": _in("input", _items(b'{"role":"user","content":"x"}', 3)),
    "parts": _in("input", lambda size: b'[{"role":"user","content":%b}]' % _items(b'{"type":"x"}', 2)(size)),
    "calls": _in("input", _items(_CALL, 5)),
    "references": _in("input", _items(b'{"id":"msg_1"}', 2)),
    "items of one id": _in("input", _items(b'{"id":"a","type":"x"}', 3)),
    "typed items": _in("input", _items(b'{"type":"x"}', 2)),
    "tools": _in("tools", _items(b'{"type":"function","name":"f"}', 3)),
}
"""Shapes that fit."""

REFUSED: Mapping[str, Shape] = {
    "a million lists": _in("x", lambda size: _list(b"[]", size)(size)),
    "a million objects": _in("x", lambda size: _list(b"{}", size)(size)),
    "a million objects with a member": _in("x", lambda size: _list(b'{"":1}', size)(size)),
    "a million numbers": _in("x", lambda size: _list(b"1", size)(size)),
    "a million items": _in("input", lambda size: _list(b'{"type":"x"}', size)(size)),
    "a million references": _in("input", lambda size: _list(b'{"id":"x"}', size)(size)),
    "members without end": lambda size: b'{"model":"echo",' + _members(size // 17, sort=True)[1:],
    "one member again and again": lambda size: b'{"model":"echo"' + b',"":1' * (size // 5) + b"}",
    "hard floats without end": _in("x", lambda size: _list(b"5e-324", size)(size)),
    "one endless number": _in("x", lambda size: b"9" * size),
    "one endless float": _in("x", lambda size: b"0." + b"3" * size),
    "long numbers without end": _in("x", lambda size: _list(b"9" * 4300, size)(size)),
    "long floats without end": _in("x", lambda size: _list(b"0." + b"3" * 700 + b"e-305", size)(size)),
    "strings without end": _in("include", lambda size: _list(b'""', size)(size)),
    "too deep": lambda size: b"[" * size,
    "objects too deep": lambda size: b'{"":' * (size // 5),
    "no JSON": lambda size: b'{"' + b',"' * (size // 2),
    "nothing but commas": lambda size: b"," * size,
    "half an escape": lambda size: b'{"x":"' + b"\\" * (size | 1),
    "half a pair": lambda size: b'{"x":["\\ud800",' + b"1," * (size // 2) + b"1]}",
    "no UTF-8": lambda size: b'{"x":"' + b"\xff" * size + b'"}',
}
"""Shapes that do not fit, or are no request."""


def sorted_members(count: int, *, nested: bool = True) -> bytes:
    """A request with `count` sorted unknown members, in a field or at the top."""
    members = _members(count, sort=True)
    return _body(b"x", members) if nested else _behind(members)


def in_order(body: object) -> bytes:
    """`body` in the form whose hash has always been compared: the encoder's own, slow for many members."""
    return msgspec.json.encode(body, order="deterministic")


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector from the objects of the test run, as a service does with its own."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def seconds(step: Callable[[], object], enough: float) -> float:
    """CPU seconds of a call, as on a quiet machine: the first of three runs below `enough`, else the best."""
    return _first(lambda: _seconds(step), enough)


def longest(steps: Callable[[], Steps[Any]], enough: float) -> float:
    """CPU seconds of the longest step, as `seconds`. A step may end the others with a refusal."""
    return _first(lambda: _longest(steps()), enough)


def _first(measure: Callable[[], float], enough: float) -> float:
    best = math.inf
    for _ in range(3):
        best = min(best, measure() / slowness())
        if best < enough:
            break
    return best


def _seconds(step: Callable[[], object]) -> float:
    begun = time.process_time()
    step()
    return time.process_time() - begun


def _longest(steps: Steps[Any]) -> float:
    worst, ended = 0.0, False
    while not ended:
        begun = time.process_time()
        try:
            next(steps)
        except (StopIteration, ApiError):
            ended = True
        worst = max(worst, time.process_time() - begun)
    return worst
