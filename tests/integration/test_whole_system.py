"""The system of `rejoinder dev` from the outside and its log from the inside: what HTTP alone cannot show."""

import json
import shutil
import subprocess
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from schemas.records import Unreadable as UnreadableRecord
from schemas.records import parse
from services.eventlog.topics import topics
from services.settings import Settings
from tests.api import Api, numbers, request, text
from tests.conformance.test_errors import BAD_FIELDS, NOT_JSON, UNKNOWN
from tests.conftest import eventually
from tests.records import records_of
from tests.system import System


@pytest.fixture(scope="module")
def own(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system that only this module talks to: one partition, and a window of 64 KiB in replay."""
    folder = tmp_path_factory.mktemp("own")
    with System(kafka, folder, partitions=1, replay_memory_bytes=64 << 10) as system:
        yield system


@pytest.fixture(scope="module")
def mortal(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system that tests may harm, if it mends itself. A restart waits for no run."""
    with System(kafka, tmp_path_factory.mktemp("mortal"), grace_s=1) as system:
        yield system


@pytest.fixture
def api(own: System) -> Api:
    return Api(own.base_url)


def metric(api: Api, name: str) -> float:
    lines = api.ask("GET", "/metrics").body.decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def goes_on(api: Api, id: str) -> None:
    """Wait until a response says more than it has said by now."""
    said = len(text(api.response(id)))
    api.eventually(id, lambda response: len(text(response)) > said)


def ways_of_life(api: Api) -> None:
    """At least one record of every kind."""
    api.closed("one two three")
    api.closed("one two three", fail_after=1)
    api.cancel(api.open())
    api.delete(api.closed("to be deleted"))
    api.post(request("synchronous", background=False))
    api.closed("chained", previous_response_id=api.closed("first"))


BASE = {"kind", "tenant"}
HEADERS = {
    "accepted": BASE | {"body_sha256", "not_after", "deadline", "background", "store"},
    "claimed": BASE | {"attempt", "claim", "executor"},
    "event": {"type"},
    "cancelled": BASE | {"terminal"},
    "deleted": BASE | {"accepted_offset"},
}
OPTIONAL = {
    "accepted": {"previous", "model", "route", "agent", "traceparent"},
    "event": {"terminal", "upstream_id", "upstream_cursor", "upstream_partial"},
}
"""The headers that schemas/protocol.md names, by kind."""


class Read(NamedTuple):
    """A record as some reader of Kafka shows it."""

    key: str
    value: str | None
    headers: dict[str, str]


def by_kcat(kcat: str, system: System) -> list[Read]:
    command = [kcat, "-C", "-b", system.kafka, "-t", topics(system.prefix).events, "-e", "-q", "-J"]
    lines = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.splitlines()
    found = []
    for line in lines:
        record = json.loads(line)
        pairs = iter(record.get("headers") or [])
        found.append(Read(record["key"], record["payload"], dict(zip(pairs, pairs, strict=True))))
    return found


def check_readable(reads: list[Read]) -> None:
    kinds = Counter(read.headers.get("kind", "event") for read in reads if read.value is not None)
    assert kinds.keys() == HEADERS.keys()
    for read in reads:
        if read.value is None:
            continue  # a tombstone
        kind = read.headers.get("kind", "event")
        assert isinstance(json.loads(read.value), dict), read
        assert HEADERS[kind] <= read.headers.keys() <= HEADERS[kind] | OPTIONAL.get(kind, set()), read
        assert read.key.startswith("resp_"), read
    keys = Counter(read.key for read in reads if read.value is not None)
    assert keys.most_common(1)[0][1] == 1, "two appends share a key (P-5)"


async def test_every_value_is_plain_json_under_the_headers_of_the_protocol(own: System, api: Api) -> None:
    ways_of_life(api)

    records = await records_of(own)

    assert not [record for record in records if isinstance(parse(record), UnreadableRecord)]
    check_readable(
        [
            Read(
                (record.key or b"").decode(),
                record.value.decode() if record.value is not None else None,
                {name: value.decode() for name, value in record.headers},
            )
            for record in records
        ]
    )


def test_kcat_reads_it_just_so(own: System, api: Api) -> None:
    kcat = shutil.which("kcat") or shutil.which("kafkacat")
    if kcat is None:
        pytest.skip("kcat is not on this machine: install it to see the topic with a tool that is not ours")
    ways_of_life(api)

    check_readable(by_kcat(kcat, own))


async def test_nothing_is_appended_for_a_refused_request(own: System, api: Api) -> None:
    async def written() -> int:
        """Tombstones left out: they come late, for what was deleted before."""
        return sum(record.value is not None for record in await records_of(own))

    closed, synchronous = api.closed(), api.post(request(background=False)).json["id"]
    before = await written()

    refused = [api.post(body) for body in NOT_JSON.values()]
    refused += [api.post({**request(), field: value}) for field, value, _ in BAD_FIELDS]
    refused += [api.post(request("x" * Settings().max_body_bytes))]
    refused += [api.post(request(previous_response_id=UNKNOWN))]
    refused += [api.cancel(id) for id in (closed, synchronous, UNKNOWN, "x")]
    refused += [api.delete(id) for id in (UNKNOWN, "x", "resp_ffff" + "0" * 32)]
    refused += [api.get(UNKNOWN), api.input_items(closed, "?limit=0"), api.ask("PUT", "/v1/responses", {})]

    assert {answer.status for answer in refused} == {400, 404, 405, 413}
    assert await written() == before


async def test_a_synchronous_response_that_is_not_stored_leaves_nothing_to_read(
    own: System, api: Api
) -> None:
    id = api.post(request("keep this to yourself", background=False, store=False)).json["id"]

    async def erased() -> bool:
        records = [record for record in await records_of(own) if (record.key or b"").startswith(id.encode())]
        written = {record.key for record in records if record.value is not None}
        return bool(written) and written == {record.key for record in records if record.value is None}

    await eventually(erased, timeout=20)


@pytest.mark.slow
def test_what_fell_out_of_the_window_is_read_from_the_log_while_two_hundred_share_it(
    own: System, api: Api
) -> None:
    old = api.create("the quick brown fox", tokens=100_000, interval_ms=50)
    seen = api.take(old, 20)
    with ThreadPoolExecutor(16) as pool:
        others = list(pool.map(lambda index: api.create(f"other {index}", tokens=60), range(200)))
        for frames in pool.map(api.events, others):
            assert numbers(frames) == list(range(69))
    seeks = metric(api, "rejoinder_replay_seeks")
    assert api.response(old)["status"] == "in_progress"

    live = api.take(old, 120)

    assert metric(api, "rejoinder_replay_seeks") > seeks
    assert numbers(live) == list(range(120))
    assert live[:20] == seen
    cursors = range(-1, 119, 4)
    with ThreadPoolExecutor(16) as pool:
        replays = list(pool.map(lambda after: api.take(old, 119 - after, after), cursors))
    assert replays == [live[after + 1 :] for after in cursors]
    api.cancel(old)
    ended = api.events(old)
    assert numbers(ended) == list(range(len(ended)))
    assert ended[:120] == live


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_replays_after_a_restart_of_everything_are_the_bytes_of_the_live_stream(mortal: System) -> None:
    api = Api(mortal.base_url)
    with api.connect("POST", "/v1/responses", request("a b c", tokens=50, stream=True)) as stream:
        closed = list(stream.frames())
    failed, cancelled, deleted = api.closed("x y", fail_after=1), api.open("p q"), api.closed("gone")
    api.cancel(cancelled)
    api.delete(deleted)
    ids = [closed[0].event["response"]["id"], failed, cancelled]
    lives = {ids[0]: closed, failed: api.events(failed), cancelled: api.events(cancelled)}
    objects = {id: api.get(id).body for id in ids}
    items = {id: api.input_items(id).body for id in ids}
    running = api.create("still going", tokens=100_000, interval_ms=50)
    before = api.take(running, 20)

    for _ in range(2):
        with api.stream(running) as watching:
            mortal.stop()
            with pytest.raises(ConnectionError):  # a drain is no end
                list(watching.frames())
        mortal.start()
        api = Api(mortal.base_url)
        for id, live in lives.items():
            assert api.events(id) == live
            assert api.events(id, len(live) // 2) == live[len(live) // 2 + 1 :]
            assert api.get(id).body == objects[id]
            assert api.input_items(id).body == items[id]
        assert api.get(deleted).status == 404
        goes_on(api, running)
    api.cancel(running)
    after = api.events(running)

    assert after[:20] == before
    assert numbers(after) == list(range(len(after)))


@pytest.mark.slow
def test_an_executor_killed_in_the_middle_changes_nothing_that_a_reader_sees(mortal: System) -> None:
    api = Api(mortal.base_url)
    ids = [api.create("one two three", tokens=120, interval_ms=50) for _ in range(5)]
    with ThreadPoolExecutor(5) as pool:
        readers = [pool.submit(api.events, id) for id in ids]
        for id in ids:
            api.take(id, 30)
        [executor] = mortal.titled("rejoinder executor")
        executor.kill()
        streams = [reader.result(timeout=60) for reader in readers]

    for id, frames in zip(ids, streams, strict=True):
        assert numbers(frames) == list(range(129))
        assert frames[-1].type == "response.completed"
        assert frames == api.events(id)
        assert text(api.response(id)) == " ".join((["one", "two", "three"] * 40)[:120])


@pytest.mark.slow
def test_a_killed_replay_cuts_its_streams_and_any_cursor_goes_on(mortal: System) -> None:
    api = Api(mortal.base_url)
    id = api.create("one two three", tokens=100, interval_ms=50)
    got: list[Any] = []
    with api.stream(id) as stream:
        frames = stream.frames()
        got += [next(frames) for _ in range(20)]
        [replay] = mortal.titled("rejoinder replay")
        replay.kill()
        with pytest.raises(ConnectionError):
            deque(map(got.append, frames), maxlen=0)
    rest = _as_soon_as_it_answers(api, id, got[-1].number)

    assert numbers(got + rest) == list(range(109))


def _as_soon_as_it_answers(api: Api, id: str, after: int) -> list[Any]:
    deadline = time.monotonic() + 40
    while True:
        try:
            with api.stream(id, after) as stream:
                if stream.status == 200:
                    return list(stream.frames())
        except ConnectionError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.2)
