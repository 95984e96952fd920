"""What is deleted is gone from the broker's disk, and what has expired is not found, never half there."""

import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import TopicPartition
from anyio.from_thread import BlockingPortal

from services.eventlog.topics import topics
from tests.api import Api, request
from tests.reliability import audit
from tests.reliability.rig import Broker, Rig, until

CLEANING = {
    "log.cleaner.backoff.ms": "200",
    "log.retention.check.interval.ms": "500",
    "file.delete.delay.ms": "100",
}
"""The broker's cleaner in a hurry."""
EAGER = {
    "cleanup.policy": "compact,delete",
    "message.timestamp.type": "LogAppendTime",
    "max.message.bytes": str(2 << 20),
    "min.compaction.lag.ms": "0",
    "max.compaction.lag.ms": "1000",
    "min.cleanable.dirty.ratio": "0.001",
    "segment.ms": "1000",
}


@pytest.fixture(scope="module")
def broker(portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker(portal, tmp_path_factory.mktemp("broker"), CLEANING) as running:
        yield running


@pytest.fixture
def rig(broker: Broker, portal: BlockingPortal, tmp_path: Path) -> Iterator[Rig]:
    with Rig(broker.start(), tmp_path, portal, partitions=1) as running:
        running.start_all()
        yield running


async def admin_of(rig: Rig) -> AIOKafkaAdminClient:
    admin = AIOKafkaAdminClient(bootstrap_servers=rig.settings.kafka)
    await admin.start()
    return admin


def compact_eagerly(rig: Rig) -> None:
    """As no operator would set it: a service refuses to start on such topics. What is not named is reset."""
    names = topics(rig.settings.topic_prefix)

    async def alter() -> None:
        admin = await admin_of(rig)
        for topic in (names.events, names.responses, names.transcripts):
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, EAGER)])
        await admin.close()

    rig.run(alter)


def delete_records(rig: Rig, topic: str) -> None:
    """What retention does: the partition begins at its end."""

    async def delete() -> None:
        admin = await admin_of(rig)
        partition = TopicPartition(topic, 0)
        await admin.delete_records({partition: RecordsToDelete(-1)})
        await admin.close()

    rig.run(delete)


