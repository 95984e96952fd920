"""Makes functions of a request's tools, for a server that knows functions only, and finds the tool of a call.
Pure.

    tools, additional_tools → Toolbox → functions for the server, its name for each tool
    a call of a function    → Toolbox → the tool, its kind of item, its stream of events

A Chat Completions server knows functions with flat names (U-66). A `Toolbox` is made from the request. It
makes a function for each tool that the client runs, and knows the tool of each function. So the client gets
calls of the tools that it named: a custom tool, one of a namespace, a shell, a patch. Tools that only a
vendor can run are refused by name, or left out, as the operator says (U-68).
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from services.executor.backends.chat.custom import CustomInput, PlainInput

Object = dict[str, Any]
VendorTools = Literal["refuse", "drop"]
"""What to do with a tool that only a vendor can run."""

MAX_FUNCTION_NAME = 64
"""Most characters of a function's name: OpenAI and most servers refuse longer ones."""

_UNFIT = re.compile(r"[^A-Za-z0-9_-]")
_CUSTOM_PARAMETERS: Object = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The input of the tool, as it is."}},
    "required": ["input"],
    "additionalProperties": False,
}
_STRINGS: Object = {"type": "array", "items": {"type": "string"}}
_LIMITS: Object = {"timeout_ms": {"type": "integer"}, "max_output_length": {"type": "integer"}}


class UntranslatableError(Exception):
    """The request has `what`, which Chat Completions cannot express; `instead`: what the client can do."""

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(f"{what}; {instead}, or use a model whose server has the Responses API")


class Kind(Struct, frozen=True):
    """A kind of tool that the client runs, and how its calls are told.

    `call` and `output` are the types of its items; their ids begin with `prefix`. `stream` is the type of the
    events of a call's input, `said` the field of its item with that input; kinds without them have no such
    events. `holder` is the field of the item that has the arguments as an object, `fixed` its other fields.
    `required` are the arguments that a call must have.
    """

    call: str
    output: str
    prefix: str
    stream: str = ""
    said: str = ""
    holder: str = ""
    fixed: Mapping[str, Any] = {}
    required: Mapping[str, Any] = {}
    description: str = ""
    parameters: Mapping[str, Any] = {}


KINDS: Mapping[str, Kind] = {
    "function": Kind(
        "function_call", "function_call_output", "fc", "response.function_call_arguments", "arguments"
    ),
    "custom": Kind(
        "custom_tool_call", "custom_tool_call_output", "ctc", "response.custom_tool_call_input", "input"
    ),
    "local_shell": Kind(
        "local_shell_call",
        "local_shell_call_output",
        "lsh",
        holder="action",
        fixed={"type": "exec", "env": {}},
        required={"command": []},
        description="Runs a command on the user's machine.",
        parameters={
            "type": "object",
            "properties": {
                "command": _STRINGS | {"description": "The program and its arguments."},
                "env": {"type": "object", "additionalProperties": {"type": "string"}},
                "timeout_ms": {"type": "integer"},
                "working_directory": {"type": "string"},
            },
            "required": ["command"],
        },
    ),
    "shell": Kind(
        "shell_call",
        "shell_call_output",
        "sh",
        holder="action",
        required={"commands": []},
        description="Runs shell commands on the user's machine.",
        parameters={
            "type": "object",
            "properties": {"commands": _STRINGS, **_LIMITS},
            "required": ["commands"],
        },
    ),
    "apply_patch": Kind(
        "apply_patch_call",
        "apply_patch_call_output",
        "apc",
        holder="operation",
        required={"type": "update_file", "path": ""},
        description="Creates, updates or deletes a file. `diff` is a V4A diff, without its envelope.",
        parameters={
            "type": "object",
            "properties": {
                "type": {"type": "string", "enum": ["create_file", "update_file", "delete_file"]},
                "path": {"type": "string"},
                "diff": {"type": "string"},
            },
            "required": ["type", "path"],
        },
    ),
    "tool_search": Kind(
        "tool_search_call",
        "tool_search_output",
        "tsc",
        holder="arguments",
        description="Finds further tools.",
        parameters={"type": "object", "properties": {"query": {"type": "string"}}},
    ),
}
"""By the type of a tool, its kind."""

_NAMED = frozenset({"function", "custom"})
"""Kinds with any number of tools, each with a name. Each other kind has one tool, with the kind's name."""
KIND_OF_CALL = {kind.call: name for name, kind in KINDS.items()}
KIND_OF_OUTPUT = {kind.output: name for name, kind in KINDS.items()}


