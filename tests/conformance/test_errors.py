"""A-15, A-16: refusals. Each names its field, nothing is stored, and the server goes on."""

import json
from typing import Any

import pytest

from tests.api import Api, error_of, request, text
from tests.wire import Connection

UNKNOWN = "resp_0000" + "0" * 32
MALFORMED = [
    "x",
    "resp_",
    "resp_zz",
    "RESP_0000" + "0" * 32,
    UNKNOWN + "0",
    UNKNOWN[:-1] + "G",
    "resp_ffff" + "0" * 32,
    "..",
    "a\r\nx-evil: 1",
    "\x00",
    "é",
    "'",
    "<script>",
    "a" * 3000,
]


def assert_alive(api: Api) -> None:
    assert text(api.response(api.closed("still here"))) == "still here"


@pytest.mark.parametrize("id", [UNKNOWN, *MALFORMED], ids=lambda text: ascii(text)[1:40])
def test_a15_unknown_and_malformed_ids_are_one_404(api: Api, id: str) -> None:
    answers = [api.get(id), api.get(id, "?stream=true"), api.cancel(id), api.input_items(id), api.delete(id)]
    expected = {
        "message": f"Response with id '{id}' not found.",
        "type": "invalid_request_error",
        "param": "response_id",
        "code": "not_found",
    }

    for answer in answers:
        assert answer.status == 404, answer
        assert "x-evil" not in answer.headers
        if id != "..":  # a path segment that proxies and clients may resolve
            assert error_of(answer) == expected


def test_a15_a_foreign_response_is_404(api: Api, stranger: Api) -> None:
    id = api.closed()

    answers = [
        stranger.get(id),
        stranger.get(id, "?stream=true"),
        stranger.cancel(id),
        stranger.input_items(id),
        stranger.delete(id),
    ]

    assert [answer.status for answer in answers] == [404] * 5
    assert {error_of(answer)["message"] for answer in answers} == {f"Response with id '{id}' not found."}
    assert api.get(id).status == 200


def test_a16_other_paths_and_methods_answer_in_the_envelope(api: Api) -> None:
    assert error_of(unknown := api.ask("GET", "/v1/nothing"))["type"] == "invalid_request_error"
    assert error_of(wrong := api.ask("PUT", "/v1/responses", {}))["type"] == "invalid_request_error"
    assert (unknown.status, wrong.status) == (404, 405)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "POST"])
def test_a16_a_method_that_is_not_allowed_is_told_which_are(api: Api, method: str) -> None:
    expected = {
        "/v1/responses": "POST",
        f"/v1/responses/{UNKNOWN}": "DELETE, GET, HEAD",
        f"/v1/responses/{UNKNOWN}/cancel": "POST",
        f"/v1/responses/{UNKNOWN}/input_items": "GET, HEAD",
    }
    for path, allow in expected.items():
        if method not in allow:
            error = error_of(answer := api.ask(method, path, {}))
            assert (answer.status, answer.headers["allow"]) == (405, allow), path
            assert error["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path",
    [
        "responses/compact",
        "responses/input_tokens",
        "chat/completions",
        "conversations",
        "files",
        "embeddings",
    ],
)
def test_a16_a_route_of_openais_that_is_not_offered_says_so(api: Api, path: str) -> None:
    error = error_of(answer := api.ask("POST", f"/v1/{path}", {"model": "echo", "messages": []}))

    assert (answer.status, error["code"]) == (404, "not_offered")
    assert f"/v1/{path}" in error["message"]
    assert "POST /v1/responses" in error["message"]


def test_a16_a_byte_order_mark_is_ignored(api: Api) -> None:
    body = b"\xef\xbb\xbf" + json.dumps(request("one", background=None)).encode()

    assert text(api.post(body).json) == "one"


def test_a16_a_window_is_for_what_nobody_waits_for(api: Api) -> None:
    options: dict[str, Any] = {"background_options": {"completion_window": "8h"}}
    refused = [
        api.post(request("one", background=None, **options)),
        api.post(request(stream=True, **options)),
    ]
    unknown = api.post(request(background_options={"completion_window": "1h"}))

    assert api.post(request("one", **options)).status == 200
    assert [answer.status for answer in (*refused, unknown)] == [400] * 3
    for answer in (*refused, unknown):
        assert error_of(answer)["param"] == "background_options.completion_window"


def test_a16_any_service_tier_is_taken(api: Api) -> None:
    assert api.post(request(service_tier="of next year")).json["service_tier"] == "of next year"


