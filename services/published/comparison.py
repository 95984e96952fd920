"""Compares two schemas: whom a change breaks depends on the side that they are of.

    RECORD    a reader of before meets records of now, and one of now records of before, which a topic keeps
    ANSWER    a caller of before meets answers of now: nothing may be gone, or come that it cannot know
    REQUEST   a caller of before sends what it did then: nothing that was taken may be refused

Objects are open: a member more is new, and breaks nothing. An open list (`examples`) may grow; a closed one
(`enum`, `const`) may not. A change of a keyword that is not known here breaks, until somebody thinks of it.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from msgspec import Struct

from schemas.checks import Shape

Object = Mapping[str, Any]
NONE: Object = {}


class Side(Enum):
    """Whose schema it is."""

    RECORD = "record"
    ANSWER = "answer"
    REQUEST = "request"


class Change(Struct, frozen=True, order=True):
    """A difference that somebody may see. `where` is its place, from the document's name on."""

    where: str
    what: str
    breaks: bool = False

    def __str__(self) -> str:
        return f"{'breaks' if self.breaks else 'new'}: {self.where}: {self.what}"


_SAID = frozenset({"description", "title", "summary", "$comment", "$id", "$schema", "default", "deprecated"})
"""Keywords that say something to people: they may change."""
_OWN_RULE = frozenset({"$defs", "$ref", "type", "anyOf", "enum", "const", "properties", "required", "allOf"})
_LEAST = frozenset({"minimum", "minLength", "minItems", "exclusiveMinimum", "minProperties"})
_MOST = frozenset({"maximum", "maxLength", "maxItems", "exclusiveMaximum", "maxProperties"})
_WITHIN = frozenset({"items", "additionalProperties", "propertyNames", "then", "else", "contentSchema"})
"""Keywords whose value is a schema."""
_JSON_TYPES: Mapping[type, str] = {str: "string", bool: "boolean", int: "integer", type(None): "null"}


