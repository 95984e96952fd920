"""Which failure a client that waits for the object is answered as an error, and with which status (A-24)."""

import json
from typing import Any

import pytest

from schemas import response
from schemas.errors import ApiError
from schemas.ids import ResponseId
from schemas.refusal import http_status_of, refusal, says_something

ID = ResponseId("resp_" + "a" * 36)
BODY = {"model": "m", "input": "hi"}


def refused(
    error: dict[str, Any] | None,
    output: list[Any] | None = None,
    *,
    keyed: bool = False,
    status: str = "failed",
) -> ApiError | None:
    initial = response.initial(BODY, ID, 1, "m")
    final = response.final_response(initial, status=status, output=output or [], error=error)
    return refusal(json.dumps(final).encode(), keyed=keyed)


def told(error: dict[str, Any], *, keyed: bool = False) -> ApiError:
    answer = refused(error, keyed=keyed)
    assert answer is not None
    return answer


@pytest.mark.parametrize(
    "upstream, status",
    [
        *[(400, 400), (413, 400), (422, 400), (429, 429)],
        *[
            (upstream, 502)
            for upstream in (401, 402, 403, 404, 405, 408, 409, 410, 418, 500, 502, 503, 504, 529)
        ],
    ],
)
def test_an_upstreams_refusal_has_the_status_of_who_can_mend_it(upstream: int, status: int) -> None:
    assert http_status_of({"code": "rate_limit_exceeded", "type": "x", "upstream_status": upstream}) == status


@pytest.mark.parametrize("code", sorted(response.ERROR_CODES))
def test_a_code_of_the_list_says_what_is_wrong(code: str) -> None:
    special = {"server_error": 502, "rate_limit_exceeded": 429, "vector_store_timeout": 504}

    assert http_status_of({"code": code, "type": "upstream_error"}) == special.get(code, 400)


@pytest.mark.parametrize(
    "type, status",
    [
        *[("upstream_idle", 504), ("deadline", 504)],
        *[
            ("no_backend", 400),
            ("unsupported", 400),
            ("invalid_request_error", 400),
            ("rate_limit_error", 429),
        ],
        *[(type, 500) for type in ("executor_lost", "attempts_exhausted", "internal_error", "conversation")],
        *[
            (f"upstream_{what}", 502)
            for what in ("error", "unreachable", "truncated", "malformed", "cancelled")
        ],
        *[("event_too_large", 502), ("what somebody may say", 502)],
    ],
)
def test_rejoinders_own_word_decides_where_the_code_says_nothing(type: str, status: int) -> None:
    assert http_status_of({"code": "server_error", "type": type}) == status


@pytest.mark.parametrize(
    "error", [{}, {"type": 7, "code": 7, "upstream_status": "x"}, {"upstream_status": True}]
)
def test_an_error_of_no_known_shape_is_the_upstreams(error: dict[str, Any]) -> None:
    assert http_status_of(error) == 502


def test_no_status_is_one_that_clients_repeat_by_themselves_without_a_header() -> None:
    """409 would be repeated (A-10); the others are told not to be."""
    for upstream in range(400, 600):
        answer = told({"message": "no", "upstream_status": upstream})
        assert answer.status in (400, 429, 502)
        assert answer.headers["x-should-retry"] == "false"


def test_the_envelope_says_what_the_object_says() -> None:
    error = {
        "message": "Too hot.",
        "code": "invalid_prompt",
        "type": "upstream_error",
        "param": "temperature",
    }

    answer = told(error | {"upstream_status": 400})

    assert (answer.message, answer.code, answer.type, answer.param) == (
        "Too hot.", "invalid_prompt", "upstream_error", "temperature"
    )  # fmt: skip
    assert answer.headers["x-rejoinder-response-id"] == ID


@pytest.mark.parametrize(
    "wait, seconds", [(None, "1"), (0, "1"), (0.2, "1"), (7, "7"), (7.1, "8"), (3600, "60")]
)
def test_a_wait_is_1_to_60_whole_seconds(wait: float | None, seconds: str) -> None:
    error = {"upstream_status": 429} | ({} if wait is None else {"retry_after": wait})

    assert told(error).headers["retry-after"] == seconds


@pytest.mark.parametrize("upstream, status", [(429, 429), (503, 502)])
def test_what_was_not_started_may_be_repeated_unless_a_key_leads_back_to_it(
    upstream: int, status: int
) -> None:
    error = {"upstream_status": upstream, "retry_after": 3}
    again, keyed = told(error), told(error, keyed=True)

    assert (again.status, again.headers["x-should-retry"], again.headers["retry-after"]) == (
        status,
        "true",
        "3",
    )
    assert (keyed.status, keyed.headers["x-should-retry"]) == (status, "false")


@pytest.mark.parametrize("status", ["completed", "incomplete"])
def test_what_did_not_fail_is_the_answer(status: str) -> None:
    assert refused(None, status=status) is None
    assert (
        refusal(json.dumps(response.cancelled(response.initial(BODY, ID, 1, "m"))).encode(), keyed=False)
        is None
    )


MESSAGE = {"type": "message", "id": "msg_1", "role": "assistant", "status": "incomplete"}
SAYS = [
    {**MESSAGE, "content": [{"type": "output_text", "text": "a"}]},
    {**MESSAGE, "content": [{"type": "refusal", "refusal": "no"}]},
    {**MESSAGE, "content": ["odd"]},
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
    {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
    {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": ""},
    {"type": "web_search_call", "id": "ws_1", "status": "in_progress"},
    "odd",
]
SILENT = [
    {**MESSAGE, "content": []},
    {**MESSAGE, "content": [{"type": "output_text", "text": ""}]},
    {**MESSAGE, "content": [{"type": "refusal", "refusal": ""}]},
    {**MESSAGE, "content": None},
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": ""}], "content": None},
]


@pytest.mark.parametrize("item", SAYS)
def test_a_response_that_failed_after_output_is_the_answer(item: Any) -> None:
    assert says_something([*SILENT, item])
    assert refused({"message": "no"}, [item]) is None


@pytest.mark.parametrize("item", SILENT)
def test_an_item_that_was_only_begun_is_no_output(item: Any) -> None:
    assert not says_something([item])
    assert refused({"message": "no"}, [item]) is not None


def test_output_that_was_streamed_and_does_not_fit_the_object_is_output() -> None:
    assert refused({"message": "no", "output_omitted": True}) is None


@pytest.mark.parametrize("final", [b"", b"{", b"[]", b'{"status": 7}', b"\xff", b'{"status":"failed"}'])
def test_an_object_that_nobody_can_read_is_passed_on(final: bytes) -> None:
    assert refusal(final, keyed=False) is None
