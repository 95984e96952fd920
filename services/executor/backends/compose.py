"""Makes the Responses API's stream events of one output item, for backends whose upstream has others.

An `Item` knows its place and id and builds events around them. The run gives the `sequence_number`.
Shapes: the openai Python SDK's `types/responses`.
"""

from typing import Any, NamedTuple

from schemas.events import Event


class Item(NamedTuple):
    """An output item at `output_index`, with its id."""

    output_index: int
    id: str

    def added(self, item: dict[str, Any]) -> Event:
        """The item begins; `item` as far as it is known."""
        return {"type": "response.output_item.added", "output_index": self.output_index, "item": item}

    def done(self, item: dict[str, Any]) -> Event:
        """The item is whole."""
        return {"type": "response.output_item.done", "output_index": self.output_index, "item": item}

    def part_added(self, index: int, part: dict[str, Any]) -> Event:
        """A content part begins."""
        return {"type": "response.content_part.added", **self._at(index), "part": part}

    def part_done(self, index: int, part: dict[str, Any]) -> Event:
        """A content part is whole."""
        return {"type": "response.content_part.done", **self._at(index), "part": part}

    def delta(self, kind: str, index: int, delta: str, **more: Any) -> Event:
        """More of a content part; `kind` is `output_text`, `refusal` or `reasoning_text`."""
        return {"type": f"response.{kind}.delta", **self._at(index), "delta": delta, **more}

    def part_events(self, index: int, part: dict[str, Any]) -> list[Event]:
        """The events that end a streamed part: its kind's `done` and the part's."""
        kind = part["type"]
        said = {"refusal": part["refusal"]} if kind == "refusal" else {"text": part["text"]}
        more = {"logprobs": part.get("logprobs") or []} if kind == "output_text" else {}
        done = {"type": f"response.{kind}.done", **self._at(index), **said, **more}
        return [done, self.part_done(index, part)]

    def annotation_added(self, index: int, number: int, annotation: dict[str, Any]) -> Event:
        """The `number`th annotation of a text part."""
        kind = "response.output_text.annotation.added"
        return {"type": kind, **self._at(index), "annotation_index": number, "annotation": annotation}

    def call_delta(self, stream: str, delta: str) -> Event:
        """More of the input of a tool's call; `stream` is the type of its events without the last word."""
        at = {"item_id": self.id, "output_index": self.output_index}
        return {"type": f"{stream}.delta", **at, "delta": delta}

    def call_done(self, stream: str, said: dict[str, str]) -> Event:
        """The whole input of a tool's call, in the fields of its kind (`said`)."""
        return {"type": f"{stream}.done", "item_id": self.id, "output_index": self.output_index, **said}

    def _at(self, index: int) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.output_index, "content_index": index}


def text_part(text: str, logprobs: list[Any] | None = None) -> dict[str, Any]:
    """A content part of type `output_text`."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs or []}
