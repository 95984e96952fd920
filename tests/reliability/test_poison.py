"""Unreadable records in every topic: readers count them, log where they lie, and pass over them at once."""

import re
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal

from schemas import ids
from schemas.ids import ResponseId
from schemas.records import NewRecord
from services.eventlog.kafka import KafkaLog
from services.eventlog.topics import topics
from tests.api import SLOW_MS, numbers, request
from tests.reliability import audit
from tests.reliability.rig import Rig, Service, until
from tests.steady import steady
from tests.written import claim_of

ID = ResponseId("resp_0000" + "a" * 32)
CLAIM = claim_of("1")
EVENT, BASE = [("type", b"x")], [("tenant", b"default")]
ELSEWHERE = ResponseId("resp_0007" + "a" * 32)
DELETED = [("kind", b"deleted"), *BASE, ("accepted_offset", b"0")]
ACCEPTED = [
    ("kind", b"accepted"), *BASE, ("body_sha256", b"0" * 64), ("not_after", b"9" * 16),
    ("background", b"1"), ("store", b"1"), ("deadline", b"9" * 16),
]  # fmt: skip
ENDLESS = ("deadline", b"9" * 30)
NO_KEY: Any = None
HUGE = b'"' + b"x" * ((24 << 20) - 4096) + b'"'
"""Just below the topics' max.message.bytes, and far over what we write."""


def summary(chunks: int) -> list[tuple[str, bytes]]:
    """The headers of a transcript of so many chunks."""
    return [
        *BASE, ("status", b"completed"), ("background", b"1"), ("body_sha256", b"0"),
        ("accepted_offset", b"0"), ("closed_offset", b"9"), ("created_at", b"1"),
        ("events", b"%d" % (chunks + 3)), ("chunks", b"%d" % chunks),
    ]  # fmt: skip


POISON: dict[str, NewRecord] = {
    "no key": NewRecord(NO_KEY, b"{}", EVENT),
    "an empty key": NewRecord(b"", b"{}", EVENT),
    "a key that is no text": NewRecord(b"\xff\xfe/\xff/1", b"{}", EVENT),
    "a key without parts": NewRecord(b"resp", b"{}", EVENT),
    "a key of many parts": NewRecord(b"a/b/c/d/e/f", b"{}", EVENT),
    "no headers": NewRecord(f"{ID}/{CLAIM}/2".encode(), b"{}"),
    "a kind of tomorrow": NewRecord(f"{ID}/{CLAIM}/1".encode(), b"{}", [("kind", b"paused"), *EVENT]),
    "a header that is no text": NewRecord(f"{ID}/accepted/1".encode(), b"{}", [("kind", b"\xff")]),
    "a number that is none": NewRecord(f"{ID}/{CLAIM}/two".encode(), b"{}", EVENT),
    "half an accepted": NewRecord(f"{ID}/accepted/1".encode(), b"{}", [("kind", b"accepted")]),
    "an event of nobody": NewRecord(f"{ID}/{CLAIM}/2".encode(), b"{]", EVENT),
    "a beat that is no text": NewRecord(b"\xff", b"{}", [("kind", b"beat"), ("executor", b"\xff\xfe")]),
    "a chunk of nothing": NewRecord(f"{ID}/0".encode(), b"not zstd", [("kind", b"chunk")]),
    "a huge record": NewRecord(f"{ID}/{CLAIM}/3".encode(), HUGE, EVENT),
    "no value": NewRecord(b"\xff\xff", None),
    "gone, of no id": NewRecord(b"zz/gone", b"{}", [("kind", b"gone"), *BASE]),
    "deleted, of another partition": NewRecord(f"{ELSEWHERE}/deleted/1".encode(), b"{}", DELETED),
    "accepted, of no id": NewRecord(b"zz/accepted/1", b"{}", ACCEPTED),
    "accepted, behind no id": NewRecord(f"{ID}/accepted/1".encode(), b"{}", [*ACCEPTED, ("previous", b"zz")]),
    "accepted, without end": NewRecord(f"{ID}/accepted/2".encode(), b"{}", [*ACCEPTED[:-1], ENDLESS]),
    "one of no chunks": NewRecord(
        f"{ID}/request".encode(), b"{}", [("kind", b"request"), *summary(chunks=0)]
    ),
    "one of too many": NewRecord(
        f"{ID}/request".encode(), b"{}", [("kind", b"request"), *summary(chunks=10**10)]
    ),
}
DEEP = b'{"request":{"input":%b},"response":{}}' % (b"[" * 9_000 + b"]" * 9_000)
COORDINATES = re.compile(r"at=\S+/0@\d+|offset=\d+ +partition=0 +topic=\S+")
GOES_ON_S = 1.0
MARGIN_S = 4.0
"""What a loaded machine may add."""


