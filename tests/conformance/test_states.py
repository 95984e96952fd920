"""A-8, A-9, A-10, A-24: statuses, the store, admission, failures as answers."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.api import SLOW_MS, Api, error_of, insisting, request, text


def fresh_key() -> dict[str, str]:
    return {"idempotency-key": secrets.token_hex(8)}


def test_a8_a_background_response_is_answered_queued_and_completes(api: Api) -> None:
    answer = api.post(request("one two"))
    id = answer.json["id"]

    assert (answer.status, answer.json["status"], answer.json["output"]) == (200, "queued", [])
    assert answer.json["completed_at"] is None
    final = api.eventually(id, lambda response: response["status"] not in ("queued", "in_progress"))
    assert (final["status"], final["error"], text(final)) == ("completed", None, "one two")
    assert isinstance(final["completed_at"], int)
    assert final["completed_at"] >= final["created_at"]


def test_a8_an_open_response_says_when_to_ask_again(api: Api) -> None:
    waits = "openai-poll-after-ms"
    created = api.post(request("one", interval_ms=SLOW_MS))
    id = created.json["id"]
    shown, streamed = api.get(id), api.stream(id)
    streamed.close()
    cancelled = api.cancel(id)

    assert [answer.headers.get(waits) for answer in (created, shown)] == ["1000", "1000"]
    assert waits not in cancelled.headers
    assert waits not in api.get(id).headers


def test_a8_a_repeated_key_that_meets_a_closed_response_is_not_told_to_ask_again(api: Api) -> None:
    key, body = fresh_key(), request("one")
    id = api.post(body, key).json["id"]
    api.events(id)

    assert "openai-poll-after-ms" not in api.post(body, key).headers


def test_a8_an_open_response_shows_its_output_so_far(api: Api) -> None:
    id = api.create("alpha beta", tokens=50, interval_ms=50)

    partial = api.eventually(id, text)

    assert partial["status"] == "in_progress"
    assert partial["completed_at"] is None
    assert partial["error"] is None
    assert text(partial).startswith("alpha")
    assert len(text(partial)) < len(text(api.eventually(id, lambda r: r["status"] == "completed")))


@pytest.mark.parametrize("after", [0, 2])
def test_a8_a_failed_response_says_why_and_keeps_its_output(api: Api, after: int) -> None:
    failed = api.response(api.closed("one two three", fail_after=after))

    assert (failed["status"], failed["completed_at"]) == ("failed", None)
    assert (failed["error"]["code"], failed["error"]["type"]) == ("server_error", "upstream_error")
    assert failed["error"]["message"]
    assert text(failed).split() == ["one", "two", "three"][:after]


def test_a8_a_synchronous_post_answers_the_final_object(api: Api) -> None:
    answer = api.post(request("one two", background=None))

    assert (answer.status, answer.json["status"], text(answer.json)) == (200, "completed", "one two")
    assert api.response(answer.json["id"]) == answer.json


def test_a8_a_synchronous_post_answers_a_failure_as_an_object(api: Api) -> None:
    answer = api.post(request("one two", background=False, fail_after=1))

    assert (answer.status, answer.json["status"]) == (200, "failed")
    assert answer.json["error"]["code"] == "server_error"


@pytest.mark.parametrize("keyed", [False, True])
def test_a24_a_synchronous_post_that_failed_before_its_output_is_answered_with_the_failure(
    api: Api, keyed: bool
) -> None:
    headers = {"idempotency-key": secrets.token_hex(8)} if keyed else {}
    body = request("one two", background=None, fail_after=0)

    answer, again = api.post(body, headers), api.post(body, headers)

    error = error_of(answer)
    failed = api.response(answer.headers["x-rejoinder-response-id"])
    assert (answer.status, answer.headers["x-should-retry"]) == (502, "false")
    assert (error["code"], error["type"]) == ("server_error", "upstream_error")
    assert (failed["status"], failed["error"]["message"]) == ("failed", error["message"])
    same = again.headers["x-rejoinder-response-id"] == answer.headers["x-rejoinder-response-id"]
    assert (again.status, again.json, same) == (502, answer.json, keyed)


def test_a9_in_the_background_what_is_not_stored_is_read_as_any_other(api: Api, stranger: Api) -> None:
    id = api.create("one two", store=False)
    live = api.events(id)
    closed = api.response(id)

    assert (closed["status"], closed["store"], closed["background"]) == ("completed", False, True)
    assert text(closed) == "one two"
    assert api.events(id) == live
    assert api.events(id, 3) == live[4:]
    assert api.input_items(id).json["data"][0]["content"][0]["text"] == "one two"
    assert error_of(api.cancel(id))["message"] == "Cannot cancel a completed response."
    for foreign in (stranger.get(id), stranger.input_items(id), stranger.cancel(id), stranger.delete(id)):
        assert foreign.status == 404


def test_a9_in_the_background_what_is_not_stored_is_cancelled_and_deleted_as_any_other(api: Api) -> None:
    id = api.open(store=False)
    with api.stream(id) as stream:
        frames = stream.frames()
        next(frames)
        assert api.cancel(id).json["status"] == "cancelled"
        assert list(frames)[-1].event["response"]["status"] == "cancelled"
    assert api.response(id)["status"] == "cancelled"
    assert api.delete(id).status == 200
    answers = [api.get(id), api.get(id, "?stream=true"), api.cancel(id), api.input_items(id), api.delete(id)]
    assert [answer.status for answer in answers] == [404] * 5


def test_a9_a_key_meets_what_is_not_stored_in_the_background(api: Api) -> None:
    key, body = fresh_key(), request("one two", store=False)
    id = api.post(body, key).json["id"]
    final = api.eventually(id, lambda response: response["status"] == "completed")

    assert api.post(body, key).json == final
    api.delete(id)
    assert api.post(body, key).status == 422


def test_a13_nothing_follows_what_is_not_stored(api: Api) -> None:
    stored = api.closed("one")
    id = api.closed("two", store=False, previous_response_id=stored)

    error = error_of(answer := api.post(request("three", previous_response_id=id)))

    assert answer.status == 404
    assert (error["code"], error["param"]) == ("previous_response_not_found", "previous_response_id")
    refused = [api.post(request([{"type": "item_reference", "id": item}])) for item in _items_of(api, id)]
    assert [(answer.status, error_of(answer)["code"]) for answer in refused] == [(400, "item_not_found")] * 2


def _items_of(api: Api, id: str) -> list[str]:
    """The ids of what went in and came out."""
    items = [*api.input_items(id).json["data"], *api.response(id)["output"]]
    return [item["id"] for item in items]


def test_a9_a_response_that_is_not_stored_runs_and_is_gone(api: Api) -> None:
    answer = api.post(request("one two", background=False, store=False))
    with api.connect(
        "POST", "/v1/responses", request("one", background=False, store=False, stream=True)
    ) as stream:
        frames = list(stream.frames())

    assert (answer.status, answer.json["status"], answer.json["store"]) == (200, "completed", False)
    assert frames[-1].type == "response.completed"
    for id in (answer.json["id"], frames[0].event["response"]["id"]):
        answers = [
            api.get(id),
            api.get(id, "?stream=true"),
            api.cancel(id),
            api.input_items(id),
            api.delete(id),
        ]
        assert [answer.status for answer in answers] == [404] * 5


def test_a9_a_response_that_is_not_stored_is_hidden_while_it_runs(api: Api) -> None:
    body = request("one", background=False, store=False, stream=True, tokens=100, interval_ms=100)
    with api.connect("POST", "/v1/responses", body) as stream:
        frames = stream.frames()
        id = next(frames).event["response"]["id"]
        next(frames)
        assert api.get(id).status == 404


def test_a10_the_id_can_be_read_at_once(api: Api) -> None:
    for _ in range(30):
        assert api.get(api.create()).status == 200


def test_a10_same_key_and_body_are_one_response(api: Api) -> None:
    key, body = fresh_key(), request("once")
    first, second = api.post(body, key), api.post(body, key)

    assert (first.status, second.status) == (200, 200)
    assert first.json["id"] == second.json["id"]


def test_a10_concurrent_posts_with_one_key_are_one_response(api: Api) -> None:
    key, body = fresh_key(), request("once only", tokens=20)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: insisting(lambda: api.post(body, key)), range(20)))

    assert [answer.status for answer in answers] == [200] * 20
    (id,) = {answer.json["id"] for answer in answers}
    assert len(api.events(id)) == 29


@pytest.mark.parametrize("form", [{"background": False}, {"background": False, "stream": True}])
def test_a10_a_repeated_synchronous_post_gets_the_same_result(api: Api, form: dict[str, Any]) -> None:
    key, body = fresh_key(), request("one two", **form)

    first, second = api.post(body, key), api.post(body, key)

    assert first.status == second.status == 200
    assert first.body == second.body


def test_a10_a_key_with_another_body_is_refused(api: Api) -> None:
    key = fresh_key()
    id = api.post(request("one"), key).json["id"]

    error = error_of(answer := api.post(request("two"), key))

    assert answer.status == 422
    assert answer.headers["x-should-retry"] == "false"
    assert error["type"] == "invalid_request_error"
    assert text(api.eventually(id, lambda response: response["status"] == "completed")) == "one"


def test_a10_keys_belong_to_a_tenant(api: Api, stranger: Api) -> None:
    key = fresh_key()

    mine, theirs = api.post(request("mine"), key), stranger.post(request("theirs"), key)

    assert (mine.status, theirs.status) == (200, 200)
    assert mine.json["id"] != theirs.json["id"]
