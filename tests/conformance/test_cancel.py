"""A-11: cancel."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.api import SLOW_MS, Api, error_of, request, types


def test_a11_cancelling_a_running_response(api: Api) -> None:
    id = api.open("one two")

    answer = api.cancel(id)

    assert answer.status == 200
    assert (answer.json["id"], answer.json["status"], answer.json["output"]) == (id, "cancelled", [])
    assert answer.json["completed_at"] is None
    assert api.response(id) == answer.json


def test_a11_cancelling_at_once_after_the_post(api: Api) -> None:
    for _ in range(10):
        id = api.create("one two", interval_ms=SLOW_MS)
        answer = api.cancel(id)

        assert (answer.status, answer.json["status"]) == (200, "cancelled")
        assert api.events(id)[-1].event["response"] == answer.json


def test_a11_cancelling_a_queued_response_keeps_it_from_running(api: Api) -> None:
    waits_for = api.open()
    id = api.create("never said", previous_response_id=waits_for)
    assert api.response(id)["status"] == "queued"

    answer = api.cancel(id)
    api.cancel(waits_for)

    assert (answer.status, answer.json["status"]) == (200, "cancelled")
    assert types(api.events(id)) == ["response.created", "response.queued", "response.failed"]


def test_a11_again_answers_the_same_object(api: Api) -> None:
    id = api.open()

    answers = [api.cancel(id) for _ in range(3)]

    assert [answer.status for answer in answers] == [200] * 3
    assert len({answer.body for answer in answers}) == 1


def test_a11_concurrent_cancels_agree(api: Api) -> None:
    id = api.open()
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: api.cancel(id), range(10)))

    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert types(api.events(id)).count("response.failed") == 1


@pytest.mark.parametrize(
    "fields, status, words", [({}, "completed", "a completed"), ({"fail_after": 1}, "failed", "a failed")]
)
def test_a11_a_closed_response_cannot_be_cancelled(
    api: Api, fields: dict[str, int], status: str, words: str
) -> None:
    id = api.closed("one two", **fields)

    error = error_of(answer := api.cancel(id))

    assert answer.status == 400
    assert error["message"] == f"Cannot cancel {words} response."
    assert api.response(id)["status"] == status


def test_a11_a_synchronous_response_cannot_be_cancelled(api: Api) -> None:
    body = request("one", background=False, stream=True, tokens=20, interval_ms=50)
    with api.connect("POST", "/v1/responses", body) as stream:
        frames = stream.frames()
        id = next(frames).event["response"]["id"]
        while_open = api.cancel(id)
        assert list(frames)[-1].type == "response.completed"
    closed = api.cancel(id)

    for answer in (while_open, closed):
        assert answer.status == 400
        assert error_of(answer)["message"] == "Cannot cancel a synchronous response."


def test_a11_the_race_with_the_end_has_one_outcome(api: Api) -> None:
    for _ in range(10):
        id = api.create("one two three")
        answer = api.cancel(id)
        status = api.events(id)[-1].event["response"]["status"]

        assert (answer.status, status) in [(200, "cancelled"), (400, "completed")]
        assert api.response(id)["status"] == status