NOT_JSON = {
    "empty": b"",
    "not json": b"hello",
    "half": b'{"model": "echo", "input": "x"',
    "two": b'{"model":"echo","input":"x"}{}',
    "list": b"[]",
    "text": b'"x"',
    "number": b"1",
    "null": b"null",
    "not utf-8": b'{"model":"echo","input":"\xff"}',
    "lone surrogate": b'{"model":"echo","input":"\\ud800"}',
    "bare NaN": b'{"model":"echo","input":"x","temperature":NaN}',
    "raw line break": b'{"model":"echo","input":"a\nb"}',
    "deep": b'{"model":"echo","input":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep and open": b"[" * 100_000,
    "deep objects": b'{"model":"echo","input":"x","x":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
def test_a16_what_is_no_json_object_is_400(api: Api, body: bytes) -> None:
    error = error_of(answer := api.post(body))

    assert answer.status == 400
    assert error["type"] == "invalid_request_error"
    assert_alive(api)


LONG = "x" * 513
BAD_FIELDS: list[tuple[str, Any, str]] = [
    ("input", None, "input"),
    ("input", 7, "input"),
    ("input", {}, "input"),
    ("input", True, "input"),
    ("input", ["text"], "input"),
    ("input", [7], "input"),
    ("input", [None], "input"),
    ("model", 7, "model"),
    ("model", "", "model"),
    ("model", ["echo"], "model"),
    ("model", "no-such-model", "model"),
    ("background", "yes", "background"),
    ("background", 1, "background"),
    ("stream", "true", "stream"),
    ("store", "no", "store"),
    ("previous_response_id", 7, "previous_response_id"),
    ("previous_response_id", {}, "previous_response_id"),
    ("metadata", "x", "metadata"),
    ("metadata", [], "metadata"),
    ("metadata", {"k": 7}, "metadata"),
    ("metadata", {"k": {}}, "metadata"),
    ("metadata", {"k": LONG}, "metadata"),
    ("metadata", {"k" * 65: "v"}, "metadata"),
    ("metadata", {f"k{n}": "v" for n in range(17)}, "metadata"),
    ("metadata", {"echo.tokens": "many"}, "metadata"),
    ("metadata", {"echo.unknown": "1"}, "metadata"),
    ("instructions", 7, "instructions"),
    ("temperature", "hot", "temperature"),
    ("top_p", {}, "top_p"),
    ("max_output_tokens", "many", "max_output_tokens"),
    ("parallel_tool_calls", "no", "parallel_tool_calls"),
    ("tools", {}, "tools"),
    ("agent_reference", "weather", "agent_reference"),
    ("agent_reference", {"type": "agent_reference", "name": "nobody"}, "agent_reference"),
    ("agent_reference", {"type": "agent_reference", "name": 7}, "agent_reference"),
    ("agent_reference", {"type": "something", "name": "x"}, "agent_reference"),
    ("conversation", "conv_1", "conversation"),
    ("conversation", {"id": "conv_1"}, "conversation"),
]


@pytest.mark.parametrize(
    "field, value, param", BAD_FIELDS, ids=[f"{f}={str(v)[:30]}" for f, v, _ in BAD_FIELDS]
)
def test_a16_a_bad_field_is_400_and_named(api: Api, field: str, value: Any, param: str) -> None:
    error = error_of(answer := api.post({**request("one"), field: value}))

    assert answer.status == 400, answer
    assert error["type"] == "invalid_request_error"
    assert str(error["param"]).split(".")[0].split("[")[0] == param
    assert error["code"]


@pytest.mark.parametrize("field", ["input", "model"])
def test_a16_a_missing_field_is_400_and_named(api: Api, field: str) -> None:
    error = error_of(answer := api.post({k: v for k, v in request("one").items() if k != field}))

    assert (answer.status, error["param"]) == (400, field)


def test_a16_an_unknown_model_has_its_code(api: Api) -> None:
    error = error_of(api.post(request(model="no-such-model")))

    assert error["code"] == "model_not_found"
    assert "no-such-model" in error["message"]


@pytest.mark.parametrize("length", [9_000_000, 20_000_000])
def test_a16_too_large_is_413(api: Api, length: int) -> None:
    error = error_of(answer := api.post(request("x" * length)))

    assert answer.status == 413
    assert error["type"] == "invalid_request_error"
    assert_alive(api)


def test_a16_a_declared_length_that_is_too_large_is_refused_before_the_body_comes(api: Api) -> None:
    with api.connect("POST", "/v1/responses", headers={"content-length": "20000000"}) as connection:
        assert (connection.status, connection.headers["x-should-retry"]) == (413, "false")


@pytest.mark.parametrize("chunks, status", [(3, 200), (1000, 413)])
def test_a16_a_body_without_a_length_is_taken_and_bounded(api: Api, chunks: int, status: int) -> None:
    body = json.dumps(request("x " * 5_000 * chunks)).encode()
    size = -(-len(body) // chunks)
    with Connection(api.base_url) as connection:
        headers = {"transfer-encoding": "chunked", "content-type": "application/json"}
        connection.send("POST", "/v1/responses", None, headers)
        for start in range(0, len(body), size):
            chunk = body[start : start + size]
            connection.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        connection.write(b"0\r\n\r\n")
        connection.read_head()

        assert connection.status == status, connection.body()
    assert_alive(api)


def test_a16_a_body_that_never_comes_in_full_is_nothing(api: Api) -> None:
    body = json.dumps(request()).encode()
    for length in range(0, len(body), 7):
        with Connection(api.base_url) as connection:
            connection.send("POST", "/v1/responses", None, {"content-length": str(len(body))})
            connection.write(body[:length])
    assert_alive(api)


def test_a16_a_large_body_within_the_bound_is_taken(api: Api) -> None:
    words = "w" * 99 + " "
    id = api.closed(words * 4000)

    assert text(api.response(id)) == (words * 4000).strip()


def test_a16_limits_of_metadata_are_inclusive(api: Api) -> None:
    metadata = {f"{n:02}" + "k" * 62: "v" * 512 for n in range(16)}

    assert api.response(api.create(metadata=metadata))["metadata"] == metadata


NASTY = [
    "nul\x00nul",
    "\x01\x02\x1b[31m",
    "\u202e\ufeff",
    "𝒳👩‍👩‍👧‍👦",
    "data:",
    "event:ping",
    "\\u0000",
    "</script>",
    "\ufffe\uffff",
]


@pytest.mark.parametrize("word", NASTY, ids=ascii)
def test_a16_strange_text_comes_back_as_it_went(api: Api, word: str) -> None:
    id = api.create(f"{word} end", instructions=word, metadata={"note": word})
    frames = api.events(id)

    response = api.response(id)
    assert text(response) == f"{word} end"
    assert (response["instructions"], response["metadata"]["note"]) == (word, word)
    assert frames[-1].event["response"] == response


def test_a16_unknown_fields_are_taken(api: Api) -> None:
    body = request("one", x_unknown={"a": [1, 2, {"b": None}]}, **{"another-one": 1.5})

    assert api.post(body).status == 200


def test_a16_numbers_that_other_languages_cannot_hold_are_kept_or_refused(api: Api) -> None:
    body = json.dumps(request("one"))[:-1] + ', "x": 123456789012345678901234567890, "y": 1e400}'

    assert api.post(body.encode()).status in (200, 400)
    assert_alive(api)


def test_a16_refusals_that_a_retry_cannot_mend_say_so(api: Api) -> None:
    for answer in (api.post(b"{"), api.post(request(model="no-such-model")), api.get(UNKNOWN)):
        assert answer.status in (400, 404)
        assert answer.status != 409


def test_a27_the_models_are_listed_and_found_by_name(api: Api) -> None:
    listed = api.ask("GET", "/v1/models")
    models = {model["id"]: model for model in listed.json["data"]}

    assert (listed.status, listed.json["object"]) == (200, "list")
    assert models["echo"] == api.ask("GET", "/v1/models/echo").json
    assert (models["echo"]["object"], type(models["echo"]["created"])) == ("model", int)
    assert isinstance(models["echo"]["owned_by"], str)


@pytest.mark.parametrize("name", ["no-such-model", "no/such/model", "%C3%A9", "ECHO"])
def test_a27_an_unknown_model_is_404(api: Api, name: str) -> None:
    error = error_of(answer := api.ask("GET", f"/v1/models/{name}"))

    assert (answer.status, error["code"]) == (404, "model_not_found")
    assert error["message"].endswith("does not exist.")


def test_a27_every_tenant_sees_all_models(api: Api, stranger: Api) -> None:
    assert api.ask("GET", "/v1/models").json == stranger.ask("GET", "/v1/models").json
