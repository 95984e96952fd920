"""The list of models: what an upstream's answer says, an executor makes of it, all say together (A-27)."""

import json
from typing import Any

import pytest

from schemas.models import (
    KIND,
    MAX_LISTING_BYTES,
    ListedModel,
    Listing,
    distinct,
    fitting_listing,
    listing_in,
    models_in,
    together,
)
from services import config
from services.eventlog.memory_partition import MemoryRecord
from services.executor.listing import catalogue

FILE = """
[[models]]
match = "exact/one"
base_url = "http://127.0.0.1:9"
[[models]]
match = "gpt-*"
base_url = "http://127.0.0.1:9"
[[models]]
match = "test-?"
backend = "scripted"
[[models]]
match = "gpt-late"
base_url = "http://127.0.0.1:9"
[[models]]
match = "*"
base_url = "http://127.0.0.1:9"
[[agents]]
name = "weather"
url = "http://127.0.0.1:9"
"""
CONFIG = config.parse(FILE, "rejoinder.toml")
GPT, REST = CONFIG.models[2], CONFIG.models[5]


def ids(listed: dict[str, list[str]]) -> list[str]:
    routes = {"gpt-*": GPT, "*": REST}
    by_route: dict[config.Route, list[ListedModel]] = {
        routes[match]: [ListedModel(id) for id in names] for match, names in listed.items()
    }
    return [model.id for model in catalogue(CONFIG, by_route)]


def test_what_the_file_names_is_there_whoever_is_away() -> None:
    assert ids({}) == ["echo", "exact/one", "gpt-late", "weather"]


def test_a_globs_models_stand_in_its_place_and_fit_it_first() -> None:
    everything = ["gpt-1", "echo", "exact/one", "gpt-late", "test-1", "weather", "llama"]
    assert ids({"gpt-*": everything}) == ["echo", "exact/one", "gpt-1", "gpt-late", "gpt-late", "weather"]
    assert ids({"*": everything}) == ["echo", "exact/one", "gpt-late", "llama", "weather"]


def test_everything_that_is_listed_can_be_asked_for() -> None:
    for name in ids({"gpt-*": ["gpt-1"], "*": ["llama", "gpt-1"]}):
        CONFIG.route({"model": name})
    assert CONFIG.route({"model": "weather"}) == CONFIG.agents[0]


ANSWERS: list[tuple[Any, list[ListedModel]]] = [
    (
        {"object": "list", "data": [{"id": "a", "created": 7, "owned_by": "me"}]},
        [ListedModel("a", created=7, owned_by="me")],
    ),
    ({"data": [{"id": "a", "created": "yesterday", "owned_by": None, "more": {}}]}, [ListedModel("a")]),
    ({"data": [{"id": "a", "created_at": "2026-01-01T00:00:00Z", "type": "model"}]}, [ListedModel("a")]),
    ({"models": [{"name": "models/a"}]}, [ListedModel("models/a")]),
    ([{"id": "a"}, "b"], [ListedModel("a"), ListedModel("b")]),
    (
        {"data": [{"id": ""}, {"id": 7}, {}, None, 7, {"id": "x" * 257}, {"id": "a\nb"}, {"id": "é/ö:1"}]},
        [ListedModel("é/ö:1")],
    ),
    (
        {"data": [{"id": "a", "created": True}, {"id": "b", "created": 1 << 60}]},
        [ListedModel("a"), ListedModel("b")],
    ),
    ({"data": []}, []),
]


@pytest.mark.parametrize("answer, models", ANSWERS, ids=range(len(ANSWERS)))
def test_what_servers_answer_is_read(answer: Any, models: list[ListedModel]) -> None:
    assert models_in(json.dumps(answer).encode()) == (models, None)


@pytest.mark.parametrize(
    ("more", "following"),
    [
        ({"has_more": True}, "b"),
        ({"has_more": True, "last_id": "z"}, "z"),
        ({"has_more": True, "last_id": 7}, "b"),
        ({"has_more": False, "last_id": "z"}, None),
        ({"has_more": "yes"}, None),
    ],
)
def test_a_list_says_whether_more_is_behind_it(more: dict[str, Any], following: str | None) -> None:
    answer = {"object": "list", "data": [{"id": "a"}, {"id": "b"}], **more}
    assert models_in(json.dumps(answer).encode()) == ([ListedModel("a"), ListedModel("b")], following)


def test_a_page_without_models_is_the_last() -> None:
    assert models_in(b'{"data": [], "has_more": true}') == ([], None)


@pytest.mark.parametrize("answer", [b"", b"<html>", b"{}", b'{"data": {}}', b"7", b"null", b"\xff", b'"a"'])
def test_what_is_no_list_is_refused(answer: bytes) -> None:
    with pytest.raises(ValueError):
        models_in(answer)


def said(source: str, at: int, *names: str, good_s: float = 60) -> MemoryRecord:
    listing = Listing(source, good_s, tuple(ListedModel(name) for name in names))
    return MemoryRecord(0, at, *listing.record(), 0)


def names(records: list[MemoryRecord], now: int = 10_000) -> list[str] | None:
    models = together(records, now)
    return None if models is None else [model.id for model in models]


def test_the_last_word_of_each_executor_counts_and_the_newest_comes_first() -> None:
    records = [said("a", 1, "old"), said("b", 2, "x", "y"), said("a", 3, "y", "z")]
    assert names(records) == ["y", "z", "x"]


def test_a_listing_is_good_for_as_long_as_it_says() -> None:
    assert names([said("a", 1_000, "m", good_s=9)]) == ["m"]
    assert names([said("a", 999, "m", good_s=9)]) is None
    assert names([said("a", 0, "m", good_s=1e9)], now=601_000) is None
    assert names([]) is None
    assert names([said("a", 1, "m"), said("a", 2)]) == []


def test_other_records_and_broken_ones_say_nothing() -> None:
    record = said("a", 1, "m")
    beat = record._replace(headers=[("kind", b"beat"), ("executor", b"e")])
    broken = [record._replace(value=value) for value in (None, b"", b"{}", b"[" * 9999, b"\xff")]
    assert [listing_in(one) for one in (beat, *broken)] == [None] * 6
    assert names([record, beat, *broken]) == ["m"]
    assert dict(record.headers)["kind"] == KIND


def test_what_does_not_fit_into_a_record_is_left_out() -> None:
    many = [ListedModel(f"{number:0256}") for number in range(5_000)]
    fits = fitting_listing(many)
    assert fits == tuple(many[: len(fits)])
    assert MAX_LISTING_BYTES * 0.99 < len(said("a", 1, *(model.id for model in fits)).value or b"") < 1 << 20


def test_the_first_of_two_with_one_name_stays() -> None:
    assert distinct([ListedModel("a", created=1), ListedModel("b"), ListedModel("a", created=2)]) == [
        ListedModel("a", created=1),
        ListedModel("b"),
    ]