class Comparison:
    """Compares schemas of one `side` in two documents, which have what the schemas refer to."""

    def __init__(self, before: Object, after: Object, side: Side) -> None:
        self._before = before
        self._after = after
        self._side = side
        self._under_way: set[tuple[str, str]] = set()

    def of(self, where: str, before: Any, after: Any) -> Iterator[Change]:
        """The changes from one schema to another."""
        if isinstance(before, bool) or isinstance(after, bool):
            yield from self._unless_open(where, before, after)
            return
        pair = str(before.get("$ref")), str(after.get("$ref"))
        if pair in self._under_way:
            return
        recursive = {pair} - {("None", "None")}
        self._under_way |= recursive
        old, new = _branches(before, self._before), _branches(after, self._after)
        for kind in sorted(old.keys() | new.keys()):
            if kind not in old:
                if not (kind == "integer" and "number" in old):
                    yield self._wider(where, f"may be {kind}")
            elif kind not in new:
                if not (kind == "integer" and "number" in new):
                    yield self._narrower(where, f"may not be {kind} any more")
            else:
                yield from self._branch(where, old[kind], new[kind])
        self._under_way -= recursive

    def header(self, where: str, before: Object, after: Object) -> Iterator[Change]:
        """The changes from one header of an answer to another."""
        old, new = resolved(before, self._before), resolved(after, self._after)
        if old.get("required") and not new.get("required"):
            yield Change(where, "may be missing now", breaks=True)
        yield from self.of(where, old["schema"], new["schema"])

    def _branch(self, where: str, old: Shape, new: Shape) -> Iterator[Change]:
        """The changes of what is of one type."""
        yield from self._closed(where, old, new)
        yield from self._members(where, old, new)
        yield from self._lists(where, old, new)
        for word in sorted((old.keys() | new.keys()) - _SAID - _OWN_RULE):
            before, after = old.get(word), new.get(word)
            # Two equal schemas may refer to what has changed.
            if word in _WITHIN or (before != after and not word.startswith("x-")):
                yield from self._keyword(where, word, before, after)

    def _wider(self, where: str, what: str) -> Change:
        """More is let pass than before: whoever reads may not know it."""
        return Change(where, what, breaks=self._side is not Side.REQUEST)

    def _narrower(self, where: str, what: str) -> Change:
        """Less is let pass than before: what a caller sends, or stands in a topic, may not fit any more."""
        return Change(where, what, breaks=self._side is not Side.ANSWER)

    def _unless_open(self, where: str, before: Any, after: Any) -> Iterator[Change]:
        was_open, is_open = before in (True, {}), after in (True, {})
        if is_open and not was_open:
            yield self._wider(where, "may be anything now")
        elif was_open and not is_open:
            yield self._narrower(where, "may not be anything any more")
        elif before != after:
            yield Change(where, "is another schema", breaks=True)

    def _closed(self, where: str, old: Shape, new: Shape) -> Iterator[Change]:
        before, after = _values(old), _values(new)
        if before is None and after is not None:
            yield self._narrower(where, "is a closed list now")
        elif before is not None and after is None:
            yield self._wider(where, "is no closed list any more")
        else:
            for value in _without(after, before):
                yield self._wider(where, f"may be {value!r}")
            for value in _without(before, after):
                yield self._narrower(where, f"may not be {value!r} any more")

    def _members(self, where: str, old: Shape, new: Shape) -> Iterator[Change]:
        before, after = old.get("properties", NONE), new.get("properties", NONE)
        for name in sorted(before.keys() | after.keys()):
            if name not in after:
                yield Change(f"{where}.{name}", "is gone", breaks=True)
            elif name not in before:
                yield Change(f"{where}.{name}", "is new")
            else:
                yield from self.of(f"{where}.{name}", before[name], after[name])
        required, needed = set(old.get("required", ())), set(new.get("required", ()))
        for name in needed - required:
            yield self._narrower(f"{where}.{name}", "is required now: who wrote before did not have it")
        for name in required - needed:
            yield self._wider(f"{where}.{name}", "may be missing now")

    def _lists(self, where: str, old: Shape, new: Shape) -> Iterator[Change]:
        """Schemas that hold together (`allOf`), in their order."""
        before, after = old.get("allOf", []), new.get("allOf", [])
        if len(before) > len(after):
            yield self._wider(where, "less has to hold")
        if len(after) > len(before):
            yield self._narrower(where, "more has to hold")
        for place, (one, other) in enumerate(zip(before, after, strict=False)):
            yield from self.of(f"{where}.allOf[{place}]", one, other)

    def _keyword(self, where: str, word: str, before: Any, after: Any) -> Iterator[Change]:
        if word == "examples":
            yield from self._examples(where, before or [], after or [])
        elif word in _WITHIN:
            old, new = (True if shape is None else shape for shape in (before, after))
            yield from self.of(f"{where}.{word}", old, new)
        elif before is None:
            yield self._narrower(where, f"has {word} {after!r} now")
        elif after is None:
            yield self._wider(where, f"has no {word} {before!r} any more")
        elif word in _LEAST | _MOST:
            what = f"{word} is {after}, was {before}"
            loosened = (after < before) == (word in _LEAST)
            yield self._wider(where, what) if loosened else self._narrower(where, what)
        else:
            yield Change(where, f"{word} is {after!r}, was {before!r}", breaks=True)

    def _examples(self, where: str, before: list[Any], after: list[Any]) -> Iterator[Change]:
        """The values of an open list: whoever reads has to bear others."""
        for value in _without(after, before):
            yield Change(where, f"may be {value!r}, of an open list")
        for value in _without(before, after):
            yield Change(where, f"is not {value!r} any more, of an open list")


def _branches(shape: Shape, document: Object) -> dict[str, Shape]:
    """The alternatives in a schema by their type, each of one: those of `anyOf`, and each type of a list."""
    found: dict[str, Shape] = {}
    whole = resolved(shape, document)
    siblings = {word: part for word, part in whole.items() if word != "anyOf"}
    for branch in whole.get("anyOf", [NONE]):
        one = {**siblings, **resolved(branch, document)}
        for kind in _types_of(one):
            place = sum(known.partition("#")[0] == kind for known in found)
            found[f"{kind}#{place}" if place else kind] = {**one, "type": kind}
    return found


def resolved(shape: Object, document: Object) -> Shape:
    """`shape` with what it refers to in its place."""
    while "$ref" in shape:
        target: Any = document
        for part in shape["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        shape = {**target, **{word: value for word, value in shape.items() if word != "$ref"}}
    return dict(shape)


def _types_of(shape: Shape) -> list[str]:
    given = shape.get("type")
    if given is None:
        values = _values(shape)
        return (
            sorted({_JSON_TYPES.get(type(value), "anything") for value in values}) if values else ["anything"]
        )
    return [given] if isinstance(given, str) else list(given)


def _values(shape: Shape) -> list[Any] | None:
    """The values of a closed list; None if there is none."""
    if "const" in shape:
        return [shape["const"]]
    found: list[Any] | None = shape.get("enum")
    return found


def _without(these: list[Any] | None, those: list[Any] | None) -> list[Any]:
    return [value for value in these or [] if value not in (those or [])]
