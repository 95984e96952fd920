"""Backup, loss and restore of everything that brokers hold: each record is where it was, with its log time.

One broker for every change, three with `REJOINDER_SOAK=1`, all of which are stopped before the first backup.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal

from schemas.records import Accepted, LogRecord, parse
from services.cli import run
from services.connect import executors_group, projector_group, topic_names
from services.eventlog.kafka import KafkaLog
from services.eventlog.memory_partition import MemoryRecord
from services.eventlog.port import TopicPartition
from services.settings import Settings
from tests.api import Api, numbers, request
from tests.long import SOAK
from tests.reliability.cluster import Cluster
from tests.reliability.conftest import Deploy
from tests.reliability.rig import Broker, Rig

KEY = {"idempotency-key": "a key"}
KEYED = request("keyed")

Brokers = Mapping[Path, Broker]
"""Brokers by their data directories."""


@contextmanager
def one(portal: BlockingPortal, folder: Path) -> Iterator[tuple[str, Brokers, Callable[[], object]]]:
    """A broker: where it is, its data, and how it is started again."""
    with Broker(portal, folder / "data", heap_mb=256) as broker:
        yield broker.bootstrap, {broker.folder: broker}, broker.start


@contextmanager
def three(portal: BlockingPortal, folder: Path) -> Iterator[tuple[str, Brokers, Callable[[], object]]]:
    """Three of them."""
    with Cluster(portal, folder) as cluster:
        cluster.settle()
        brokers = {broker.folder: broker for broker in cluster.brokers.values()}

        def again() -> None:
            cluster.start(brokers.values())
            cluster.settle()

        yield cluster.bootstrap, brokers, again


def lived(rig: Rig) -> tuple[Sequence[str], str]:
    """What responses come to. Returns the ids of those that can be read, and of one that is open."""
    api = rig.api
    first = api.closed("one two three")
    left = [first, api.closed("and on", previous_response_id=first), api.closed(fail_after=1)]
    left.append(api.closed("not stored", store=False))
    cancelled = api.open()
    api.cancel(cancelled)
    api.delete(api.closed("deleted"))
    left += [cancelled, str(api.post(KEYED, KEY).json["id"])]
    api.events(left[-1])
    running = api.create("goes on", tokens=150, interval_ms=50)
    api.take(running, 10)
    return left, running


def shown(api: Api, ids: Sequence[str]) -> Mapping[str, Any]:
    """What clients see of each: the object, and the bytes of its stream."""
    return {id: (api.response(id), [frame.raw for frame in api.events(id)]) for id in ids}


def plain(record: LogRecord) -> MemoryRecord:
    """A record that is equal to another one with the same in it."""
    return MemoryRecord(record.offset, record.timestamp, record.key, record.value, tuple(record.headers), 0)


def stored(rig: Rig) -> Mapping[tuple[str, int], Sequence[MemoryRecord]]:
    """Every record of every topic, with its offset, its log time, key, headers and value."""
    names = topic_names(rig.settings)

    async def read() -> Mapping[tuple[str, int], Sequence[MemoryRecord]]:
        log = KafkaLog(rig.settings.kafka, "rejoinder-test")
        found: dict[tuple[str, int], list[MemoryRecord]] = {}
        try:
            for topic in (getattr(names, field) for field in names.__struct_fields__):
                for partition, (start, end) in (
                    await log.bounds(topic, range(await log.partitions(topic)))
                ).items():
                    records, at = found.setdefault((topic, partition), []), start
                    while at < end:
                        for batch in await log.fetch({TopicPartition(topic, partition): at}):
                            records += map(plain, batch.records)
                            at = batch.next_offset
        finally:
            await log.close()
        return found

    return rig.run(read)


def committed(rig: Rig) -> Sequence[Mapping[int, int | None]]:
    """The watermarks of executors and projectors."""
    settings: Settings = rig.settings
    events = topic_names(settings).events

    async def read() -> Sequence[Mapping[int, int | None]]:
        log = KafkaLog(settings.kafka, "rejoinder-test")
        try:
            partitions = range(await log.partitions(events))
            groups = (executors_group(settings), projector_group(settings))
            return [await log.committed(group, events, partitions) for group in groups]
        finally:
            await log.close()

    return rig.run(read)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("brokers", [one, *([three] if SOAK else [])], ids=lambda made: made.__name__)
def test_what_was_lost_is_restored_as_it_was(
    portal: BlockingPortal, deploy: Deploy, tmp_path: Path, brokers: Any
) -> None:
    with (
        brokers(portal, tmp_path) as (bootstrap, all_of_them, start),
        deploy(bootstrap, partitions=4, replication=len(all_of_them)) as rig,
    ):
        rig.start_all()
        ids, running = lived(rig)
        before = shown(rig.api, ids)
        for service in rig.alive:
            service.terminate()
        for service in rig.services:
            service.wait()
        records, watermarks = stored(rig), committed(rig)
        assert sum(map(len, records.values())) > 50

        for broker in all_of_them.values():
            broker.stop()
        files = {tmp_path / f"backup-{number}": folder for number, folder in enumerate(all_of_them)}
        for file, folder in files.items():
            assert run(["backup", str(file), "--data", str(folder)]) == 0
            shutil.rmtree(folder)
        for file, folder in files.items():
            assert run(["restore", str(file), "--data", str(folder)]) == 0
        start()

        assert stored(rig) == records
        assert committed(rig) == watermarks
        rig.start_all()
        api = rig.api
        assert shown(api, ids) == before
        assert api.post(KEYED, KEY).json["id"] == ids[-1]
        told = api.events(running)
        assert numbers(told) == list(range(len(told)))
        assert api.response(running)["status"] == "completed"
        assert api.response(api.closed("new", previous_response_id=ids[0]))["status"] == "completed"
        times = [
            (record.timestamp, entry.not_after)
            for (topic, partition), found in stored(rig).items()
            if topic == topic_names(rig.settings).events
            for record in found
            if isinstance(entry := parse(record, partition), Accepted)
        ]
        assert all(appended <= not_after for appended, not_after in times), "an accepted would be void (P-20)"
