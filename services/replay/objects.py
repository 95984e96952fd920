"""Makes response objects of frames, even if the log has a value that cannot be read.

A foreign or broken value must not turn a read into an error. Id and status are known without it, and nearly
always the initial object is too.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from schemas.events import UNDECODABLE, response_in
from schemas.ids import ResponseId
from schemas.response import Object, running

UNREADABLE: Mapping[str, Any] = {
    "code": "server_error",
    "message": "The final object of this response cannot be read.",
    "type": "unreadable",
}
"""The `error` of a closed response whose terminal event cannot be read."""

_object = msgspec.json.Decoder(Object).decode


def first_object(frames: bytes) -> bytes:
    """The response object in the first of `frames`, the initial one; b"" if it cannot be read."""
    return _inside(frames[: frames.find(b"\n\n")])


def final_object(frames: bytes) -> bytes:
    """The response object in the last of `frames`, the terminal one; b"" if it cannot be read."""
    return _inside(frames)


def begun(initial: bytes, id: ResponseId, status: str, error: Mapping[str, Any] | None = None) -> bytes:
    """The initial object with another status, and without output; `error` replaces its own."""
    try:
        known = _object(initial)
    except UNDECODABLE:
        known = {"id": id, "object": "response", "error": None}
    shown = running(known, status)
    return msgspec.json.encode(shown if error is None else shown | {"error": error})


def _inside(frames: bytes) -> bytes:
    try:
        found = response_in(frames[frames.rindex(b"\ndata: ") + 7 :])
    except UNDECODABLE:
        return b""
    return found if found.startswith(b"{") else b""
