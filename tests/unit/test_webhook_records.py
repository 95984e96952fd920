"""The records of `webhooks`, and what is folded from them: endpoints, deliveries, marks."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas.ids import Tenant, response_id
from schemas.records import NewRecord, Unreadable
from schemas.webhooks import (
    EVENT_TYPES,
    DeliveryRecord,
    EndpointId,
    EndpointRecord,
    ErasedKey,
    MarkRecord,
    RetryRecord,
    SecretRecord,
    SettingsRecord,
    WebhookRecord,
    delivery_id,
    event_type,
    parse_webhook,
)
from services.eventlog.memory_partition import MemoryPartition, MemoryRecord
from services.webhooks.deliveries import MOST_PENDING, Deliveries
from services.webhooks.endpoints import Endpoints, endpoint_keys, made, retry_key, settings_of
from tests.closings import CLOSING
from tests.webhooks import ENDPOINT, ended

DUE = DeliveryRecord(
    id=delivery_id(ENDPOINT.id, CLOSING.id, EVENT_TYPES[0]),
    endpoint=ENDPOINT.id,
    tenant=CLOSING.tenant,
    response=CLOSING.id,
    type=EVENT_TYPES[0],
    closed_at=5,
    since=6,
    next_at=7,
)
RECORDS: Sequence[WebhookRecord] = [
    *made(ENDPOINT),
    DUE,
    replace(DUE, state="failed", attempts=3, outcome="refused", status=503),
    RetryRecord(DUE.id, CLOSING.tenant, 3),
    MarkRecord({"topic-1": 7}),
]
PARTITION = 3
"""That of the closing."""


def put(*records: NewRecord) -> list[MemoryRecord]:
    """Records as a log has them, a millisecond each."""
    partition = MemoryPartition()
    for number, record in enumerate(records):
        partition.append(record, 1000 + number)
    return partition.records


def folded(records: Iterable[NewRecord]) -> Endpoints:
    endpoints = Endpoints()
    for record in put(*records):
        assert endpoints.apply(record)
    return endpoints


def erased(*keys: str) -> list[NewRecord]:
    return [NewRecord(key.encode(), None) for key in keys]


MADE = [said.new() for said in made(ENDPOINT)]


@pytest.mark.parametrize("said", RECORDS, ids=lambda said: type(said).__name__)
def test_what_is_written_is_what_is_read(said: WebhookRecord) -> None:
    (record,) = put(said.new())
    home = isinstance(said, EndpointRecord | SettingsRecord | SecretRecord)
    assert parse_webhook(record, 0 if home else PARTITION) == said


@pytest.mark.parametrize("said", RECORDS, ids=lambda said: type(said).__name__)
@pytest.mark.parametrize("part", ["key", "kind", "value", "tenant"])
def test_p120_a_record_that_says_two_things_is_passed_over(said: WebhookRecord, part: str) -> None:
    if part == "tenant" and isinstance(said, MarkRecord):
        return
    new = said.new()
    changes: dict[str, dict[str, Any]] = {
        "key": {"key": b"we_0/other"},
        "kind": {"headers": [("kind", b"unknown"), *new.headers[1:]]},
        "value": {"value": b"[]"},
        "tenant": {"headers": [*new.headers[:1], ("tenant", b"other")]},
    }
    (record,) = put(new._replace(**changes[part]))
    assert isinstance(parse_webhook(record, PARTITION if isinstance(said, DeliveryRecord) else 0), Unreadable)


def test_p120_what_stands_in_a_partition_that_is_not_its_own_is_passed_over() -> None:
    (record,) = put(DUE.new())
    assert isinstance(parse_webhook(record, PARTITION + 1), Unreadable)
    (record,) = put(EndpointRecord(ENDPOINT.id, CLOSING.tenant).new())
    assert isinstance(parse_webhook(record, 1), Unreadable)


@given(st.none() | st.binary(), st.none() | st.binary(), st.lists(st.tuples(st.text(), st.binary())))
def test_p120_nobody_falls_over_what_a_foreign_program_wrote(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
) -> None:
    (record,) = put(NewRecord(key or b"", value, headers))
    assert isinstance(parse_webhook(record, 0), Unreadable | ErasedKey)
    Endpoints().apply(record)
    Deliveries(0).apply(record)


def test_a_reader_passes_over_fields_and_headers_of_later_versions() -> None:
    new = DUE.new()
    assert new.value is not None
    (record,) = put(
        new._replace(value=b'{"later":1,' + new.value[1:], headers=[*new.headers, ("later", b"1")])
    )
    assert parse_webhook(record, PARTITION) == DUE


# Endpoints.


def test_an_endpoint_has_the_log_times_of_its_records() -> None:
    found = folded([*MADE, settings_of(replace(ENDPOINT, name="other")).new()]).get(ENDPOINT.id)
    assert found is not None
    assert (found.name, found.created_at, found.updated_at) == ("other", 1000, 1003)


@pytest.mark.parametrize("number", range(3))
def test_p121_an_endpoint_is_there_while_all_three_of_its_records_are(number: int) -> None:
    assert folded(MADE[:number]).get(ENDPOINT.id) is None
    assert folded([*MADE, *erased(endpoint_keys(ENDPOINT.id)[number])]).get(ENDPOINT.id) is None
    assert len(folded(MADE)) == 1


@pytest.mark.parametrize("number", [1, 2])
def test_p121_a_change_that_comes_after_the_delete_brings_nothing_back(number: int) -> None:
    deleted = folded([*MADE, *erased(*endpoint_keys(ENDPOINT.id)), MADE[number], MADE[1], MADE[2]])
    assert deleted.get(ENDPOINT.id) is None
    assert deleted.of(ENDPOINT.tenant) == []


def test_p121_of_two_changes_the_later_one_in_the_log_holds_and_a_rotation_beside_them_is_kept() -> None:
    rotated = SecretRecord(ENDPOINT.id, ENDPOINT.tenant, ENDPOINT.secrets, "new")
    changes = [settings_of(replace(ENDPOINT, name=name)).new() for name in ("first", "second")]
    found = folded([*MADE, changes[0], rotated.new(), changes[1]]).get(ENDPOINT.id)
    assert found is not None
    assert (found.name, found.hint) == ("second", "new")


def test_nobody_changes_the_endpoint_of_another_tenant() -> None:
    other = replace(settings_of(ENDPOINT), tenant=Tenant("other"), url="https://other.example")
    found = folded([*MADE, other.new()]).get(ENDPOINT.id)
    assert found is not None
    assert found.url == ENDPOINT.url


def test_the_newest_comes_first_and_each_tenant_has_its_own() -> None:
    ids = [EndpointId(f"we_{number:032x}") for number in range(3)]
    of = [replace(ENDPOINT, id=id) for id in ids]
    foreign = replace(ENDPOINT, id=EndpointId("we_" + "f" * 32), tenant=Tenant("other"))
    endpoints = folded(said.new() for each in (*of, foreign) for said in made(each))
    assert [found.id for found in endpoints.of(ENDPOINT.tenant)] == ids[::-1]
    assert [found.id for found in endpoints.of(Tenant("other"))] == [foreign.id]


# What is due.


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "incomplete"])
def test_p124_the_end_of_a_response_in_the_background_is_told_stored_or_not(status: str) -> None:
    for store in (True, False):
        assert event_type(ended(1, status=status, store=store)) == f"response.{status}"


@pytest.mark.parametrize("change", [{"background": False}, {"status": "deleted"}, {"status": "later"}])
def test_p124_no_other_end_is_told(change: dict[str, Any]) -> None:
    assert event_type(ended(1, **change)) is None


def test_p124_who_asked_for_it_and_was_there_hears_of_it() -> None:
    endpoints = folded(MADE)
    (due,) = endpoints.due(ended(1), 9, skew_ms=0)
    assert (due.endpoint, due.state, due.next_at, due.attempts) == (ENDPOINT.id, "pending", 9, 0)
    assert due.id == delivery_id(ENDPOINT.id, ended(1).id, "response.completed")
    assert not endpoints.due(ended(1, tenant=Tenant("other")), 9, skew_ms=0)
    assert not endpoints.due(ended(1, closed_at=999), 9, skew_ms=0)
    assert endpoints.due(ended(1, closed_at=999), 9, skew_ms=1)
    some = replace(ENDPOINT, event_types=("response.failed",))
    only = folded([*MADE, settings_of(some).new()])
    assert not only.due(ended(1), 9, skew_ms=0)
    assert only.due(ended(1, status="failed"), 9, skew_ms=0)


# Deliveries.


def deliveries_of(*records: NewRecord, history: int = 2) -> Deliveries:
    found = Deliveries(PARTITION, history)
    for record in put(*records):
        found.apply(record)
    return found


def numbered(number: int, **changes: Any) -> DeliveryRecord:
    response = response_id(PARTITION, number.to_bytes(16))
    return replace(DUE, id=delivery_id(ENDPOINT.id, response, DUE.type), response=response, **changes)


def test_a_delivery_is_as_the_log_has_it_last() -> None:
    found = deliveries_of(DUE.new(), replace(DUE, attempts=1).new())
    assert list(found.pending.values()) == [replace(DUE, attempts=1)]
    over = deliveries_of(DUE.new(), replace(DUE, state="delivered").new())
    assert not over.pending
    assert over.get(DUE.id) == replace(DUE, state="delivered")
    assert deliveries_of(DUE.new(), *erased(DUE.id)).get(DUE.id) is None


def test_of_what_is_over_the_latest_are_kept() -> None:
    states: Any = ["delivered", "failed", "pending"]
    records = [numbered(10 * n + k, state=state) for n in range(5) for k, state in enumerate(states)]
    found = deliveries_of(*(record.new() for record in records))
    assert sorted(found.surplus()) == sorted(record.id for record in records[:9] if record.state != "pending")
    assert not deliveries_of(*(record.new() for record in records), *erased(*found.surplus())).surplus()


def test_a_mark_never_goes_back() -> None:
    marks = [MarkRecord({"a": 5}), MarkRecord({"b": 1}), MarkRecord({"a": 3, "b": 2})]
    assert deliveries_of(*(mark.new() for mark in marks)).counted == {"a": 5, "b": 2}


@pytest.mark.parametrize(
    "state, attempts, holds",
    [("failed", 3, True), ("pending", 3, True), ("delivered", 3, False), ("failed", 4, False)],
)
def test_a_retry_holds_as_long_as_nothing_came_of_the_delivery_since(
    state: Any, attempts: int, holds: bool
) -> None:
    delivery, retry = replace(DUE, state=state, attempts=attempts), RetryRecord(DUE.id, DUE.tenant, 3)
    found = deliveries_of(delivery.new(), retry.new())
    assert found.wanted() == {DUE.id: delivery if holds else None}
    assert not deliveries_of(delivery.new(), retry.new(), *erased(retry_key(DUE.id))).wanted()
    assert deliveries_of(retry.new()).wanted() == {DUE.id: None}


def test_so_many_wait_for_an_endpoint_and_no_more() -> None:
    found = deliveries_of(DUE.new())
    assert found.has_room(ENDPOINT.id, MOST_PENDING - 2)
    assert not found.has_room(ENDPOINT.id, MOST_PENDING - 1)
    assert deliveries_of(DUE.new(), replace(DUE, state="failed").new()).has_room(
        ENDPOINT.id, MOST_PENDING - 1
    )
