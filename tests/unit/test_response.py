"""The response object: whole for strict clients, honest in every status (A-8, A-17)."""

from typing import Any

import msgspec
import pytest
from openai.types.responses import Response
from openai.types.responses.response_error import ResponseError

from schemas import response
from schemas.ids import response_id

ID = response_id(3, b"\x01" * 16)
OUTPUT = [
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "hi", "annotations": [], "logprobs": []}],
    }
]
NOT_NULL = """
id object created_at status model output tools tool_choice truncation parallel_tool_calls text top_p
presence_penalty frequency_penalty top_logprobs temperature store background service_tier metadata
"""
NULLABLE = """
completed_at incomplete_details previous_response_id instructions error reasoning user usage max_output_tokens
max_tool_calls safety_identifier prompt_cache_key
"""
OPEN_RESPONSES_REQUIRED = {*NOT_NULL.split(), *NULLABLE.split()}
"""What the schema's `ResponseResource` requires."""


def initial(**body: Any) -> dict[str, Any]:
    return response.initial({"model": "echo", "input": "hi", **body}, ID, 1_750_000_000, "echo")


def strict(value: dict[str, Any]) -> Response:
    return Response.model_validate_json(msgspec.json.encode(value), strict=True)


FULL: dict[str, Any] = {
    "background": True,
    "instructions": "be brief",
    "max_output_tokens": 99,
    "max_tool_calls": 3,
    "metadata": {"a": "b"},
    "parallel_tool_calls": False,
    "previous_response_id": "resp_x",
    "prompt_cache_key": "k",
    "reasoning": {"effort": "low"},
    "safety_identifier": "s",
    "service_tier": "flex",
    "temperature": 0,
    "text": {"format": {"type": "json_object"}, "verbosity": "low"},
    "tool_choice": {"type": "function", "name": "f"},
    "tools": [{"type": "function", "name": "f"}],
    "top_logprobs": 2,
    "top_p": 0.5,
    "truncation": "auto",
    "user": "u",
    "frequency_penalty": 1,
    "presence_penalty": -1,
    "include": ["reasoning.encrypted_content"],
    "stream_options": {"include_obfuscation": False},
    "agent_reference": {"type": "agent_reference", "name": "echo"},
}


@pytest.mark.parametrize("body", [{}, FULL, dict.fromkeys(FULL)], ids=["least", "full", "all null"])
def test_the_initial_object_is_whole(body: dict[str, Any]) -> None:
    value = initial(**body)
    assert value.keys() >= OPEN_RESPONSES_REQUIRED
    assert [name for name in NOT_NULL.split() if value[name] is None] == []
    assert strict(value).id == ID


def test_what_the_request_says_is_repeated() -> None:
    value = initial(**FULL)
    assert {name: value[name] for name in FULL.keys() - {"tools", "reasoning"}} == {
        name: given for name, given in FULL.items() if name not in {"tools", "reasoning"}
    }
    assert value["reasoning"] == {"effort": "low", "summary": None}
    assert value["tools"] == [
        {"type": "function", "name": "f", "description": None, "parameters": None, "strict": None}
    ]


def test_a_text_format_is_whole_and_never_null() -> None:
    assert initial(text={"format": None, "verbosity": None})["text"] == {"format": {"type": "text"}}
    value = initial(text={"format": {"type": "json_schema", "name": "n", "schema": {}}})
    assert value["text"]["format"].keys() == {"type", "name", "schema", "description", "strict"}
    strict(value)


def test_it_is_queued_in_the_background_and_in_progress_otherwise() -> None:
    assert initial(background=True)["status"] == "queued"
    assert initial()["status"] == "in_progress"
    assert initial(background=True)["output"] == []


def test_an_open_one_shows_the_output_so_far() -> None:
    value = response.running(initial(background=True), "in_progress", OUTPUT)
    assert strict(value).status == "in_progress"
    assert strict(value).output_text == "hi"


