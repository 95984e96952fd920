"""A-17: the response object."""

import time
from typing import Any

import pytest

from tests.api import Api, request

_OPEN_RESPONSES = """
id object created_at completed_at status incomplete_details model previous_response_id instructions
output error tools tool_choice truncation parallel_tool_calls text top_p presence_penalty
frequency_penalty top_logprobs temperature reasoning usage max_output_tokens max_tool_calls store
background service_tier metadata safety_identifier prompt_cache_key
"""
REQUIRED = set(_OPEN_RESPONSES.split())
"""What the Open Responses schema (OpenAPI of 2026-04-24) requires of a response resource."""


def test_a17_every_required_field_is_there_in_every_state(api: Api) -> None:
    id = api.open()
    objects = [api.post(request()).json, api.response(id), api.cancel(id).json]
    objects += [api.response(api.closed(fail_after=1)), api.response(api.closed())]
    objects += [frame.event["response"] for frame in api.events(api.create()) if "response" in frame.event]

    assert {response["status"] for response in objects} == {
        "queued", "in_progress", "cancelled", "failed", "completed",
    }  # fmt: skip
    for response in objects:
        assert REQUIRED - response.keys() == set(), response["status"]


def test_a17_defaults(api: Api) -> None:
    response = api.response(api.closed())

    assert response["id"].startswith("resp_")
    assert (response["object"], response["model"]) == ("response", "echo")
    assert abs(response["created_at"] - time.time()) < 60
    assert (response["tools"], response["tool_choice"], response["parallel_tool_calls"]) == ([], "auto", True)
    assert (response["truncation"], response["store"], response["background"]) == ("disabled", True, True)
    assert response["text"]["format"] == {"type": "text"}
    assert (response["instructions"], response["previous_response_id"]) == (None, None)


SAID: list[tuple[str, Any]] = [
    ("instructions", "be brief"),
    ("temperature", 0.3),
    ("top_p", 0.5),
    ("max_output_tokens", 4000),
    ("max_tool_calls", 3),
    ("parallel_tool_calls", False),
    ("truncation", "auto"),
    ("metadata", {"a": "b"}),
    ("tool_choice", "none"),
    ("tools", [{"type": "function", "name": "f", "description": "f", "parameters": {}, "strict": True}]),
    ("safety_identifier", "u1"),
    ("prompt_cache_key", "k1"),
]


@pytest.mark.parametrize("field, value", SAID, ids=[field for field, _ in SAID])
def test_a17_the_object_repeats_what_the_request_said(api: Api, field: str, value: Any) -> None:
    id = api.create(**{field: value})
    created = api.events(id)[0].event["response"]

    assert created[field] == value
    assert api.response(id)[field] == value


def test_a17_output_text_and_usage_are_whole(api: Api) -> None:
    id = api.create("one two three")
    frames = api.events(id)
    response = api.response(id)

    (part,) = response["output"][0]["content"]
    assert (part["type"], part["annotations"], part["logprobs"]) == ("output_text", [], [])
    for frame in frames:
        if frame.type in ("response.output_text.delta", "response.output_text.done"):
            assert frame.event["logprobs"] == []
    usage = response["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] == 6
    assert usage["input_tokens_details"].keys() >= {"cached_tokens", "cache_write_tokens"}
    assert usage["output_tokens_details"].keys() >= {"reasoning_tokens"}


def test_a17_every_answer_has_a_request_id(api: Api) -> None:
    id = api.closed()
    answers = [
        api.post(request()),
        api.post(b"{"),
        api.get(id),
        api.get(id, "?stream=true"),
        api.get("resp_unknown"),
        api.cancel(id),
        api.input_items(id),
        api.delete(id),
        api.ask("GET", "/v1/nothing"),
        api.ask("GET", "/livez"),
    ]

    ids = [answer.headers["x-request-id"] for answer in answers]
    assert all(ids)
    assert len(set(ids)) == len(ids)
