"""Reads the texts of a delta, or of a message, by kind, and its thoughts. Pure.

    content, refusal → (kind, text) in their order      reasoning, thinking, reasoning_details, … → thoughts

Thoughts have many names (U-50). A server that sends two of them sends the same text twice, so the first name
that had a text is read. The others are compared with it, for text that it leaves out.
"""

from collections.abc import Iterator
from typing import Any

from services.executor.backends.chat.citations import CITING

_TEXTS = ("text", "output_text")
_BESIDE = ("reference", "redacted_thinking")
"""Parts without words: sources of the words beside them, and thoughts that are withheld."""
UNSAID = "sent content that is neither text, a refusal nor thoughts."

_THOUGHTS = (
    "reasoning_content",
    "reasoning",
    "reasoning_text",
    "thinking",
    "thinking_content",
    "thoughts",
    "thought",
    "thinking_blocks",
    "reasoning_details",
)
"""Fields in which servers have thoughts; those with the bare text come first."""
_THOUGHT_NAMES = frozenset(_THOUGHTS)
_HELD_IN = ("text", "thinking", "content", "reasoning", "summary", "reasoning_content")
"""Fields of an object of thoughts that hold its text."""
TAG, END_TAG = "<thought>", "</thought>"
"""Tags around thoughts in content that Gemini marks as thought. The end tag may stand before the answer."""
KEPT = ("reasoning_details", "thinking_blocks")
"""Lists of thoughts with signatures, which a server wants back as they were (U-58)."""
_GROWING = ("text", "thinking", "summary")
"""Fields of a kept thought that come in pieces."""


_COUNTS = frozenset({"usage", "x_groq"})
_OF_CHUNKS = _COUNTS | CITING
_OF_CHOICES = _OF_CHUNKS | {"index", "message", "logprobs"}
_OF_DELTAS = (
    CITING | _THOUGHT_NAMES | {"refusal", "tool_calls", "function_call", "audio", "images", "extra_content"}
)
_NO_REASON = (None, "")


class UnsaidError(Exception):
    """No event can carry a part of a delta. The message begins with a verb; the server is its subject."""


def parts_of(said: Any, kind: str) -> Iterator[tuple[str, str]]:
    """Kind and text of each part in a field. A text is a part of `kind`; some servers send a list, which may
    have refusals and thoughts. Raises UnsaidError.
    """
    match said:
        case None | "":
            pass
        case str():
            yield kind, said
        case list():
            for part in said:
                yield from parts_of(part, kind)
        case {"type": "refusal", "refusal": refused}:
            yield from parts_of(refused, "refusal")
        case {"type": "thinking" | "reasoning", **held}:
            yield from (("reasoning_text", text) for text in _texts(held))
        case {"text": text} if kind == "reasoning_text" or said.get("type", "text") in _TEXTS:
            yield from parts_of(text, kind)
        case {"type": type} if type in _BESIDE:
            pass
        case _:
            raise UnsaidError(UNSAID)


def usual_text(chunk: dict[str, Any], beside: frozenset[str]) -> str | None:
    """The text of a chunk in the usual form, which says nothing but more text of its one choice; None of any
    other chunk. `beside` are further fields that a delta in the usual form has not.
    """
    choices = chunk.get("choices")
    if choices.__class__ is not list or len(choices) != 1 or _says(chunk, _OF_CHUNKS):
        return None
    choice = choices[0]
    if choice.__class__ is not dict or choice.get("finish_reason") not in _NO_REASON:
        return None
    delta = choice.get("delta")
    if delta.__class__ is not dict or _says(choice, _OF_CHOICES) or _says(delta, _OF_DELTAS):
        return None
    text = delta.get("content")
    return text if text.__class__ is str and text and not _says(delta, beside) else None


def _says(holder: dict[str, Any], names: frozenset[str]) -> bool:
    return not names.isdisjoint(holder) and any(holder[name] for name in names.intersection(holder))


def thoughts_of(delta: dict[str, Any]) -> dict[str, str]:
    """The thoughts in `delta`, by their field, without empty ones. Raises UnsaidError."""
    if _THOUGHT_NAMES.isdisjoint(delta):
        return {}
    found = {name: "".join(_texts(delta.get(name))) for name in _THOUGHTS}
    return {name: text for name, text in found.items() if text}


class Thoughts:
    """The thoughts of one stream: the same text under several names is told once."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._size = 0
        self._source = ""
        self._read: dict[str, int] = {}
        """By field, how many characters of the told text that field has had as well."""
        self._kept: dict[str, list[Any]] = {}
        """By field, the thoughts that the server wants back."""

    def take(self, found: dict[str, str]) -> str:
        """Take the thoughts of one delta, by field. Returns the new text in them."""
        if not found:
            return ""
        self._source = self._source or next(iter(found))
        new, before = found.get(self._source, ""), self._size
        if new:
            self._tell(new)
        for name, text in found.items():
            if text == new and self._read.get(name, 0) == before:
                self._read[name] = self._size  # the usual case: the same piece under both names
            elif name != self._source:
                rest = self._follow(name, text)
                if not new:
                    self._tell(rest)
                    new = rest
        return new

    def keep(self, delta: dict[str, Any]) -> None:
        """Keep the thoughts in `delta` that the server wants back."""
        if _THOUGHT_NAMES.isdisjoint(delta):
            return
        for name in KEPT:
            given = delta.get(name)
            for block in given if isinstance(given, list) else ():
                if isinstance(block, dict):
                    _merge(self._kept.setdefault(name, []), block)

    @property
    def are_sealed(self) -> bool:
        """Whether the kept thoughts have a signature or encrypted data."""
        blocks = [block for blocks in self._kept.values() for block in blocks]
        return any(block.get(key) for block in blocks for key in ("signature", "data"))

    def taken(self) -> dict[str, list[Any]]:
        """The thoughts that were kept since the last call."""
        kept, self._kept = self._kept, {}
        return {name: blocks for name, blocks in kept.items() if blocks}

    def _tell(self, text: str) -> None:
        self._said.append(text)
        self._size += len(text)

    def _follow(self, name: str, text: str) -> str:
        """The text in another field than the source that was not told yet."""
        said = "".join(self._said)
        self._said = [said]
        at = self._read.get(name, 0)
        ahead = said[at : at + len(text)]
        same = text.startswith(ahead)
        rest = text[len(ahead) :] if same else text
        self._read[name] = (at if same else len(said)) + len(text)
        return rest


def _texts(held: Any) -> Iterator[str]:
    """The texts of a field of thoughts. A flag, a number or an encrypted thought has none."""
    match held:
        case str():
            yield held
        case list():
            for part in held:
                yield from _texts(part)
        case dict():
            texts = [held[name] for name in _HELD_IN if isinstance(held.get(name), str | list)]
            if texts:
                yield from _texts(texts[0])
            elif not isinstance(held.get("type"), str):
                raise UnsaidError(UNSAID)


def _merge(blocks: list[Any], block: dict[str, Any]) -> None:
    """Add a piece of a thought to the last one of its type and index, unless both are whole."""
    for one in reversed(blocks):
        if one.get("type") == block.get("type") and one.get("index") == block.get("index"):
            break
    else:
        blocks.append({key: value for key, value in block.items() if value is not None})
        return
    if block.get("data") or (one.get("signature") and any(block.get(key) for key in _GROWING)):
        if block != one:
            blocks.append(dict(block))
        return
    for key, value in block.items():
        if key in _GROWING and isinstance(value, str) and isinstance(one.get(key), str):
            one[key] += value
        elif value is not None:
            one[key] = value