@pytest.fixture(scope="module")
def rig(kafka: str, portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(kafka, tmp_path_factory.mktemp("poison"), portal, partitions=1) as running:
        running.start_all()
        yield running


def append(rig: Rig, topic: str, records: Sequence[NewRecord]) -> None:
    """Append records as a foreign program might: with nothing checked."""

    async def write() -> None:
        log = KafkaLog(rig.settings.kafka, "vandal", max_record_bytes=25 << 20)
        writer = log.writer()
        for record in records:
            await writer.append(topic, 0, record)
        await writer.close()
        await log.close()

    rig.run(write)


@pytest.mark.parametrize("name", ["events", "responses", "transcripts", "executors"])
def test_a_topic_goes_on_behind_what_cannot_be_read(rig: Rig, name: str) -> None:
    topic = getattr(topics(rig.settings.topic_prefix), name)
    began = steady()
    closed = rig.api.closed("before the poison")
    usual = steady() - began
    running = rig.api.create("one two three", tokens=60, interval_ms=50)
    rig.api.take(running, 5)

    # The broker itself refuses a record without a key in a compacted topic.
    append(rig, topic, [r for why, r in POISON.items() if why != "no key" or name == "executors"])
    began = steady()
    frames = rig.api.events(rig.api.create("behind the poison"))
    took = steady() - began

    assert frames[-1].type == "response.completed"
    late = took - 2 * usual  # a busy machine is slow without poison too
    assert late <= GOES_ON_S + MARGIN_S, (
        f"the partition went on after {took:.1f} s, without poison {usual:.1f}"
    )
    print(f"{name}: a response behind it took {took:.2f} s")
    assert numbers(rig.api.events(running)) == list(range(69))
    assert rig.api.response(closed)["status"] == "completed"
    assert len(rig.alive) == 4, rig.services
    assert all(service.ready() for service in rig.alive)
    audit.check(rig, [running])


def test_all_of_it_was_counted_and_logged_where_it_lies(rig: Rig) -> None:
    append(rig, topics(rig.settings.topic_prefix).events, [POISON["a kind of tomorrow"]])
    rig.api.closed("behind it")
    counters = {
        "executor": "rejoinder_executor_unreadable_total",
        "replay": "rejoinder_replay_unreadable_records",
        "projector": "rejoinder_projector_poison_total",
    }
    for name, counter in counters.items():
        [service] = rig.named(name)
        until(partial(_counted, service, counter))
        lines = [line for line in service.log.splitlines() if "unknown kind" in line]
        assert lines, f"{name} says nothing of it"
        assert all(COORDINATES.search(_plain(line)) for line in lines), lines


def test_a_request_that_cannot_be_read_ends_its_response_honestly(rig: Rig) -> None:
    """The headers of an `accepted` count whatever its value holds (P-4)."""
    made: dict[str, NewRecord] = {}
    for value in (b"not json", b"{}", b'{"request":1,"response":2}', b'{"request":{},"response":{}}', DEEP):
        id = ids.response_id(0, len(made).to_bytes(16))
        now = int(time.time() * 1000)
        headers = [
            ("kind", b"accepted"), ("tenant", b"default"), ("body_sha256", b"0" * 64),
            ("not_after", b"%d" % (now + 60_000)), ("deadline", b"%d" % (now + 3_600_000)),
            ("background", b"1"), ("store", b"1"),
        ]  # fmt: skip
        made[id] = NewRecord(f"{id}/accepted/1".encode(), value, headers)
    append(rig, topics(rig.settings.topic_prefix).events, list(made.values()))

    for made_id, frames in audit.streams(rig.api, made).items():
        assert numbers(frames) == list(range(len(frames))), made[made_id]
        assert frames[-1].type == "response.failed"
        assert frames[-1].event["response"]["error"]["code"] == "server_error"
        assert rig.api.response(made_id)["status"] == "failed"


def test_a_broken_event_under_the_winning_claim_strands_nobody(rig: Rig) -> None:
    """The event counts, by its headers. The run goes on behind it, and every fold of values survives it."""
    id = rig.api.create("one two three", tokens=2, interval_ms=6000)  # time to be broken before the first
    last = rig.api.take(id, 5)[-1].number
    claim = next(
        dict(record.headers)["claim"]
        for record in audit.records(rig, topics(rig.settings.topic_prefix).events)
        if (record.key or b"").startswith(f"{id}/claim/".encode())
    )
    number = b"%d" % (last + 1)
    headers = [("type", b"response.output_text.delta")]
    key = b"%b/%b/%b" % (id.encode(), claim, number)
    append(rig, topics(rig.settings.topic_prefix).events, [NewRecord(key, b'{"type": broken', headers)])

    frames = audit.watch(rig.api, id).frames

    assert numbers(frames) == list(range(len(frames)))
    assert frames[last + 1].data == b'{"type": broken'
    assert frames[-1].type in ("response.completed", "response.failed")
    assert rig.api.response(id)["status"] in ("completed", "failed")
    assert rig.api.events(rig.api.create("and the next"))[-1].type == "response.completed"
    rig.api.ask("POST", "/v1/responses", request("after", interval_ms=SLOW_MS))
    assert len(rig.alive) == 4


def _counted(service: Service, counter: str) -> bool:
    return service.metric(counter) >= 1


def _plain(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", line)