class Tool(Struct, frozen=True):
    """A tool as the client names it. `kind` is a key of KINDS."""

    kind: str
    name: str
    namespace: str | None = None

    @property
    def prefix(self) -> str:
        """The prefix of the ids of its calls."""
        return KINDS[self.kind].prefix

    @property
    def stream(self) -> str:
        """The type of its calls' events without `.delta` and `.done`; "" if its input has no events."""
        return KINDS[self.kind].stream

    @property
    def said(self) -> str:
        """The field of `.done` and of the item that has the whole input; "" without one."""
        return KINDS[self.kind].said

    def reader(self) -> PlainInput | CustomInput:
        """Reads the input of one call from the pieces of its arguments."""
        return CustomInput() if self.kind == "custom" else PlainInput()

    def item(self, id: str, call_id: str, said: str, status: str) -> Object:
        """The item of a call; `said` is the input as the `reader` read it."""
        kind = KINDS[self.kind]
        item: Object = {"id": id, "type": kind.call, "status": status, "call_id": call_id}
        if kind.said:
            named = {"name": self.name} if self.namespace is None else self._named()
            return item | named | {kind.said: said}
        item[kind.holder], fits = _held(kind, said)
        if not fits and status == "completed":
            item["status"] = "incomplete"  # the client must not carry this call out
        if self.kind == "tool_search":
            item["execution"] = "client"
        return item

    def _named(self) -> Object:
        return {"name": self.name, "namespace": self.namespace}


class Toolbox:
    """The tools of one request, and the functions that stand for them at the server."""

    def __init__(self, tools: Iterable[Any], vendor_tools: VendorTools = "refuse") -> None:
        """`tools` are those of the request and of its input. Raises UntranslatableError."""
        self.drops_vendors = vendor_tools == "drop"
        self._sent: dict[Tool, str] = {}
        self._tools: dict[str, Tool] = {}
        offered = [one for tool in tools for one in self._offered(tool, None)]
        # Functions first: those whose names fit keep them, and the other tools get names that are left.
        for tool, _ in sorted(offered, key=lambda one: one[0].kind != "function" or bool(one[0].namespace)):
            self.sent(tool)
        self._kinds = {tool.kind for tool in self._sent}
        self._bare: dict[str, list[Tool]] = {}
        for tool in self._sent:
            self._bare.setdefault(tool.name, []).append(tool)
        self.functions = list(self._functions(offered))

    def called(self, name: str) -> Tool:
        """The tool for which the function `name` stands."""
        tool = self._tools.get(name) or self._by_bare_name(name)
        return tool or Tool("function", name)

    def sent(self, tool: Tool) -> str:
        """The name of the function that stands for `tool`, even if the request does not offer the tool."""
        known = self._sent.get(tool)
        if known is None:
            known = self._sent[tool] = self._free_name(tool)
            self._tools[known] = tool
        return known

    def named(self, kind: str, name: str, namespace: str | None = None) -> str:
        """The function's name for a tool that a call or a choice names, maybe without its namespace."""
        tool = Tool(kind, name, namespace)
        if tool not in self._sent and namespace is None:
            tool = self._by_bare_name(name, kind) or tool
        return self.sent(tool)

    def names(self, tools: Iterable[Any]) -> list[str]:
        """The functions' names for `tools` that a search of the client found."""
        return [self.sent(tool) for one in tools for tool, _ in self._offered(one, None)]

    def choice(self, choice: object) -> object:
        """The `tool_choice` for the server, None to leave it out. Raises UntranslatableError."""
        match choice:
            case str():
                return choice
            case {"type": "allowed_tools", "mode": mode, "tools": list(tools)}:
                allowed = [one for one in map(self._chosen, tools) if one is not None]
                if not allowed:
                    return "none"  # all tools that may be called were left out
                return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": allowed}}
        return self._chosen(choice)

    def _chosen(self, choice: object) -> Object | None:
        match choice:
            case {"type": "function" | "custom" as kind, "name": str(name), **more}:
                namespace = more.get("namespace")
                sent = self.named(kind, name, namespace if isinstance(namespace, str) else None)
                return {"type": "function", "function": {"name": sent}}
            case {"type": str(kind)} if kind in self._kinds - _NAMED:
                return {"type": "function", "function": {"name": self.named(kind, kind)}}
            case {"type": str(kind)} if self.drops_vendors and kind not in _NAMED:
                return None
        raise UntranslatableError("such a 'tool_choice'", "name a function")

    def _offered(self, tool: Any, namespace: str | None) -> Iterator[tuple[Tool, Object]]:
        kind, name = (str(tool.get("type")), tool.get("name")) if isinstance(tool, dict) else ("none", None)
        if kind in _NAMED and isinstance(name, str) and name:
            yield Tool(kind, name, namespace), tool
        elif kind == "namespace" and namespace is None and isinstance(name, str) and name:
            for inner in tool.get("tools") or ():
                for one, described in self._offered(inner, name):
                    yield one, _in_namespace(described, tool.get("description"))
        elif kind in KINDS.keys() - _NAMED and namespace is None and _is_ours(tool):
            yield Tool(kind, kind), tool
        elif kind in _NAMED or kind == "namespace":
            raise UntranslatableError(f"tools of type {kind} without a name", "give each tool a 'name'")
        elif not self.drops_vendors:
            raise UntranslatableError(f"tools of type {kind}", "leave them out of 'tools'")

    def _functions(self, offered: Sequence[tuple[Tool, Object]]) -> Iterator[Object]:
        told: dict[str, Object] = {}
        for tool, described in offered:
            name = self._sent[tool]
            function = {"type": "function", "function": _function(name, tool, described)}
            if told.get(name) != function:  # else it is offered twice, as by a search that found it again
                told[name] = function
                yield function

    def _by_bare_name(self, name: str, kind: str | None = None) -> Tool | None:
        """The tool of that name, in any namespace, if it is the only one."""
        found = [tool for tool in self._bare.get(name, ()) if kind in (None, tool.kind)]
        return found[0] if len(found) == 1 else None

    def _free_name(self, tool: Tool) -> str:
        """A name that servers accept and no other tool has, the same in every turn of a conversation."""
        full = tool.name if tool.namespace is None else f"{tool.namespace.rstrip('_')}__{tool.name}"
        fit = _UNFIT.sub("_", full)
        if len(fit) <= MAX_FUNCTION_NAME and fit not in self._tools:
            return fit
        told = json.dumps([tool.kind, tool.namespace, tool.name])
        mark = hashlib.sha256(told.encode()).hexdigest()[:8]
        return f"{fit[: MAX_FUNCTION_NAME - 9]}_{mark}"


