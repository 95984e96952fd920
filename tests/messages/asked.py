"""A request of the Responses API as the Messages API wants it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from services.executor.backend import RunRequest

MAX_TOKENS = 4096
"""Where the client names no bound: the API has no default."""


def asked(request: RunRequest) -> dict[str, Any]:
    """The body of the call."""
    body = request.body
    system = [body["instructions"]] if body.get("instructions") else []
    turns: list[dict[str, Any]] = []
    for item in request.input:
        role, block = _said(item)
        if role == "system":
            system.append(block["text"])
        elif turns and turns[-1]["role"] == role:
            turns[-1]["content"].append(block)
        else:
            turns.append({"role": role, "content": [block]})
    asked = {
        "model": body["model"],
        "messages": turns,
        "max_tokens": body.get("max_output_tokens") or MAX_TOKENS,
        "stream": True,
    }
    if system:
        asked["system"] = "\n\n".join(system)
    if tools := [_tool(tool) for tool in body.get("tools") or []]:
        asked["tools"] = tools
    return asked


def _said(item: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Who says an item of the input, and as which block."""
    match item.get("type", "message"):
        case "function_call":
            arguments = json.loads(item["arguments"] or "{}")
            return "assistant", {
                "type": "tool_use", "id": item["call_id"], "name": item["name"], "input": arguments,
            }  # fmt: skip
        case "function_call_output":
            return "user", {
                "type": "tool_result", "tool_use_id": item["call_id"], "content": item["output"],
            }  # fmt: skip
        case "reasoning":
            return "assistant", {
                "type": "thinking",
                "thinking": _text(item.get("content") or []),
                "signature": item.get("encrypted_content") or "",
            }
    role = {"developer": "system", "system": "system", "assistant": "assistant"}.get(item["role"], "user")
    return role, {"type": "text", "text": _text(item["content"])}


def _text(content: str | Iterable[Mapping[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    schema = tool.get("parameters") or {"type": "object"}
    return {"name": tool["name"], "description": tool.get("description") or "", "input_schema": schema}
