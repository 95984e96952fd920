"""The output items of a Chat Completions stream while they are open. Pure.

    texts → `Message`, `Reasoning`, each with content parts      a tool's call → `ToolCall`

An item makes its own events, when it is added, when it grows and when it is done.
"""

from collections.abc import Callable, Iterator
from typing import Any

from schemas.events import Event
from schemas.ids import ResponseId, item_id
from services.executor.backends.chat.tools import Tool
from services.executor.backends.compose import Item, text_part

Annotation = dict[str, Any]


class OutputItem:
    """An output item under way."""

    def __init__(self, prefix: str, response: ResponseId, index: int) -> None:
        self.place = Item(index, item_id(prefix, response, index))
        self.extras: dict[str, Any] = {}
        """Fields that the server wants back with the item (U-58)."""

    def begin(self) -> Iterator[Event]:
        """The event that adds the item."""
        yield self.place.added(self.item("in_progress"))

    def end(self, status: str) -> Iterator[Event]:
        """The events that end the item with `status`."""
        yield self.place.done(self.item(status))

    def item(self, status: str) -> dict[str, Any]:
        """The item as far as it has come."""
        raise NotImplementedError


class TextItem(OutputItem):
    """An item of content parts."""

    def __init__(self, prefix: str, response: ResponseId, index: int) -> None:
        super().__init__(prefix, response, index)
        self.parts: list[dict[str, Any]] = []
        self._pieces: list[str] = []
        self._logprobs: list[Any] = []
        self._annotations: list[Annotation] = []

    def add(self, kind: str, delta: str, logprobs: list[Any]) -> Iterator[Event]:
        """The events of more text of type `kind`, in a new part if the last one is of another type."""
        if not self.parts or self.parts[-1]["type"] != kind:
            yield from self._end_part()
            self.parts.append(_empty_part(kind))
            yield self.place.part_added(len(self.parts) - 1, _empty_part(kind))
        self._pieces.append(delta)
        self._logprobs += logprobs
        more = {"logprobs": logprobs} if kind == "output_text" else {}
        yield self.place.delta(kind, len(self.parts) - 1, delta, **more)

    def more(self, text: str) -> Event:
        """The event of more of the open text; there must be one (`has_text`)."""
        self._pieces.append(text)
        return self.place.delta("output_text", len(self.parts) - 1, text, logprobs=[])

    def end(self, status: str) -> Iterator[Event]:
        """The events that end the last part and the item."""
        yield from self._end_part()
        yield from super().end(status)

    def annotate(self, annotation: Annotation) -> Iterator[Event]:
        """Annotate the open text; there must be one (`has_text`)."""
        self._annotations.append(annotation)
        number = len(self._annotations) - 1
        yield self.place.annotation_added(len(self.parts) - 1, number, dict(annotation))

    @property
    def has_text(self) -> bool:
        """Whether a text is open."""
        return bool(self.parts) and self.parts[-1]["type"] == "output_text"

    def _end_part(self) -> Iterator[Event]:
        if not self.parts:
            return
        part, text = self.parts[-1], "".join(self._pieces)
        if self.has_text:
            for annotation in self._cited(text):
                yield from self.annotate(annotation)
            part["logprobs"], part["annotations"] = self._logprobs, self._annotations
        part["refusal" if part["type"] == "refusal" else "text"] = text
        self._pieces, self._logprobs, self._annotations = [], [], []
        yield from self.place.part_events(len(self.parts) - 1, dict(part))

    def _cited(self, _text: str) -> list[Annotation]:
        """The annotations of a whole text."""
        return []


class Message(TextItem):
    """A message of the model. `cited` returns the annotations of a whole text."""

    def __init__(self, response: ResponseId, index: int, cited: Callable[[str], list[Annotation]]) -> None:
        super().__init__("msg", response, index)
        self._cite = cited

    def _cited(self, text: str) -> list[Annotation]:
        return self._cite(text)

    def item(self, status: str) -> dict[str, Any]:
        """The item, without content while it is in progress."""
        content = [] if status == "in_progress" else self.parts
        return {
            "id": self.place.id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
            **self.extras,
        }


class Reasoning(TextItem):
    """Thoughts of the model."""

    def __init__(self, response: ResponseId, index: int) -> None:
        super().__init__("rs", response, index)

    def item(self, status: str) -> dict[str, Any]:
        """The item, without content while it is in progress."""
        content = [] if status == "in_progress" else self.parts
        return {
            "id": self.place.id,
            "type": "reasoning",
            "status": status,
            "summary": [],
            "content": content,
            **({} if status == "in_progress" else self.extras),
        }


class ToolCall(OutputItem):
    """A call of a `tool`. Its name must be known before it can be added."""

    def __init__(self, response: ResponseId, index: int, call_id: str, tool: Tool) -> None:
        super().__init__(tool.prefix, response, index)
        self._call_id = call_id or item_id("call", response, index)
        self._tool = tool
        self._reader = tool.reader()
        self._begun = self._ended = False

    def add(self, arguments: str) -> Iterator[Event]:
        """The events of more of the arguments, as JSON."""
        self._begun = True
        yield from self._tell(self._reader.add(arguments))

    def end_text(self, status: str = "completed") -> Iterator[Event]:
        """The events that end the input of the call. Harmless when repeated."""
        if self._ended:
            return
        self._ended = True
        if self._begun or status == "completed":
            yield from self._tell(self._reader.end())
        if self._tool.stream:
            named = {"name": self._tool.name} if self._tool.kind == "function" else {}
            said = {self._tool.said: self._reader.said}
            yield self.place.call_done(self._tool.stream, named | said)

    def end(self, status: str) -> Iterator[Event]:
        """The events that end the input and the item."""
        yield from self.end_text(status)
        yield from super().end(status)

    def item(self, status: str) -> dict[str, Any]:
        """The item of the tool's kind."""
        return self._tool.item(self.place.id, self._call_id, self._reader.said, status) | self.extras

    def _tell(self, text: str) -> Iterator[Event]:
        if text and self._tool.stream:
            yield self.place.call_delta(self._tool.stream, text)


def _empty_part(kind: str) -> dict[str, Any]:
    match kind:
        case "output_text":
            return text_part("")
        case "refusal":
            return {"type": "refusal", "refusal": ""}
        case _:
            return {"type": kind, "text": ""}
