"""Makes a Chat Completions request of a Responses request. Pure.

    instructions, input items → messages        tools, tool_choice → functions, nested under `function`
    text.format → response_format               max_output_tokens → max_tokens or max_completion_tokens

Fields that only the Responses API knows are left out (U-69). Sampling options and fields that neither API
knows (`top_k`, `seed`, `chat_template_kwargs`, …) are passed on as they are. Input that Chat Completions
cannot express is refused, never left out: a model that silently lacks a tool or an image gives a wrong
answer.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from services.executor.backends.chat.messages import messages
from services.executor.backends.chat.tools import Object, Toolbox, UntranslatableError, VendorTools

PASSED_ON = frozenset({"model", "temperature", "top_p", "user"})
"""Fields that have the same meaning in both APIs, and that servers know."""

_RESPONSES_OWN = frozenset(
    {
        "access_programs",
        "background",
        "background_options",
        "context_management",
        "conversation",
        "image",
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "moderation",
        "parallel_tool_calls",
        "previous_response_id",
        "prompt",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "truncation",
    }
)
"""Fields of `openai`'s ResponseCreateParams that are translated, or that servers do not know."""
_CLIENTS_OWN = frozenset(
    {
        "agent",
        "agent_reference",
        "client_metadata",
        "generate",
        "personality",
        "stream_id",
        "structured_inputs",
    }
)
"""Further fields of the Responses API's clients: of Codex, sockets, hosted agents, counts of tokens."""


class Dialect(Struct, frozen=True):
    """How one server's requests differ.

    `max_completion_tokens`: the server has OpenAI's name for the bound on output; others know `max_tokens`.
    `give_back` names fields of its answers that it wants back, `drop` fields of a body that it refuses.
    """

    max_completion_tokens: bool = False
    give_back: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


def toolbox(body: Mapping[str, Any], input: Iterable[Any], vendor_tools: VendorTools) -> Toolbox:
    """The tools of the request `body`, and those that a client's search found in its `input`.

    Raises UntranslatableError.
    """
    later = [tool for item in input if _brings_tools(item) for tool in item.get("tools") or ()]
    return Toolbox([*(body.get("tools") or ()), *later], vendor_tools)


def chat_body(body: Mapping[str, Any], input: Sequence[Any], tools: Toolbox, dialect: Dialect) -> Object:
    """The body of a streamed Chat Completions call for the request `body` with the whole `input`.

    Raises UntranslatableError.
    """
    if body.get("prompt") is not None:
        raise UntranslatableError("stored prompts", "send the text of 'prompt' as 'instructions'")
    if body.get("context_management") and "context_management" not in dialect.drop:
        instead = "leave it out, or let the operator's `drop` leave it out"
        raise UntranslatableError("'context_management'", instead)
    body = _configured(body, input)
    own = _RESPONSES_OWN | _CLIENTS_OWN
    chat: Object = {k: v for k, v in body.items() if k not in own and v is not None}
    chat["messages"] = messages(body.get("instructions"), input, tools, dialect.give_back)
    chat |= {"stream": True, "stream_options": {"include_usage": True}}
    limit = body.get("max_output_tokens")
    if limit is not None:
        chat["max_completion_tokens" if dialect.max_completion_tokens else "max_tokens"] = limit
    chat |= _tooling(body, tools) | _text(body.get("text") or {}) | _thinking(body) | _logprobs(body)
    return {name: value for name, value in chat.items() if name not in dialect.drop}


def _brings_tools(item: object) -> bool:
    if not isinstance(item, dict):
        return False
    kind = item.get("type")
    return kind == "additional_tools" or (kind == "tool_search_output" and item.get("execution") == "client")


def _configured(body: Mapping[str, Any], input: Iterable[Any]) -> Mapping[str, Any]:
    """The body with the options of `configuration_update` items: the latest of each holds."""
    configured = dict(body)
    for item in input:
        if isinstance(item, dict) and item.get("type") == "configuration_update":
            for field in ("reasoning", "text"):
                configured[field] = {**(configured.get(field) or {}), **(item.get(field) or {})}
    return configured


def _tooling(body: Mapping[str, Any], tools: Toolbox) -> Object:
    if not tools.functions:
        return {}
    said: Object = {"tools": tools.functions}
    if body.get("tool_choice") is not None and (choice := tools.choice(body["tool_choice"])) is not None:
        said["tool_choice"] = choice
    if body.get("parallel_tool_calls") is not None:
        said["parallel_tool_calls"] = body["parallel_tool_calls"]
    return said


def _text(text: Object) -> Object:
    said: Object = _present(text, ("verbosity",))
    form: Object = text.get("format") or {}
    match form.get("type"):
        case "json_schema":
            schema = _present(form, ("name", "description", "schema", "strict"))
            said["response_format"] = {"type": "json_schema", "json_schema": schema}
        case "json_object":
            said["response_format"] = {"type": "json_object"}
        case "text" | None:
            pass
        case kind:
            raise UntranslatableError(f"'text.format' of type {kind}", "use json_schema")
    return said


def _thinking(body: Mapping[str, Any]) -> Object:
    effort = (body.get("reasoning") or {}).get("effort")
    return {"reasoning_effort": effort} if effort else {}


def _logprobs(body: Mapping[str, Any]) -> Object:
    most = body.get("top_logprobs")
    if not most and "message.output_text.logprobs" not in (body.get("include") or ()):
        return {}
    return {"logprobs": True, "top_logprobs": most} if most else {"logprobs": True}


def _present(fields: Object, keys: Sequence[str]) -> Object:
    return {key: fields[key] for key in keys if fields.get(key) is not None}
