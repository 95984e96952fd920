"""An upstream's words are found in whatever form it tells of an error (U-9)."""

import json
from typing import Any

import pytest

from services.executor.backends.told import refuses, words_in


@pytest.mark.parametrize(
    ("body", "said", "code"),
    [
        ({"error": {"message": "boom", "code": "oops"}}, "boom", "oops"),
        ([{"error": {"message": "boom", "code": 503, "status": "UNAVAILABLE"}}], "boom", 503),
        ({"error": [{"message": "one"}, {"message": "two"}]}, "one; two", None),
        ({"errors": [{"message": "boom", "code": "x"}]}, "boom", None),
        ({"error": "boom"}, "boom", None),
        ({"error": {"error": {"message": "boom", "code": "x"}}}, "boom", "x"),
        ({"error": {"detail": "boom"}}, "boom", None),
        ({"detail": "boom"}, "boom", None),
        ({"detail": {"msg": "boom"}}, "boom", None),
        (
            {"detail": [{"loc": ["body", "input"], "msg": "field required"}]},
            "body.input: field required",
            None,
        ),
        ({"detail": [{"loc": ["body"]}]}, '[{"loc":["body"]}]', None),
        ({"object": "error", "message": "boom", "code": 400}, "boom", 400),
        ({"error": "invalid_request", "error_description": "boom"}, "invalid_request", None),
        ({"message": {"text": "boom"}}, "boom", None),
        ({"Message": "boom"}, "boom", None),
        ({"code": 500, "msg": "boom", "success": False}, "boom", 500),
        ({"base_resp": {"status_code": 1004, "status_msg": "boom"}}, "boom", None),
        ({"error": {}}, "", None),
        ("boom", "boom", None),
        (7, "", None),
        (b"boom \n boom", "boom boom", None),
        (b"data: " + json.dumps({"error": {"message": "boom"}}).encode() + b"\n\n", "boom", None),
        (b'event: error\ndata: {"message": "boom"}\n\n', "boom", None),
        (
            b"<html><head><title>502 Bad\nGateway</title></head><body>nginx</body></html>",
            "502 Bad Gateway",
            None,
        ),
        (b"<html><style>p {}</style><p>No &amp; more</p><script>x</script></html>", "No & more", None),
        (b"\x00\x01\x02", "", None),
        (b"", "", None),
    ],
)
def test_the_words_are_found(body: Any, said: str, code: object) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert words_in(raw) == (said, code)


def test_words_are_bounded_and_so_is_the_search() -> None:
    deep: Any = "boom"
    for _ in range(50):
        deep = {"error": deep}
    assert words_in(json.dumps(deep).encode()) == ("", None)
    assert len(words_in(b"x" * 100_000)[0]) == 300


@pytest.mark.parametrize(
    ("answer", "does"),
    [
        ({"code": 500, "msg": "boom", "success": False}, True),
        ({"code": "1113", "msg": "boom"}, True),
        ({"success": False, "message": "boom"}, True),
        ({"base_resp": {"status_code": 1004, "status_msg": "boom"}, "choices": None}, True),
        ({"base_resp": {"status_code": 0, "status_msg": ""}}, False),
        ({"code": 0, "msg": "success"}, False),
        ({"code": 200, "message": "ok", "success": True}, False),
        ({"code": 500}, False),
        ({"message": "hello"}, False),
        ({"code": {}, "message": "hello"}, False),
    ],
)
def test_an_object_that_refuses_is_known_by_its_code(answer: dict[str, Any], does: bool) -> None:
    assert refuses(answer) is does
