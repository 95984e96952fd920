"""Reads the pieces of tool calls, as Chat Completions servers write them. Pure."""

from collections.abc import Collection
from typing import Any

import msgspec
from msgspec import Struct


class MalformedCallError(Exception):
    """A tool call cannot be read. The message begins with a verb; the server is its subject."""


class Piece(Struct):
    """One entry of `tool_calls`; "" and None for what it does not have."""

    index: int | None
    id: str
    name: str
    arguments: str
    extras: dict[str, Any]

    @property
    def is_blank(self) -> bool:
        """Whether the piece has no arguments."""
        return not self.arguments.strip()

    @property
    def begins(self) -> bool:
        """Whether arguments can begin with the piece."""
        return self.arguments.lstrip().startswith(("{", "["))


def listed(pieces: Any) -> list[Any]:
    """The entries of `tool_calls`, which may be a single object. Raises MalformedCallError."""
    if pieces is None:
        return []
    if isinstance(pieces, dict):
        return [pieces]
    if not isinstance(pieces, list):
        raise MalformedCallError("sent tool_calls that are not a list.")
    return pieces


def piece_of(given: Any, keep: Collection[str]) -> Piece:
    """The piece in an entry; of its other fields those that `keep` names. Raises MalformedCallError."""
    if given is None:
        return Piece(None, "", "", "", {})
    if not isinstance(given, dict):
        raise MalformedCallError("sent a tool call that is not a function's.")
    function = given.get("function")
    if function is None:  # some servers leave the object out and have its fields beside
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
    """A piece of the arguments' JSON. Some servers send the whole arguments as an object instead."""
    match given:
        case None:
            return ""
        case str():
            return given
        case dict():
            return msgspec.json.encode(given).decode()
    raise MalformedCallError("sent a tool call whose arguments are neither a string nor an object.")
