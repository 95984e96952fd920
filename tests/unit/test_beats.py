"""The beats are read for as long as the executor runs."""

import asyncio
from collections.abc import Collection

import pytest

from schemas.errors import LogUnavailable
from schemas.ids import ExecutorId
from schemas.records import NewRecord
from services.eventlog import patience
from services.eventlog.memory import MemoryLog
from services.eventlog.port import Bounds
from services.executor.beats import Beats
from services.executor.liveness import Liveness
from tests.conftest import eventually

TOPIC = "executors"
ME = ExecutorId("me")


class Forgetful(MemoryLog):
    """Is away for the next `away` look-ups."""

    away = 0

    async def bounds(self, topic: str, partitions: Collection[int]) -> dict[int, Bounds]:
        if self.away:
            self.away -= 1
            raise LogUnavailable("the log is away")
        return await super().bounds(topic, partitions)


async def test_a_log_that_is_away_when_beats_are_lost_does_not_end_the_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "PAUSE", 0.01)
    log, told = Forgetful({TOPIC: 1}), list[None]()
    writer = log.writer()
    beats = Beats(ME, log, TOPIC, writer, Liveness(ME), lambda: told.append(None), lease=20)
    await beats.start()
    headers = [("kind", b"beat"), ("executor", ME.encode())]
    beat = NewRecord(ME.encode(), b"{}", headers)
    await writer.append(TOPIC, 0, beat)
    log.retain(TOPIC, 0, 1)
    log.away = 3
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(beats.read())
        await eventually(lambda: not log.away)
        await writer.append(TOPIC, 0, beat)
        await eventually(lambda: told)
        reading.cancel()


async def test_a_beat_stands_for_when_it_was_sent() -> None:
    """However long it was on its way: meanwhile others may have counted me out (P-52)."""
    log, liveness, now = MemoryLog({TOPIC: 1}), Liveness(ME), asyncio.get_running_loop().time
    beats = Beats(ME, log, TOPIC, log.writer(), liveness, lambda: None, lease=20)
    await beats.start()
    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(beats.write())
        await eventually(lambda: len(log.records(TOPIC, 0)) == 1)
        written = now()
        await eventually(lambda: now() > written + 0.05)
        beats.count(log.records(TOPIC, 0)[0])
        writing.cancel()
    assert liveness.unbroken(now(), now(), 20)
    assert not liveness.unbroken(now(), written + 20, 20)


async def test_nothing_follows_the_last_beat() -> None:
    """A later beat would make an executor whose runs are up for takeover look alive."""
    log = MemoryLog({TOPIC: 1})
    beats = Beats(ME, log, TOPIC, log.writer(), Liveness(ME), lambda: None, lease=20)
    await beats.start()
    await beats.leave()
    await beats.beat()
    (last,) = log.records(TOPIC, 0)
    assert dict(last.headers)["leaving"] == b"1"


async def test_no_beat_of_another_stands_for_mine() -> None:
    """Else my beats would queue up while the log is slow, and count out those that wait for theirs (P-50)."""
    log, told = MemoryLog({TOPIC: 1}), list[None]()
    beats = Beats(ME, log, TOPIC, log.writer(), Liveness(ME), lambda: told.append(None), lease=20)
    await beats.start()
    headers = [("kind", b"beat"), ("executor", b"another")]
    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(beats.write())
        await eventually(lambda: len(log.records(TOPIC, 0)) == 1)
        beats.count(log.records(TOPIC, 0)[0]._replace(headers=headers))
        assert not told
        beats.count(log.records(TOPIC, 0)[0])
        assert told
        writing.cancel()
    assert len(told) == 1
