"""What the Open Responses specification requires of response objects and stream events.

Source: the schema of openresponses.org, OpenAPI of 2026-04-24, as facts: which fields there must be, of which
type, and which values they take. Unknown fields are allowed there, and here. It says nothing of event types
that only the openai SDK knows (`response.reasoning_text.delta`, …).
"""

from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType

from schemas.events import LIFECYCLE

Status = Literal["in_progress", "completed", "incomplete"]
Mode = Literal["none", "auto", "required"]


class Part(Struct, tag_field="type"):
    """A content part."""


class InputText(Part, tag="input_text"):
    text: str


class TopLogProb(Struct):
    token: str
    logprob: float
    bytes: list[int]


class LogProb(TopLogProb):
    top_logprobs: list[TopLogProb]


class UrlCitation(Struct, tag_field="type", tag="url_citation"):
    url: str
    start_index: int
    end_index: int
    title: str


class OutputText(Part, tag="output_text"):
    text: str
    annotations: list[UrlCitation]
    logprobs: list[LogProb] | UnsetType = UNSET


class Text(Part, tag="text"):
    text: str


class SummaryText(Part, tag="summary_text"):
    text: str


class ReasoningText(Part, tag="reasoning_text"):
    text: str


class Refusal(Part, tag="refusal"):
    refusal: str


class InputImage(Part, tag="input_image"):
    image_url: str | None
    detail: Literal["low", "high", "auto"]


class InputFile(Part, tag="input_file"):
    filename: str | UnsetType = UNSET
    file_url: str | UnsetType = UNSET


Content: TypeAlias = (
    InputText | OutputText | Text | SummaryText | ReasoningText | Refusal | InputImage | InputFile
)


class Message(Struct, tag_field="type", tag="message"):
    id: str
    status: Status
    role: Literal["user", "assistant", "system", "developer"]
    content: list[Content]
    phase: Literal["commentary", "final_answer"] | UnsetType = UNSET


class FunctionCall(Struct, tag_field="type", tag="function_call"):
    id: str
    call_id: str
    name: str
    arguments: str
    status: Status


class FunctionCallOutput(Struct, tag_field="type", tag="function_call_output"):
    id: str
    call_id: str
    output: str | list[InputText | InputImage | InputFile]
    status: Status


class Reasoning(Struct, tag_field="type", tag="reasoning"):
    id: str
    summary: list[Content]
    content: list[Content] | UnsetType = UNSET
    encrypted_content: str | UnsetType = UNSET


class Compaction(Struct, tag_field="type", tag="compaction"):
    id: str
    encrypted_content: str
    created_by: str | UnsetType = UNSET


Item: TypeAlias = Message | FunctionCall | FunctionCallOutput | Reasoning | Compaction


class FunctionTool(Struct, tag_field="type", tag="function"):
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None


class FunctionChoice(Struct, tag_field="type", tag="function"):
    name: str | UnsetType = UNSET


class AllowedTools(Struct, tag_field="type", tag="allowed_tools"):
    tools: list[FunctionChoice]
    mode: Mode


class TextFormat(Struct, tag_field="type", tag="text"):
    pass


class JsonObjectFormat(Struct, tag_field="type", tag="json_object"):
    pass


class JsonSchemaFormat(Struct, tag_field="type", tag="json_schema"):
    name: str
    description: str | None
    schema: Any
    strict: bool


class TextSettings(Struct):
    format: TextFormat | JsonObjectFormat | JsonSchemaFormat
    verbosity: Literal["low", "medium", "high"] | UnsetType = UNSET


class ReasoningSettings(Struct):
    effort: Literal["none", "low", "medium", "high", "xhigh"] | None
    summary: Literal["concise", "detailed", "auto"] | None


class IncompleteDetails(Struct):
    reason: str


class Error(Struct):
    code: str
    message: str


class InputDetails(Struct):
    cached_tokens: int


class OutputDetails(Struct):
    reasoning_tokens: int


class Usage(Struct):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: InputDetails
    output_tokens_details: OutputDetails


class Response(Struct):
    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: str
    incomplete_details: IncompleteDetails | None
    model: str
    previous_response_id: str | None
    instructions: str | None
    output: list[Item]
    error: Error | None
    tools: list[FunctionTool]
    tool_choice: FunctionChoice | AllowedTools | Mode
    truncation: Literal["auto", "disabled"]
    parallel_tool_calls: bool
    text: TextSettings
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    temperature: float
    reasoning: ReasoningSettings | None
    usage: Usage | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    store: bool
    background: bool
    service_tier: str
    metadata: dict[str, str]
    safety_identifier: str | None
    prompt_cache_key: str | None


_ITEM = {"output_index": int, "item": Item | None}
_AT = {"item_id": str, "output_index": int}
_PART = {**_AT, "content_index": int}
_SUMMARY = {**_AT, "summary_index": int}
_LOGPROBS = list[LogProb] | UnsetType
_FIELDS: dict[str, dict[str, Any]] = {
    **{type: {"response": Response} for type in LIFECYCLE},
    "response.output_item.added": _ITEM,
    "response.output_item.done": _ITEM,
    "response.content_part.added": {**_PART, "part": Content},
    "response.content_part.done": {**_PART, "part": Content},
    "response.output_text.delta": {**_PART, "delta": str, "logprobs": _LOGPROBS},
    "response.output_text.done": {**_PART, "text": str, "logprobs": _LOGPROBS},
    "response.output_text.annotation.added": {
        **_PART, "annotation_index": int, "annotation": UrlCitation | None,
    },
    "response.refusal.delta": {**_PART, "delta": str},
    "response.refusal.done": {**_PART, "refusal": str},
    "response.reasoning.delta": {**_PART, "delta": str},
    "response.reasoning.done": {**_PART, "text": str},
    "response.reasoning_summary_part.added": {**_SUMMARY, "part": Content},
    "response.reasoning_summary_part.done": {**_SUMMARY, "part": Content},
    "response.reasoning_summary_text.delta": {**_SUMMARY, "delta": str},
    "response.reasoning_summary_text.done": {**_SUMMARY, "text": str},
    "response.function_call_arguments.delta": {**_AT, "delta": str},
    "response.function_call_arguments.done": {**_AT, "arguments": str},
}  # fmt: skip
_EVENTS = {
    type: msgspec.defstruct(
        "Event",
        [("type", str), ("sequence_number", int)]
        + [(name, kind, UNSET) if name == "logprobs" else (name, kind) for name, kind in fields.items()],
    )
    for type, fields in _FIELDS.items()
}


def check_response(response: object) -> None:
    """Raises msgspec.ValidationError, which names the field, when `response` is not as specified."""
    msgspec.convert(response, Response)


def check_event(event: dict[str, Any]) -> None:
    """Raises msgspec.ValidationError, which names the field, when `event` is not as specified."""
    kind = _EVENTS.get(event["type"])
    if kind is not None:
        msgspec.convert(event, kind)
