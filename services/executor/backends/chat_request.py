"""From a Responses request to a Chat Completions one. Pure.

    instructions, input items → messages        tools, tool_choice → nested under `function`
    text.format → response_format               max_output_tokens → max_tokens or max_completion_tokens

Fields that only the Responses API knows stay behind; sampling options and fields that neither names
(`top_k`, `seed`, `chat_template_kwargs`, …) are passed on as they are. What cannot be said in Chat
Completions is refused, never left out: a model that silently lacks a tool or an image gives a wrong answer.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from services.executor.backends.chat_tools import UntranslatableError

Object = dict[str, Any]

_LEFT_BEHIND = frozenset(
    {
        "agent_reference",
        "background",
        "background_options",
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "parallel_tool_calls",
        "previous_response_id",
        "prompt_cache_key",
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
"""What the translation itself deals with, and what Chat Completions has no word for."""

_ROLES = {"developer": "system", "system": "system", "user": "user", "assistant": "assistant"}
"""`developer` is OpenAI's own; the chat templates of open models know `system`."""


def chat_body(body: Mapping[str, Any], input: Iterable[Object], *, max_completion_tokens: bool) -> Object:
    """The body of a streamed Chat Completions call for the request `body` with the whole `input`.

    `max_completion_tokens` is what OpenAI calls the bound on output; other servers know `max_tokens`.
    Raises UntranslatableError.
    """
    if body.get("prompt") is not None:
        raise UntranslatableError("stored prompts", "send the text of 'prompt' as 'instructions'")
    chat: Object = {k: v for k, v in body.items() if k not in _LEFT_BEHIND and v is not None}
    chat["messages"] = _one_system([*_instructions(body.get("instructions")), *_turns(input)])
    chat |= {"stream": True, "stream_options": {"include_usage": True}}
    limit = body.get("max_output_tokens")
    if limit is not None:
        chat["max_completion_tokens" if max_completion_tokens else "max_tokens"] = limit
    return chat | _tooling(body) | _text(body.get("text") or {}) | _thinking(body) | _logprobs(body)


def _instructions(instructions: object) -> list[Object]:
    if isinstance(instructions, str) and instructions:
        return [{"role": "system", "content": instructions}]
    return _turns(instructions) if isinstance(instructions, list) else []


def _turns(items: Iterable[Object]) -> list[Object]:
    """The messages of `items`: what the assistant says and the calls it makes are one message."""
    turns: list[Object] = []
    for item in items:
        match item.get("type", "message"):
            case "message":
                turns.append(_said(item))
            case "function_call":
                _calls_of(turns).append(_call(item))
            case "function_call_output":
                output = _content(item.get("output"))
                turns.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": output})
            case "reasoning":
                pass  # Servers refuse or ignore it: a model's own thoughts do not go back to it.
            case kind:
                raise UntranslatableError(f"input items of type {kind}", "leave them out of 'input'")
    return turns


def _one_system(turns: list[Object]) -> list[Object]:
    """`turns` with one system message at most to begin with: many chat templates refuse a second one."""
    leading = list(takewhile(lambda turn: turn["role"] == "system", turns))
    if len(leading) < 2 or not all(isinstance(turn["content"], str) for turn in leading):
        return turns
    text = "\n\n".join(turn["content"] for turn in leading)
    return [{"role": "system", "content": text}, *turns[len(leading) :]]


def _said(item: Object) -> Object:
    role = _ROLES.get(str(item.get("role")))
    if role is None:
        raise UntranslatableError(f"role {item.get('role')}", "use another 'role'")
    content = _content(item.get("content"))
    if role == "assistant" and isinstance(content, list):
        content = "".join(map(_spoken, content))
    return {"role": role, "content": content}


def _spoken(part: Object) -> str:
    if part["type"] != "text":
        raise UntranslatableError(f"{part['type']} parts of an assistant", "send them as the user's")
    return str(part["text"])


def _calls_of(turns: list[Object]) -> list[Object]:
    """The tool calls of the assistant's message that is being said."""
    if not turns or turns[-1]["role"] != "assistant":
        turns.append({"role": "assistant", "content": None})
    calls: list[Object] = turns[-1].setdefault("tool_calls", [])
    return calls


def _call(item: Object) -> Object:
    function = {"name": item.get("name"), "arguments": item.get("arguments") or "{}"}
    return {"id": item.get("call_id"), "type": "function", "function": function}


def _content(content: object) -> str | list[Object]:
    """Text as a string wherever it is all there is: every server takes that."""
    if isinstance(content, str):
        return content
    parts = [_part(part) for part in content] if isinstance(content, list) else []
    if not parts:
        return ""
    return parts[0]["text"] if len(parts) == 1 and "text" in parts[0] else parts


def _part(part: Object) -> Object:
    match part:
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "refusal", "refusal": str(refusal)}:
            return {"type": "text", "text": refusal}
        case {"type": "input_image", "image_url": str(url)}:
            detail = part.get("detail")
            image = {"url": url, "detail": detail} if detail else {"url": url}
            return {"type": "image_url", "image_url": image}
        case {"type": "input_file", "file_data": str(data)}:
            return {"type": "file", "file": {"filename": part.get("filename") or "file", "file_data": data}}
        case {"type": "input_audio", "input_audio": dict(audio)}:
            return {"type": "input_audio", "input_audio": audio}
        case {"type": kind}:
            raise UntranslatableError(f"content of type {kind} as it stands", "send its text, data or URL")
    raise UntranslatableError("content without a type", "give each part of 'content' a 'type'")


def _tooling(body: Mapping[str, Any]) -> Object:
    tools = [_tool(tool) for tool in body.get("tools") or ()]
    if not tools:
        return {}
    said: Object = {"tools": tools}
    if body.get("tool_choice") is not None:
        said["tool_choice"] = _choice(body["tool_choice"])
    if body.get("parallel_tool_calls") is not None:
        said["parallel_tool_calls"] = body["parallel_tool_calls"]
    return said


def _tool(tool: Object) -> Object:
    if tool.get("type") != "function":
        raise UntranslatableError(f"tools of type {tool.get('type')}", "leave them out of 'tools'")
    keys = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": _present(tool, keys)}


def _choice(choice: object) -> object:
    match choice:
        case str():
            return choice
        case {"type": "function", "name": name}:
            return {"type": "function", "function": {"name": name}}
        case {"type": "allowed_tools", "mode": mode, "tools": list(tools)}:
            allowed = [_choice(tool) for tool in tools]
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": allowed}}
    raise UntranslatableError("such a 'tool_choice'", "name a function")


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
