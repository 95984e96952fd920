"""Items get ids of ours; what the upstream calls them is told beside them, and finds them again (U-30)."""

from typing import Any

import pytest

from schemas.events import Event
from schemas.ids import item_id
from schemas.output import Output
from services.executor.mending.identity import ours
from services.executor.scribe import Scribe
from services.web.internal import Name
from tests.unit.test_whole import added, call, completed, delta, done, message
from tests.whole import ID, followed, scribe, told

AT = "0badcafe"
OURS = item_id("msg", ID, 0)


def naming(**options: Any) -> Scribe:
    """Of a response whose upstream names its items."""
    return scribe(mint=ours(ID), names_at=AT, **options)


def names(events: list[Event]) -> list[Any]:
    return [event.get("upstream_item") for event in events if event["type"] == "response.output_item.added"]


def named(id: str) -> dict[str, str]:
    return {"id": id, "at": AT}


def test_every_event_has_our_id_and_the_first_one_says_the_upstreams() -> None:
    said = [
        added(message(""), output_index=0),
        *[delta(text, item_id="msg_1", output_index=0, content_index=0) for text in "abc"],
        done(message("abc"), output_index=0),
        added(call(), output_index=1),
        done(call("{}"), output_index=1),
        completed(message("abc"), call("{}")),
    ]
    events = told(said, naming())
    assert [item["id"] for item in followed(events)["output"]] == [OURS, item_id("fc", ID, 1)]
    assert names(events) == [named("msg_1"), named("fc_1")]
    assert "msg_1" not in str([event for event in events if "upstream_item" not in event])


@pytest.mark.parametrize("id", [None, "", OURS, "x" * 257, "a b\n", 7])
def test_where_the_upstream_has_no_name_that_could_be_one_none_is_told(id: Any) -> None:
    events = told([added(message("", id=id)), completed(message("hi", id=id))], naming())
    assert followed(events)["output"][0]["id"] == OURS
    assert names(events) == [None]


def test_a_name_is_one_items_only() -> None:
    said = []
    for at in range(2):
        said += [added(message(""), output_index=at), done(message(f"number {at}"), output_index=at)]
    events = told([*said, completed()], naming())
    followed(events)
    assert names(events) == [named("msg_1"), None]


def test_what_another_rejoinder_calls_an_item_is_not_told() -> None:
    theirs = item_id("msg", ID, 7)
    begun = added(message("", id=theirs)) | {"upstream_item": {"id": "msg_far", "at": "far"}}
    assert names(told([begun, completed(message("hi", id=theirs))], naming())) == [named(theirs)]
    assert names(told([begun, completed(message("hi", id=theirs))])) == [None]


def test_an_item_that_only_an_event_speaks_of_has_the_name_that_it_gives() -> None:
    events = told([delta("hi", item_id="msg_1"), completed(message("hi"))], naming())
    assert followed(events)["output"][0]["id"] == OURS
    assert names(events) == [named("msg_1")]


def test_an_unknown_type_keeps_the_upstreams_prefix() -> None:
    item = {"type": "acme:search", "id": "acme_1", "status": "completed"}
    events = told([done(item), completed(item)], naming())
    assert events[-1]["response"]["output"][0]["id"] == item_id("acme", ID, 0)


@pytest.mark.parametrize("place", [{}, {"output_index": 9}])
def test_who_takes_over_finds_items_by_the_upstreams_names(place: dict[str, Any]) -> None:
    """Also where the upstream counts places in its own way."""
    before = [added(message(""), output_index=8), added(message("", id="msg_2"), output_index=9)]
    before.append(delta("Good", item_id="msg_2", output_index=9, content_index=0))
    output = Output()
    events = [event for event in told(before, naming()) if event["type"] != "response.failed"]
    for event in events:
        if event["type"] != "response.output_item.done":
            output.apply(event)
    known = {item_id("msg", ID, at): Name(f"msg_{at + 1}", AT) for at in range(2)}
    after = [delta(" day", item_id="msg_2", content_index=0, **place), completed()]

    rest = told(after, naming(last=len(events), output=output, names=known))

    (more,) = [event for event in rest if event["type"] == "response.output_text.delta"]
    assert (more["item_id"], more["output_index"]) == (item_id("msg", ID, 1), 1)
    texts = [item["content"] and item["content"][0]["text"] for item in rest[-1]["response"]["output"]]
    assert texts == [[], "Good day"]