def test_a_cancelled_one_has_no_output() -> None:
    value = response.cancelled(response.running(initial(), output=OUTPUT))
    assert (value["status"], value["output"], value["error"]) == ("cancelled", [], None)
    assert strict(value).status == "cancelled"


def test_completed_keeps_identity_and_takes_the_upstreams_other_fields() -> None:
    upstream = {
        "id": "resp_theirs",
        "created_at": 5,
        "status": "failed",
        "background": True,
        "store": False,
        "metadata": {"theirs": "1"},
        "previous_response_id": "resp_theirs",
        "model": "gpt-x-2026",
        "temperature": 0.25,
        "service_tier": "priority",
        "top_p": None,
        "something_new": [1],
        "usage": {"input_tokens": 3, "output_tokens": 4},
    }
    first = initial(metadata={"mine": "1"})
    value = response.final_response(
        first, status="completed", output=OUTPUT, upstream=upstream, completed_at=1_750_000_009
    )
    ours = ("id", "created_at", "background", "store", "previous_response_id", "top_p")
    assert value["metadata"] == {"mine": "1", "theirs": "1"}
    assert {name: value[name] for name in ours} == {name: first[name] for name in ours}
    assert (value["model"], value["temperature"], value["service_tier"]) == ("gpt-x-2026", 0.25, "priority")
    assert value["something_new"] == [1]
    assert (value["status"], value["completed_at"], value["error"]) == ("completed", 1_750_000_009, None)
    assert strict(value).output_text == "hi"


@pytest.mark.parametrize(
    "name", ["parallel_tool_calls", "tools", "text", "temperature", "tool_choice", "model"]
)
def test_an_upstreams_field_of_a_wrong_type_does_not_break_the_object(name: str) -> None:
    wrong: Any = "" if name == "model" else 7 if name in {"tool_choice", "tools"} else "yes"
    first = initial()
    value = response.final_response(
        first, status="completed", output=[], upstream={name: wrong}, completed_at=1
    )
    assert value[name] == first[name]
    strict(value)


@pytest.mark.parametrize(
    "error",
    [
        None,
        {"code": "no_such_code", "message": None},
        {"code": 7},
        {"type": "executor_lost", "message": "gone"},
    ],
)
def test_failed_always_says_why_with_a_code_of_the_closed_list(error: dict[str, Any] | None) -> None:
    value = response.final_response(initial(), status="failed", output=OUTPUT, error=error, completed_at=7)
    assert value["error"]["code"] in response.ERROR_CODES
    assert value["error"]["message"]
    assert value["completed_at"] is None
    assert strict(value).status == "failed"


def test_an_unknown_code_of_the_upstream_survives_as_the_type() -> None:
    error = response.response_error({"code": "context_length_exceeded", "message": "too long"})
    assert (error["code"], error["type"]) == ("server_error", "context_length_exceeded")
    assert response.response_error({"code": "invalid_prompt"})["code"] == "invalid_prompt"


@pytest.mark.parametrize("reason", ["max_tokens", "", 7, None, ["content_filter"]])
def test_a_reason_that_the_api_does_not_know_is_none(reason: object) -> None:
    theirs = {"incomplete_details": {"reason": reason}}
    value = response.final_response(initial(), status="incomplete", output=[], upstream=theirs)
    assert strict(value).incomplete_details is not None
    assert value["incomplete_details"] == {"reason": "max_output_tokens"}


def test_counts_are_read_under_the_names_of_chat_completions_too() -> None:
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    whole = response.whole_usage(usage)
    assert whole is not None
    assert (whole["input_tokens"], whole["output_tokens"], whole["total_tokens"]) == (5, 2, 7)
    assert whole["input_tokens_details"]["cached_tokens"] == 3
    assert whole["output_tokens_details"]["reasoning_tokens"] == 1


def test_incomplete_says_why_and_the_others_do_not() -> None:
    why = {"reason": "content_filter"}
    value = response.final_response(
        initial(), status="incomplete", output=[], incomplete_details=why, completed_at=7
    )
    assert (value["incomplete_details"], value["completed_at"]) == (why, None)
    assert strict(response.final_response(initial(), status="incomplete", output=[])).incomplete_details
    assert response.final_response(initial(), status="completed", output=[])["incomplete_details"] is None


