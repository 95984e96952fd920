"""What Rejoinder has no use for itself: handed on, kept in chains, or kept from the upstream (A-25)."""

import json
from typing import Any

import pytest

from tests.ingesting import Ingesting, executing, ingesting
from tests.upstreams import Call, Raw, framed, raw

Item = dict[str, Any]

SAID: list[Item] = [
    {"type": "configuration_update", "id": "cu_1", "reasoning": {"effort": "low"}},
    {"type": "compaction_trigger"},
    {"type": "compaction", "id": "cmp_1", "encrypted_content": "sealed"},
    {"type": "message", "role": "assistant", "phase": "commentary", "content": "so far"},
    {"type": "message", "role": "user", "content": "go on"},
]
PUT_OUT: list[Item] = [
    {"type": "compaction", "id": "cmp_2", "encrypted_content": "sealed, too"},
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "phase": "final_answer",
        "content": [{"type": "output_text", "text": "done", "annotations": [], "logprobs": []}],
    },
]


class Upstream:
    """Ends every response with `status` and puts out PUT_OUT."""

    def __init__(self, status: str = "completed", **fields: Any) -> None:
        self.final = {"id": "resp_up", "status": status, "output": PUT_OUT, **fields}

    async def __call__(self, call: Call) -> None:
        await call.head()
        for index, item in enumerate(PUT_OUT):
            for kind in ("added", "done"):
                at = {"type": f"response.output_item.{kind}", "output_index": index, "item": item}
                await call.write(framed(at))
        await call.write(framed({"type": f"response.{self.final['status']}", "response": self.final}))


def configured(server: Raw) -> str:
    return f'[[models]]\nmatch = "*"\nbase_url = "{server.url}/v1"\n'


def heard(server: Raw) -> dict[str, Any]:
    """The body of the last call of a model."""
    body: dict[str, Any] = [call.body for call in server.calls if call.method == "POST"][-1]
    return body


async def asked(running: Ingesting, **body: Any) -> Any:
    answer = await running.post({"model": "m", "input": "hi"} | body)
    assert answer.status == 200, answer
    return json.loads(answer.body)


async def test_items_and_fields_that_only_models_know_are_kept_in_chains() -> None:
    async with raw(Upstream()) as server, ingesting(configured(server)) as running, executing(running):
        first = await asked(running, input=SAID)
        await asked(running, previous_response_id=first["id"], input="and then?")

        said: list[Item] = heard(server)["input"]
    kept = [{**item, "content": ...} if "content" in item else item for item in said]
    assert kept[:-1] == [
        {**item, "content": ...} if "content" in item else item for item in [*SAID, *PUT_OUT]
    ]
    assert [item | {"id": ...} for item in first["output"]] == [item | {"id": ...} for item in PUT_OUT]


@pytest.mark.parametrize(
    "reason, told",
    [("max_messages", "max_messages"), ("steered", "steered"), ("of next year", "max_output_tokens")],
)
async def test_why_it_is_incomplete_is_the_upstreams_word_where_clients_know_it(
    reason: str, told: str
) -> None:
    upstream = Upstream("incomplete", incomplete_details={"reason": reason})
    async with raw(upstream) as server, ingesting(configured(server)) as running, executing(running):
        final = await asked(running)

    assert (final["status"], final["incomplete_details"]) == ("incomplete", {"reason": told})


async def test_what_is_handed_on_and_what_is_not() -> None:
    fields = {
        "service_tier": "ultrafast",
        "truncation": "disabled",
        "stream_options": {"include_obfuscation": False},
    }
    window = {"background_options": {"completion_window": "soonest", "continuation_id": "c"}}
    async with raw(Upstream()) as server, ingesting(configured(server)) as running, executing(running):
        final = await asked(running, **fields, **window)

        body = heard(server)
    assert {name: body[name] for name in fields} == fields
    assert "background_options" not in body
    assert (final["service_tier"], final["truncation"]) == ("ultrafast", "disabled")
    assert final["status"] == "completed"


async def test_an_agent_that_is_asked_for_as_a_model_hears_its_name() -> None:
    async with raw(Upstream()) as server:
        text = f'[[agents]]\nname = "helper"\nurl = "{server.url}"\n'
        async with ingesting(text) as running, executing(running):
            final = await asked(running, model="helper")
        body = heard(server)
    assert (final["status"], final["model"]) == ("completed", "helper")
    assert body["agent_reference"] == {"type": "agent_reference", "name": "helper"}
