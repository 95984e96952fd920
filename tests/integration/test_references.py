"""Conversations told by references, and by items sent again, before upstreams as strict as OpenAI is (A-26).

`Strict` refuses what OpenAI refuses: references, ids that do not fit their item's type, an id that comes
twice, a sealed thought under another name than it was sealed under, a bare one that it has not stored.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest

from schemas.ids import parse_item_id
from tests.api import Api, request
from tests.model_server import ModelServer
from tests.system import System
from tests.upstreams import Call, served

Item = dict[str, Any]
PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


class Strict:
    """An upstream: what it was asked, and what it stores. It seals with its own `name`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[dict[str, Any]] = []
        self.url = ""
        self._numbers = count(1)
        self._stored: set[str] = set()

    @contextmanager
    def serving(self) -> Iterator["Strict"]:
        with served(self._answer) as server:
            self.url = f"{server.url}/v1"
            yield self

    @property
    def input(self) -> list[Item]:
        """What it was asked last."""
        found: list[Item] = self.asked[-1]["input"]
        return found

    async def _answer(self, call: Call) -> None:
        self.asked.append(call.body)
        wrong = self._wrong(call.body)
        if wrong:
            await call.answer(400, {"error": {"message": wrong, "type": "invalid_request_error"}})
            return
        await call.head()
        for number, event in enumerate(self._said(call.body)):
            await call.events(event | {"sequence_number": number})

    def _wrong(self, body: dict[str, Any]) -> str:
        ids = [item["id"] for item in body["input"] if "id" in item]
        if len(set(ids)) < len(ids):
            return "Duplicate item found."
        for index, item in enumerate(body["input"]):
            if why := self._wrong_item(item, store=body["store"]):
                return f"input[{index}]: {why}"
        return ""

    def _wrong_item(self, item: Item, *, store: bool) -> str:
        kind, id, sealed = item["type"], item.get("id"), item.get("encrypted_content")
        if kind == "item_reference":
            return f"Item with id '{id}' not found."
        if id and not re.fullmatch(rf"{PREFIXES.get(kind, '')}[A-Za-z0-9_-]{{1,60}}", id):
            return f"'{id}' does not begin with '{PREFIXES.get(kind)}', or is too long."
        if unknown := item.keys() & {"upstream_item", "response_id"}:
            return f"Unknown parameter: {unknown}."
        if kind == "reasoning" and sealed:
            if sealed.split("@")[1] != self.name or id not in (None, sealed.split("@")[0]):
                return "Encrypted content could not be verified."
        elif kind == "reasoning" and (not store or id not in self._stored):
            return f"Item with id '{id}' not found."
        return ""

    def _said(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        number = next(self._numbers)
        rs, fc, msg = (f"{prefix}_{self.name}_{number}" for prefix in ("rs", "fc", "msg"))
        thought: Item = {"id": rs, "type": "reasoning", "summary": []}
        if "reasoning.encrypted_content" in body.get("include", ()):
            thought["encrypted_content"] = f"{rs}@{self.name}"
        call: Item = {
            "id": fc,
            "type": "function_call",
            "call_id": f"call_{number}",
            "name": "f",
            "arguments": "{}",
        }
        part = {"type": "output_text", "text": f"said {number}", "annotations": []}
        message: Item = {"id": msg, "type": "message", "role": "assistant", "content": [part]}
        output = [
            thought,
            call | {"status": "completed"} if body.get("tools") else message | {"status": "completed"},
        ]
        if body["store"]:
            self._stored |= {rs, fc, msg}
        response = {
            "id": f"resp_{self.name}_{number}",
            "object": "response",
            "model": body["model"],
            "output": [],
        }
        yield {"type": "response.created", "response": response | {"status": "in_progress"}}
        for index, item in enumerate(output):
            yield {"type": "response.output_item.added", "output_index": index, "item": item}
            yield {"type": "response.output_item.done", "output_index": index, "item": item}
        final = response | {"status": "completed", "output": output}
        yield {"type": "response.completed", "response": final}


@pytest.fixture(scope="module")
def here() -> Iterator[Strict]:
    with Strict("here").serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Strict]:
    with Strict("elsewhere").serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def chat() -> Iterator[ModelServer]:
    with ModelServer().serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def api(
    kafka: str, here: Strict, elsewhere: Strict, chat: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    config = tmp_path_factory.mktemp("references") / "rejoinder.toml"
    routes = {
        "here": f'base_url = "{here.url}"',
        "storing": f'base_url = "{here.url}"\nresumable = true',
        "elsewhere": f'base_url = "{elsewhere.url}"',
        "chat-*": f'backend = "chat"\nbase_url = "{chat.url}"',
    }
    config.write_text("".join(f'[[models]]\nmatch = "{match}"\n{rest}\n' for match, rest in routes.items()))
    with System(kafka, config.parent, config=config, partitions=4) as system:
        yield Api(system.base_url)


SEALED: dict[str, Any] = {"include": ["reasoning.encrypted_content"]}
TOOLS: dict[str, Any] = {"tools": [{"type": "function", "name": "f", "parameters": {}}]}


def said(words: str) -> Item:
    return {"role": "user", "content": [{"type": "input_text", "text": words}]}


def references(*outputs: list[Item]) -> list[Item]:
    return [{"type": "item_reference", "id": item["id"]} for output in outputs for item in output]


def turn(api: Api, input: str | list[Item], model: str = "here", **fields: Any) -> dict[str, Any]:
    """A turn that waits for its end, as Vercel's AI SDK sends it: no `background`, `store` or predecessor."""
    answer = api.post(request(input, model=model, background=None, **fields))
    assert answer.status == 200, answer
    assert answer.json["status"] == "completed", answer.json
    found: dict[str, Any] = answer.json
    return found


def ids(items: list[Item]) -> list[str | None]:
    return [item.get("id") for item in items]


def test_clients_see_ids_of_ours_that_are_the_same_in_every_event(api: Api) -> None:
    id = api.closed("hi", model="here", **SEALED)
    output = api.response(id)["output"]
    assert [item["id"].split("_")[0] for item in output] == ["rs", "msg"]
    for position, item in enumerate(output):
        place = parse_item_id(item["id"])
        assert place is not None
        assert (place.response, place.position, place.given) == (id, position, False)
    streamed = [frame.event for frame in api.events(id)]
    told = [event["item"]["id"] for event in streamed if "item" in event]
    assert told == [item["id"] for item in output for _ in range(2)]
    assert {event["item_id"] for event in streamed if "item_id" in event} == {output[1]["id"]}


@pytest.mark.parametrize("options", [{}, SEALED], ids=["bare", "sealed"])
def test_a_conversation_with_tools_is_told_by_references(
    api: Api, here: Strict, options: dict[str, Any]
) -> None:
    first = turn(api, [said("one")], **TOOLS, **options)
    result = {"type": "function_call_output", "call_id": first["output"][1]["call_id"], "output": "4"}
    second = turn(api, [said("one"), *references(first["output"]), result], **options)
    turn(
        api,
        [said("one"), *references(first["output"]), result, *references(second["output"]), said("two")],
        **options,
    )

    kinds = [item["type"] for item in here.input]
    thoughts = ["reasoning"] if options else []
    assert kinds == [
        "message",
        *thoughts,
        "function_call",
        "function_call_output",
        *thoughts,
        "message",
        "message",
    ]
    named = [id for id in ids(here.input) if id]
    assert all(re.fullmatch(r"(rs|fc|msg)_here_[0-9]+", id) for id in named), named
    assert len(named) == 2 + 2 * len(thoughts)


def test_a_chain_gets_the_upstreams_names_back(api: Api, here: Strict) -> None:
    first = turn(api, "one", **SEALED)
    turn(api, "two", previous_response_id=first["id"], **SEALED)

    assert [str(id).split("_")[:2] for id in ids(here.input)[1:3]] == [["rs", "here"], ["msg", "here"]]
    assert here.input[1]["encrypted_content"] == f"{here.input[1]['id']}@here"


def test_another_upstream_gets_what_it_can_read(api: Api, here: Strict, elsewhere: Strict) -> None:
    first = turn(api, "one", **SEALED)
    second = turn(api, [said("one"), *references(first["output"]), said("two")], "elsewhere", **SEALED)

    assert [item["type"] for item in elsewhere.input] == ["message", "message", "message"]
    assert elsewhere.input[1]["id"] == first["output"][1]["id"]
    turn(api, "three", previous_response_id=second["id"], **SEALED)
    assert [item.get("encrypted_content") for item in here.input if item["type"] == "reasoning"] == [
        first["output"][0]["encrypted_content"]
    ]


@pytest.mark.parametrize("store", [True, False])
def test_a_client_may_send_the_items_again_itself(api: Api, here: Strict, *, store: bool) -> None:
    first = turn(api, "one", store=store, **SEALED)
    turn(api, [said("one"), *first["output"], said("two")], store=store, **SEALED)

    (thought,) = [item for item in here.input if item["type"] == "reasoning"]
    assert ("id" in thought) == store


@pytest.mark.parametrize("again", [True, False], ids=["again", "references"])
def test_an_upstream_that_stores_finds_its_thoughts(api: Api, here: Strict, *, again: bool) -> None:
    first = turn(api, "one", "storing")
    before = first["output"] if again else references(first["output"])
    turn(api, [said("one"), *before, said("two")], "storing")

    _, thought, message, _ = here.input
    assert re.fullmatch(r"rs_here_[0-9]+", thought["id"])
    assert message["id"] == thought["id"].replace("rs_", "msg_")


def test_what_is_referred_to_is_said_to_a_chat_server(api: Api, chat: ModelServer) -> None:
    first = turn(api, "one", "chat-text")
    turn(api, [said("one"), *references(first["output"]), said("two")], "chat-text")
    assert [message["role"] for message in chat.asked[-1]["messages"]] == ["user", "assistant", "user"]

    here_too = turn(api, "one", "here")
    turn(api, [said("one"), *references(here_too["output"]), said("two")], "chat-text")
    assert chat.asked[-1]["messages"][1]["content"].startswith("said ")


def test_what_the_upstream_calls_an_item_stays_out_of_items(api: Api) -> None:
    id = api.closed("hi", model="here")
    assert "upstream_item" not in json.dumps(api.response(id))
    added = [frame.event for frame in api.events(id) if frame.type == "response.output_item.added"]
    assert [event["upstream_item"]["id"].split("_")[1] for event in added] == ["here"] * 2
    assert all("upstream_item" not in event["item"] for event in added)