def test_the_clients_metadata_wins_and_the_upstreams_is_beside_it_within_the_limits() -> None:
    theirs = {"mine": "2", "session": "s", "k" * 65: "x", "long": "x" * 513, "n": 1, 5: "x"}
    assert response.with_metadata({"mine": "1"}, theirs) == {"mine": "1", "session": "s"}
    many = {f"k{n}": "x" for n in range(20)}
    assert list(response.with_metadata({"mine": "1"}, many)) == ["mine", *list(many)[:15]]
    assert response.with_metadata({"mine": "1"}, ["odd"]) == {"mine": "1"}


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        ({"input_tokens": 3.0, "output_tokens": "4"}, (3, 4, 7)),
        ({"input_tokens": "3.0", "output_tokens": None}, (3, 0, 3)),
        ({"input_tokens": -1, "output_tokens": 4}, (0, 4, 4)),
        ({"input_tokens": True, "output_tokens": "x", "total_tokens": 9}, (0, 0, 9)),
        ({"input_tokens": float("inf"), "output_tokens": "nan", "total_tokens": 9}, (0, 0, 9)),
        ({"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}, (0, 0, 0)),
    ],
)
def test_counts_are_integers_however_they_are_sent(said: object, counts: tuple[int, int, int]) -> None:
    usage = response.whole_usage(said)
    assert usage is not None
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == counts


@pytest.mark.parametrize("said", [{}, {"input_tokens": None}, {"input_tokens": ""}, {"total_tokens": "n/a"}])
def test_placeholders_are_no_counts(said: object) -> None:
    assert response.whole_usage(said) is None


def test_usage_is_whole_or_null() -> None:
    assert response.whole_usage(None) is None
    assert response.whole_usage("many") is None
    assert response.whole_usage(
        {"input_tokens": 2, "output_tokens": 3, "output_tokens_details": 0, "new": 1}
    ) == {
        "input_tokens": 2,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 5,
        "new": 1,
    }


def test_what_an_upstream_left_out_of_its_settings_is_filled_in() -> None:
    asked = {"text": {"verbosity": "low"}, "reasoning": {"effort": "low"}}
    theirs = {"tools": [{"type": "function", "name": "f"}], "text": {}, "reasoning": {"summary": "auto"}}
    final = response.final_response(
        response.initial(asked, ID, 1, "m"), status="completed", output=[], upstream=theirs
    )
    assert final["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert final["reasoning"] == {"effort": "low", "summary": "auto"}
    assert final["tools"] == [
        {"type": "function", "name": "f", "description": None, "parameters": None, "strict": None}
    ]


@pytest.mark.parametrize("status", ["completed", "failed", "incomplete"])
@pytest.mark.parametrize(
    "odd", ["plain", 5, [1], {"format": "plain"}, {"format": {}}, {"format": 3}], ids=str
)
def test_fields_of_an_odd_shape_do_not_make_another_end(status: str, odd: Any) -> None:
    initial = response.initial({}, ID, 1, "m")
    theirs = dict.fromkeys(("text", "reasoning", "usage", "error", "incomplete_details", "tools"), odd)
    final = response.final_response(initial, status=status, output=[], upstream=theirs)
    assert (final["status"], final["text"]["format"]) == (status, {"type": "text"})


def test_an_error_that_is_a_mere_text_is_the_message() -> None:
    initial, theirs = response.initial({}, ID, 1, "m"), {"error": "out of memory"}
    final = response.final_response(initial, status="failed", output=[], upstream=theirs)
    assert final["error"] == {"code": "server_error", "message": "out of memory", "type": "upstream_error"}


def test_the_error_codes_are_the_sdks() -> None:
    literal = ResponseError.model_fields["code"].annotation
    assert set(literal.__args__) == response.ERROR_CODES  # type: ignore[union-attr]
