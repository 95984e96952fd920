"""Create requests: what is let in, and that a refusal names the field (A-9, A-13, A-14, A-16)."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseItem
from pydantic import TypeAdapter

from schemas import request, response
from schemas.errors import ApiError
from schemas.ids import response_id

ID = response_id(3, b"\x01" * 16)


def body(**changes: Any) -> bytes:
    fields = {"model": "echo", "input": "hi"} | changes
    return msgspec.json.encode({name: value for name, value in fields.items() if value is not ...})


def refused(raw: bytes) -> ApiError:
    with pytest.raises(ApiError) as refusal:
        request.parse(raw)
    return refusal.value


def test_what_rejoinder_acts_on_is_typed_and_the_body_kept_as_it_came() -> None:
    raw = b'{ "model":"echo", "input":"hi", "background":true, "something_new":{"a":[1]} }'
    parsed = request.parse(raw)
    assert (parsed.background, parsed.stream, parsed.store, parsed.previous) == (True, False, True, None)
    assert parsed.raw is raw
    assert parsed.body["something_new"] == {"a": [1]}


def test_null_is_the_default() -> None:
    parsed = request.parse(body(background=None, stream=None, store=None, temperature=None, metadata=None))
    assert (parsed.background, parsed.stream, parsed.store) == (False, False, True)


def test_the_same_meaning_has_the_same_hash() -> None:
    one = request.parse(b'{"model":"echo","input":"hi"}')
    same = request.parse(b'{"input": "hi",\n "model": "ech\\u006f"}')
    other = request.parse(body(input="hi "))
    assert one.sha256 == same.sha256 != other.sha256


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"nope",
        b"{",
        b'{"model":"echo","input":"hi"} x',
        b'{"model":"echo","input":NaN}',
        b'{"model":"echo","input":Infinity}',
        b'{"model":"echo","input":"hi","temperature":1e400}',
        b'{"model":"echo","input":"hi","max_output_tokens":' + b"9" * 5000 + b"}",
        b'{"model":"echo","input":"\xff"}',
        b'{"model":"echo","input":"\xed\xa0\x80"}',
        b'{"model":"echo","input":"raw \x00"}',
        b"[" * 100_000,
        b'{"model":"echo","input":"hi","new":' + b"[" * 500 + b"]" * 500 + b"}",
    ],
    ids=lambda raw: repr(raw[:48]),
)
def test_what_is_not_json_is_refused_without_a_field(raw: bytes) -> None:
    refusal = refused(raw)
    assert (refusal.status, refusal.param, refusal.code) == (400, None, "invalid_json")
    assert len(refusal.message) < 200


@pytest.mark.parametrize("text", [rb"\ud800", rb"\udc00 x", rb"a\ud83dz", rb"\uDBFF\u0041"])
def test_lone_surrogates_are_refused_and_said_to_be_that(text: bytes) -> None:
    assert "surrogate" in refused(b'{"model":"echo","input":"%b"}' % text).message


def test_pairs_nul_and_line_ends_in_text_are_fine() -> None:
    parsed = request.parse(rb'{"model":"echo","input":"\ud83d\ude00 \u0000 \r\n \u2028"}')
    assert parsed.body["input"] == "\U0001f600 \0 \r\n \u2028"


@pytest.mark.parametrize("raw", [b"[]", b"5", b'"text"', b"null"])
def test_what_is_not_an_object_is_refused(raw: bytes) -> None:
    assert (refused(raw).status, refused(raw).code) == (400, "invalid_type")


MESSAGE = {"role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    "changes, param, code",
    [
        ({"model": ...}, "model", "missing_required_parameter"),
        ({"model": 5}, "model", "invalid_type"),
        ({"model": ""}, "model", "empty_string"),
        ({"input": ...}, "input", "missing_required_parameter"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": 5}, "input", "invalid_type"),
        ({"input": {}}, "input", "invalid_type"),
        ({"input": []}, "input", "empty_array"),
        ({"input": ["hi"]}, "input[0]", "invalid_type"),
        ({"input": [MESSAGE, {"role": "user"}]}, "input[1].content", "missing_required_parameter"),
        ({"input": [{"content": "hi"}]}, "input[0].role", "missing_required_parameter"),
        ({"input": [{"role": "robot", "content": "hi"}]}, "input[0].role", "invalid_value"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content", "invalid_type"),
        ({"input": [{"role": "user", "content": ["hi"]}]}, "input[0].content[0]", "invalid_type"),
        (
            {"input": [{"role": "user", "content": [{"text": "hi"}]}]},
            "input[0].content[0].type",
            "missing_required_parameter",
        ),
        ({"input": [MESSAGE | {"id": 5}]}, "input[0].id", "invalid_type"),
        ({"input": [MESSAGE | {"id": ""}]}, "input[0].id", "empty_string"),
        ({"input": [{"type": 5}]}, "input[0].type", "invalid_type"),
        ({"input": [CALL | {"arguments": {}}]}, "input[0].arguments", "invalid_type"),
        ({"input": [CALL | {"call_id": None}]}, "input[0].call_id", "missing_required_parameter"),
        ({"background": "yes"}, "background", "invalid_type"),
        ({"background": 1}, "background", "invalid_type"),
        ({"stream": "true"}, "stream", "invalid_type"),
        ({"store": 0}, "store", "invalid_type"),
        ({"instructions": 5}, "instructions", "invalid_type"),
        ({"temperature": "1"}, "temperature", "invalid_type"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
        ({"temperature": -1}, "temperature", "decimal_below_min_value"),
        ({"temperature": 10**400}, "temperature", "decimal_above_max_value"),
        ({"top_p": 1.5}, "top_p", "decimal_above_max_value"),
        ({"max_output_tokens": 0}, "max_output_tokens", "integer_below_min_value"),
        ({"max_output_tokens": 1.5}, "max_output_tokens", "invalid_type"),
        ({"max_output_tokens": 2**60}, "max_output_tokens", "integer_above_max_value"),
        ({"top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "invalid_type"),
        ({"tools": {}}, "tools", "invalid_type"),
        ({"tools": [{}]}, "tools[0].type", "missing_required_parameter"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
        ({"tool_choice": "sometimes"}, "tool_choice", "invalid_value"),
        ({"tool_choice": 5}, "tool_choice", "invalid_type"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name", "missing_required_parameter"),
        ({"text": "json"}, "text", "invalid_type"),
        ({"text": {"format": "json"}}, "text.format", "invalid_type"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort", "invalid_type"),
        ({"include": "all"}, "include", "invalid_type"),
        ({"truncation": "some"}, "truncation", "invalid_value"),
        ({"service_tier": 7}, "service_tier", "invalid_type"),
        ({"stream_options": []}, "stream_options", "invalid_type"),
        ({"metadata": []}, "metadata", "invalid_type"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
        ({"metadata": {"a": None}}, "metadata.a", "invalid_type"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a", "string_above_max_length"),
        ({"metadata": {"k" * 65: "x"}}, "metadata", "property_name_above_max_length"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata", "object_above_max_properties"),
        ({"agent_reference": "echo"}, "agent_reference", "invalid_type"),
        (
            {"agent_reference": {"type": "agent_reference"}},
            "agent_reference.name",
            "missing_required_parameter",
        ),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"conversation": {"id": "conv_1"}}, "conversation", "unsupported_parameter"),
    ],
    ids=str,
)
def test_a_refusal_names_the_field(changes: dict[str, Any], param: str, code: str) -> None:
    refusal = refused(body(**changes))
    assert (refusal.status, refusal.param, refusal.code) == (400, param, code)
    assert refusal.type == "invalid_request_error"


def test_a_refusal_reads_as_openais() -> None:
    assert refused(body(temperature="1")).message == (
        "Invalid type for 'temperature': expected a decimal number, but got a string instead."
    )
    assert refused(body(temperature=200)).message == (
        "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 200 instead."
    )
    assert refused(body(input=...)).message == "Missing required parameter: 'input'."


def test_the_refusal_of_a_boolean_says_which_there_are() -> None:
    assert refused(body(stream="yes")).message == (
        "Invalid type for 'stream': expected a boolean (true or false), but got a string instead."
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": {str(n) * 32: "x" * 512 for n in range(10, 26)}},
        {"temperature": 0, "top_p": 1, "top_logprobs": 20, "max_output_tokens": 1},
        {"model": ..., "agent_reference": {"type": "agent_reference", "name": "echo"}},
        {"input": ""},
        {"input": ..., "previous_response_id": ID},
        {"input": [], "previous_response_id": ID},
        {"input": [{"type": "brand_new", "whatever": 1}, {"id": "msg_1"}]},
        {"background": False, "store": False, "stream": True},
        {"background": True, "store": False, "stream": True},
        {"tools": [{"type": "brand_new"}], "tool_choice": {"type": "brand_new"}},
    ],
    ids=str,
)
def test_what_is_within_the_rules_is_let_in(changes: dict[str, Any]) -> None:
    request.parse(body(**changes))


def test_the_last_of_duplicate_keys_counts() -> None:
    assert request.parse(b'{"model":"a","input":"x","model":"echo"}').body["model"] == "echo"


def test_a_predecessor_is_parsed_and_a_malformed_one_is_not_found() -> None:
    assert request.parse(body(previous_response_id=ID)).previous == ID
    for malformed in ("", "resp_1", "x" * 5000, ID + "\n"):
        refusal = refused(body(previous_response_id=malformed))
        assert (refusal.status, refusal.param) == (404, "previous_response_id")
        assert len(refusal.message) < 200


ITEMS = [
    MESSAGE,
    {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "be brief"}]},
    {"role": "assistant", "content": "hello", "id": "msg_mine"},
    {"role": "assistant", "content": [{"type": "output_text", "text": "hello"}]},
    CALL,
    {"type": "function_call_output", "call_id": "c", "output": "4"},
    {"type": "reasoning", "id": None, "summary": []},
]


def test_input_items_are_what_the_sdk_can_read() -> None:
    items = request.input_items({"input": ITEMS}, ID)
    for item in items:
        TypeAdapter[Any](ResponseItem).validate_json(msgspec.json.encode(item), strict=True)
    assert items[2]["id"] == "msg_mine"
    assert items[2]["content"] == [{"type": "output_text", "text": "hello", "annotations": []}]
    assert [item["id"].split("_")[0] for item in items] == ["msg"] * 4 + ["fc", "fco", "rs"]
    assert len({item["id"] for item in items}) == len(items)


def test_text_input_is_one_user_message() -> None:
    (item,) = request.input_items({"input": "hi"}, ID)
    assert item == {
        "id": item["id"],
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_text", "text": "hi"}],
    }
    assert request.input_items({"input": "hi"}, ID) == [item]
    assert request.input_items({"previous_response_id": ID}, ID) == []


def test_input_items_keep_unknown_fields_and_leave_the_body_alone() -> None:
    given = {"type": "brand_new", "x": 1}
    (item,) = request.input_items({"input": [given]}, ID)
    assert item == given | {"id": item["id"]}
    assert given == {"type": "brand_new", "x": 1}
    assert request.input_items({"input": [{"id": "msg_9"}]}, ID) == [
        {"id": "msg_9", "type": "item_reference"}
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3)
    ),
    max_leaves=8,
)
SHAPED = st.dictionaries(
    st.sampled_from(
        ["type", "role", "content", "id", "name", "text", "format", "call_id", "output", "schema"]
    ),
    JSON
    | st.sampled_from(["message", "user", "function", "input_text", "function_call_output", "json_schema"]),
    max_size=5,
)
FIELDS = sorted({*request.FIELDS, "conversation", "something_new"})


def outcome(raw: bytes) -> request.CreateRequest | ApiError:
    try:
        return request.parse(raw)
    except ApiError as refusal:
        return refusal


@given(st.dictionaries(st.sampled_from(FIELDS), JSON | SHAPED | st.lists(SHAPED, max_size=3), max_size=6))
def test_any_json_is_refused_with_its_field_or_makes_a_whole_object(fields: dict[str, Any]) -> None:
    parsed = outcome(msgspec.json.encode({"model": "echo", "input": "hi"} | fields))
    if isinstance(parsed, ApiError):
        assert parsed.code == "invalid_json" or any(str(parsed.param).startswith(field) for field in FIELDS)
        return
    value = response.initial(parsed.body, ID, 1, "echo")
    assert msgspec.json.decode(msgspec.json.encode(value)) == value
    assert all(item["id"] and item["type"] for item in request.input_items(parsed.body, ID))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_parsed(raw: bytes) -> None:
    parsed = outcome(raw)
    assert not isinstance(parsed, ApiError) or parsed.status == 400


def test_input_items_with_the_same_id_can_be_told_apart() -> None:
    """Whoever pages through them goes on after an id, and would never come to an end."""
    given = [{"id": "x", "role": "user", "content": text} for text in "abc"]
    items = request.input_items({"input": given}, ID)
    assert [item["content"][0]["text"] for item in items] == ["a", "b", "c"]
    assert items[0]["id"] == "x"
    assert len({item["id"] for item in items}) == 3
    assert [item["id"] for item in request.input_items({"input": given})] == ["x"] * 3
    references = request.input_items({"input": [{"id": "x"}] * 2}, ID)
    assert [item["type"] for item in references] == ["item_reference"] * 2
    assert references[0]["id"] != references[1]["id"]


def test_a_byte_order_mark_is_ignored_and_not_stored() -> None:
    plain = request.parse(b'{"model":"echo","input":"hi"}')
    marked = request.parse(b'\xef\xbb\xbf{"model":"echo","input":"hi"}')
    assert (marked.raw, marked.sha256) == (plain.raw, plain.sha256)


@pytest.mark.parametrize(
    "raw", ['{"model":"echo","input":"hi"}'.encode("utf-16"), b"\xef\xbb\xbf", b"\xef\xbb\xbf" * 2 + b"{}"]
)
def test_another_encoding_and_a_mark_alone_are_refused(raw: bytes) -> None:
    assert (refused(raw).status, refused(raw).code) == (400, "invalid_json")


@pytest.mark.parametrize("tier", ["auto", "fast", "ultrafast", "one of next year"])
def test_every_service_tier_is_taken(tier: str) -> None:
    parsed = request.parse(body(service_tier=tier))
    assert response.initial(parsed.body, ID, 1, "echo")["service_tier"] == tier


@pytest.mark.parametrize(
    "fields",
    [
        {"background_options": None},
        {"background_options": {}},
        {"background_options": {"completion_window": None}},
        {"background_options": {"completion_window": "soonest", "continuation_id": "c"}},
        {"background_options": {"completion_window": "soonest"}, "stream": True},
        {"background_options": {"completion_window": "2h"}, "background": True},
        {"background_options": {"completion_window": "8h"}, "background": True, "stream": False},
    ],
)
def test_a_completion_window_that_can_be_kept_is_taken(fields: dict[str, Any]) -> None:
    assert request.parse(body(**fields)).body["background_options"] == fields["background_options"]


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"background_options": "2h"}, "background_options"),
        ({"background_options": {"continuation_id": 7}}, "background_options.continuation_id"),
        *[
            (
                {"background_options": {"completion_window": window}, **others},
                "background_options.completion_window",
            )
            for window, others in [
                ("1h", {"background": True}),
                ("", {"background": True}),
                (7, {"background": True}),
                ("2h", {}),
                ("8h", {"background": False}),
                ("2h", {"background": True, "stream": True}),
            ]
        ],
    ],
)
def test_a_completion_window_that_cannot_be_kept_is_refused(fields: dict[str, Any], param: str) -> None:
    refusal = refused(body(**fields))
    assert (refusal.status, refusal.param) == (400, param)