def arguments(item: Object, kind: str) -> str:
    """The arguments (JSON) of the function call for an `item` that is a call of a tool of `kind`."""
    match kind:
        case "function":
            given = item.get("arguments")
            return given or "{}" if isinstance(given, str | None) else json.dumps(given)
        case "custom":
            given = item.get("input")
            return json.dumps({"input": given if isinstance(given, str) else ""}, ensure_ascii=False)
    held = item.get(KINDS[kind].holder)
    if isinstance(held, str):
        return held or "{}"
    fixed = KINDS[kind].fixed
    given = {k: v for k, v in (held or {}).items() if v is not None and fixed.get(k) != v}
    return json.dumps(given, ensure_ascii=False)


def _held(kind: Kind, said: str) -> tuple[Object, bool]:
    """The object with the arguments `said` for a call's item, and whether the arguments fit the kind."""
    try:
        given = json.loads(said)
    except (ValueError, RecursionError):
        given = None
    fits = isinstance(given, dict) and all(
        isinstance(given.get(key), type(empty)) for key, empty in kind.required.items()
    )
    given = given if isinstance(given, dict) and fits else {}
    return {**kind.fixed, **kind.required, **given}, fits


def _is_ours(tool: Object) -> bool:
    """Whether the client runs the tool: a shell without a vendor's container, a search of its own."""
    if tool["type"] == "tool_search":
        return tool.get("execution") == "client"
    environment = tool.get("environment")
    return not isinstance(environment, dict) or environment.get("type") == "local"


def _in_namespace(tool: Object, about: object) -> Object:
    """The tool, with its namespace's description `about` added: a flat list has no other place for that."""
    if not isinstance(about, str) or not about:
        return tool
    told = tool.get("description")
    return tool | {"description": f"{told}\n\n{about}" if told else about}


def _function(name: str, tool: Tool, described: Object) -> Object:
    """The function that stands for `tool`; `described` is the tool in the request."""
    function: Object = {"name": name}
    kind = KINDS[tool.kind]
    if told := _description(kind, described):
        function["description"] = told
    match tool.kind:
        case "function":
            keys = ("parameters", "strict")
            return function | {key: described[key] for key in keys if described.get(key) is not None}
        case "custom":
            return function | {"parameters": _CUSTOM_PARAMETERS}
    return function | {"parameters": described.get("parameters") or dict(kind.parameters)}


def _description(kind: Kind, described: Object) -> str:
    told = described.get("description") or kind.description
    match described.get("format"):
        case {"type": "grammar", "syntax": str(syntax), "definition": str(definition)}:
            told = f"{told}\n\n`input` must match this {syntax} grammar:\n{definition}".strip()
    return str(told)
