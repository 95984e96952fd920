"""The pieces of tool calls, as Chat Completions servers write them. Pure."""

from collections.abc import Collection
from typing import Any

import msgspec
from msgspec import Struct


class MalformedCallError(Exception):
    """A tool call is none: the text begins with a verb, the server is its subject."""


class Piece(Struct):
    """What one entry of `tool_calls` says; "" and None where it says nothing."""

    index: int | None
    id: str
    name: str
    arguments: str
    extras: dict[str, Any]

    @property
    def is_blank(self) -> bool:
        """Whether it brings no arguments."""
        return not self.arguments.strip()

    @property
    def begins(self) -> bool:
        """Whether arguments can begin with it."""
        return self.arguments.lstrip().startswith(("{", "["))


def listed(pieces: Any) -> list[Any]:
    """The entries of `tool_calls`, which may be one alone. Raises MalformedCallError."""
    if pieces is None:
        return []
    if isinstance(pieces, dict):
        return [pieces]
    if not isinstance(pieces, list):
        raise MalformedCallError("sent tool_calls that are not a list.")
    return pieces


def piece_of(given: Any, keep: Collection[str]) -> Piece:
    """What an entry says; of its other fields those named in `keep`. Raises MalformedCallError."""
    if given is None:
        return Piece(None, "", "", "", {})
    if not isinstance(given, dict):
        raise MalformedCallError("sent a tool call that is not a function's.")
    function = given.get("function")
    if function is None:  # some servers leave the object out and say its fields themselves
        function = {key: given[key] for key in ("name", "arguments") if key in given}
    if not isinstance(function, dict):
        raise MalformedCallError("sent a tool call that is not a function's.")
    name, id = function.get("name"), given.get("id")
    if name is not None and not isinstance(name, str):
        raise MalformedCallError("sent a tool call whose name is not a string.")
    extras: dict[str, Any] = {key: held[key] for held in (function, given) for key in keep if held.get(key)}
    return Piece(
        _index(given.get("index")),
        str(id) if isinstance(id, str | int) and not isinstance(id, bool) else "",
        name or "",
        _arguments(function.get("arguments")),
        extras,
    )


def _index(given: Any) -> int | None:
    if isinstance(given, str) and given.strip().isdecimal():
        return int(given)
    return int(given) if isinstance(given, int | float) and not isinstance(given, bool) else None


def _arguments(given: Any) -> str:
    """A piece of the arguments' JSON; some servers send the object that it stands for, whole."""
    match given:
        case None:
            return ""
        case str():
            return given
        case dict():
            return msgspec.json.encode(given).decode()
    raise MalformedCallError("sent a tool call whose arguments are neither a string nor an object.")
