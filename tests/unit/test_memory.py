"""What only the log in memory has: a clock of its own, compaction on demand, failures asked for."""

import pytest

from schemas.errors import AppendUnknown, LogUnavailable
from schemas.records import NewRecord
from services.eventlog.memory import MemoryLog
from services.eventlog.port import TopicPartition

TOPIC = "events"
SOURCE = TopicPartition(TOPIC, 0)


async def test_log_time_is_the_clocks_and_never_goes_back() -> None:
    times = iter([100, 90, 200])
    log = MemoryLog({TOPIC: 1}, clock=lambda: next(times))
    writer = log.writer()
    acks = [await writer.append(TOPIC, 0, NewRecord(b"k%d" % n, b"v")) for n in range(3)]
    assert [ack.timestamp for ack in acks] == [100, 100, 200]


async def test_compaction_keeps_the_last_of_each_key_and_its_offset() -> None:
    log = MemoryLog({TOPIC: 1})
    writer = log.writer()
    for key, value in (b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"b", None):
        await writer.append(TOPIC, 0, NewRecord(key, value))
    log.compact(TOPIC)
    found = [(record.offset, record.key, record.value) for record in log.records(TOPIC, 0)]
    assert found == [(2, b"a", b"3"), (3, b"b", None)]
    [batch] = await log.fetch({SOURCE: 0})
    assert (len(batch.records), batch.next_offset, batch.end) == (2, 4, 4)


@pytest.mark.parametrize(
    "outcome, error, appended",
    [("lost", LogUnavailable, 0), ("unknown-lost", AppendUnknown, 0), ("unknown-appended", AppendUnknown, 1)],
)
async def test_an_append_fails_as_asked_for(outcome: str, error: type[Exception], appended: int) -> None:
    log = MemoryLog({TOPIC: 1})
    log.fail_next(outcome)  # type: ignore[arg-type]
    writer = log.writer()
    with pytest.raises(error):
        await writer.append(TOPIC, 0, NewRecord(b"k", b"v"))
    assert len(log.records(TOPIC, 0)) == appended
    assert (await writer.append(TOPIC, 0, NewRecord(b"k", b"v"))).offset == appended


async def test_with_the_log_away_everything_says_so() -> None:
    log = MemoryLog({TOPIC: 1})
    log.available = False
    with pytest.raises(LogUnavailable):
        await log.fetch({SOURCE: 0})
    with pytest.raises(LogUnavailable):
        await log.bounds(TOPIC, [0])
    with pytest.raises(LogUnavailable):
        await log.writer().append(TOPIC, 0, NewRecord(b"k", b"v"))


async def test_an_expelled_member_owns_nothing_and_the_others_take_over() -> None:
    log = MemoryLog({TOPIC: 2})
    told: list[frozenset[int]] = []
    expelled = await log.join("group", TOPIC, told.append)
    stays = await log.join("group", TOPIC, lambda _: None)
    expelled.expel()
    assert told[-1] == expelled.owned == frozenset()
    assert stays.owned == {0, 1}
