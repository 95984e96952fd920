"""A-12: delete."""

import pytest

from tests.api import SLOW_MS, Api, error_of, request
from tests.conformance.test_states import fresh_key
from tests.wire import Answer


def every_route(api: Api, id: str) -> list[Answer]:
    return [
        api.get(id),
        api.get(id, "?stream=true"),
        api.get(id, "?stream=true&starting_after=3"),
        api.cancel(id),
        api.input_items(id),
        api.delete(id),
    ]


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled", "in_progress"])
def test_a12_deleted_is_404_on_every_route(api: Api, state: str) -> None:
    if state in ("cancelled", "in_progress"):
        id = api.open()
    else:
        id = api.closed("one two", fail_after=1 if state == "failed" else 2)
    if state == "cancelled":
        api.cancel(id)
    assert api.response(id)["status"] == state

    answer = api.delete(id)

    assert (answer.status, answer.json) == (200, {"id": id, "object": "response", "deleted": True})
    for gone in every_route(api, id):
        assert gone.status == 404
        assert error_of(gone)["message"] == f"Response with id '{id}' not found."


def test_a12_deleting_an_open_response_cuts_its_readers(api: Api) -> None:
    id = api.open()
    with api.stream(id) as stream:
        frames = stream.frames()
        for _ in range(5):
            next(frames)
        api.delete(id)
        with pytest.raises(ConnectionError):
            list(frames)


def test_a12_deleting_while_it_is_queued(api: Api) -> None:
    for _ in range(5):
        id = api.create("one two", interval_ms=SLOW_MS)
        assert api.delete(id).status == 200
        assert api.get(id).status == 404


def test_a12_nothing_brings_it_back(api: Api) -> None:
    id = api.create("one two", tokens=200, interval_ms=5)
    api.take(id, 10)
    api.delete(id)

    for _ in range(20):
        assert api.get(id).status == 404
        assert api.get(api.closed()).status == 200


def test_a12_a_key_that_leads_to_a_deleted_response_is_refused(api: Api) -> None:
    key, body = fresh_key(), request("one")
    id = api.post(body, key).json["id"]
    api.delete(id)

    assert api.post(body, key).status == 422
    assert api.get(id).status == 404