def holding(folder: Path, needles: Sequence[bytes]) -> list[str]:
    """The broker's log segments that hold one of the needles, whichever file they are in."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in (".log", ".deleted", ".cleaned", ".swap"):
            data = path.read_bytes()
            found += [f"{path.parent.name}/{path.name}" for needle in needles if needle in data]
    return found


def packed(rig: Rig, id: str) -> list[bytes]:
    """What `transcripts` holds of a response, as it lies on the disk."""
    names = topics(rig.settings.topic_prefix)
    records = audit.records(rig, names.transcripts)
    mine = [r for r in records if (r.key or b"").startswith(f"{id}/".encode())]
    return [r.value for r in mine if r.value is not None and not (r.key or b"").endswith(b"/gone")]


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_after_a_delete_and_compaction_the_plaintext_is_nowhere_on_the_disk(rig: Rig, broker: Broker) -> None:
    secret = f"secret{secrets.token_hex(8)}"
    closed = rig.api.closed(f"my {secret} is safe")
    running = rig.api.open(f"and {secret} as well")
    unstored = rig.api.post(request(f"{secret} not stored", background=False, store=False))
    assert unstored.status == 200
    until(lambda: len(packed(rig, closed)) == 2)
    needles = [secret.encode(), *packed(rig, closed)]
    assert holding(broker.folder, needles)

    for id in (closed, running):
        assert rig.api.delete(id).status == 200
    compact_eagerly(rig)

    def erased() -> bool:
        rig.api.closed("traffic, so that segments roll")
        time.sleep(0.5)
        return not holding(broker.folder, needles)

    began = time.monotonic()
    until(erased, 90)
    print(f"erased from the disk {time.monotonic() - began:.1f} s after compaction was allowed")
    assert not holding(broker.folder, needles)
    assert {rig.api.get(id).status for id in (closed, running)} == {404}


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_what_is_ephemeral_is_read_over_restarts_of_everything_and_then_erased_from_the_disk(
    broker: Broker, portal: BlockingPortal, tmp_path: Path
) -> None:
    """While no executor lives log time stands still, however long that takes: nothing is a matter of luck."""
    secret = f"secret{secrets.token_hex(8)}"
    with Rig(broker.start(), tmp_path, portal, partitions=1, ephemeral_s=20) as rig:
        rig.start_all()
        completed = rig.api.closed(f"my {secret} was said", store=False)
        cancelled = rig.api.open(f"and {secret} was cut off", store=False)
        rig.named("executor")[0].kill()
        assert rig.api.cancel(cancelled).status == 200
        told = {id: (rig.api.get(id).body, rig.api.events(id)) for id in (completed, cancelled)}
        for name in ("projector", "ingest", "replay"):
            rig.named(name)[0].kill()
            rig.ready([rig.start(name)])
        replicas = [rig.api, rig.another("replay")[1]]
        for api in replicas:
            assert {id: (api.get(id).body, api.events(id)) for id in told} == told
        assert holding(broker.folder, [secret.encode()])

        rig.ready([rig.start("executor")])
        for id in told:
            until(lambda id=id: rig.api.get(id).status == 404)  # type: ignore[misc]
            assert [_found(api, id) for api in replicas] == [{404}, {404}]  # both at once
            assert rig.api.cancel(id).status == rig.api.delete(id).status == 404
        compact_eagerly(rig)
        until(lambda: _rolled(rig) and not holding(broker.folder, [secret.encode()]), 90)
        assert [_found(api, id) for api in replicas for id in told] == [{404}] * 4
        names = topics(rig.settings.topic_prefix)
        keys = [
            r.key or b"" for view in (names.transcripts, names.responses) for r in audit.records(rig, view)
        ]
        assert not [key for key in keys if key.startswith(tuple(id.encode() for id in told))]


def _rolled(rig: Rig) -> bool:
    """After more traffic, so that segments roll and are compacted."""
    rig.api.closed("traffic")
    time.sleep(0.5)
    return True


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_what_has_expired_is_not_found_at_any_cursor_and_never_half_there(rig: Rig) -> None:
    names = topics(rig.settings.topic_prefix)
    expired = [rig.api.closed(f"number {n}", tokens=200) for n in range(5)]
    until(lambda: all(packed(rig, id) for id in expired))
    for topic in (names.events, names.transcripts, names.responses):
        delete_records(rig, topic)
    fresh = rig.api.closed("after retention")
    rig.named("replay")[0].kill()
    rig.ready([rig.start("replay")])

    for api in (rig.api, rig.another("replay")[1]):
        for id in expired:
            assert _found(api, id) == {404}
        assert len(api.events(fresh)) > 5


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_reader_whose_events_expire_under_it_is_cut_or_told_never_given_a_gap(rig: Rig) -> None:
    names = topics(rig.settings.topic_prefix)
    id = rig.api.closed("one two three", tokens=3000)
    until(lambda: packed(rig, id))
    with rig.api.stream(id, receive_buffer=4096) as stream:
        frames = stream.frames()
        got = [next(frames) for _ in range(10)]
        for topic in (names.events, names.transcripts, names.responses):
            delete_records(rig, topic)
        try:
            got += list(frames)
        except ConnectionError:
            pass
        else:
            assert got[-1].type == "response.completed"
    assert [frame.number for frame in got] == list(range(len(got)))
    answer = rig.api.get(id, "?stream=true&starting_after=5")
    assert answer.status in (200, 404), answer
    if answer.status == 200:  # still in replay's memory: then it is whole
        assert rig.api.events(id, 5)[-1].type == "response.completed"


def _found(api: Api, id: str) -> set[Any]:
    answers = [api.get(id, query) for query in ("", "?stream=true", "?stream=true&starting_after=100")]
    return {answer.status for answer in [*answers, api.input_items(id)]}
