"""What is erased from the log: all of a response that is to go, and of another nothing but what is astray."""

from schemas.ids import ClaimId, ExecutorId, ResponseId, Tenant
from schemas.records import Claimed
from services.eventlog.memory import MemoryLog
from services.eventlog.topics import topics
from services.executor.erasure import erase
from services.executor.partition import Partition

EVENTS = topics().events
ID = ResponseId("resp_0000" + "7" * 32)


async def logged(attempts: int) -> MemoryLog:
    """A log of claims of one response."""
    log = MemoryLog({EVENTS: 1})
    writer = log.writer()
    for attempt in range(1, attempts + 1):
        claim = Claimed(ID, attempt, ClaimId(f"c{attempt}"), ExecutorId("exec_1"), Tenant("default"))
        await writer.append(EVENTS, 0, claim.new())
    return log


async def erased(log: MemoryLog, partition: Partition) -> list[bytes]:
    """The keys that were tombstoned when all that was asked for is done."""
    await erase(log, log.writer(), EVENTS, partition, list(partition.erasures.values()))
    assert not partition.erasures
    return [r.key or b"" for r in log.records(EVENTS, 0) if r.value is None]


async def test_what_lies_between_two_strays_stays() -> None:
    log = await logged(5)
    records, partition = log.records(EVENTS, 0), Partition(0, floor=0)
    for offset in (0, 1, 3):
        partition.erase_stray(ID, offset)
    assert partition.watermark(5) == 0
    assert await erased(log, partition) == [records[offset].key for offset in (0, 1, 3)]
    assert partition.watermark(5) == 5


async def test_all_of_a_response_that_is_to_go_goes() -> None:
    log = await logged(5)
    records, partition = log.records(EVENTS, 0), Partition(0, floor=0)
    partition.erase_stray(ID, 4)
    partition.erase(ID, 0, records[2])
    partition.erase(ID, 3, records[3])
    assert await erased(log, partition) == [record.key for record in records]


async def test_what_the_owner_before_has_erased_is_not_erased_again() -> None:
    log = await logged(5)
    records, partition = log.records(EVENTS, 0), Partition(0, floor=0)
    partition.erase_stray(ID, 1)
    partition.erase_stray(ID, 3)
    partition.own(acts_from=5, committed=3)
    assert await erased(log, partition) == [records[3].key]


def test_what_led_to_a_close_behind_the_floor_is_nothing_late() -> None:
    partition = Partition(0, floor=10)
    partition.own(acts_from=20, committed=10)
    for offset in (8, 12, 15):
        partition.unknown_read(ID, offset, closes=False)
    partition.unknown_read(ID, 16, closes=True)
    partition.unknown_read(ID, 17, closes=False)
    partition.caught_up()
    assert not partition.erasures


def test_what_closed_before_the_floor_is_late_behind_it() -> None:
    partition = Partition(0, floor=10)
    partition.own(acts_from=20, committed=10)
    for offset in (8, 12, 15):
        partition.unknown_read(ID, offset, closes=False)
    assert not partition.erasures
    partition.caught_up()
    assert [erasure.start for erasure in partition.erasures.values()] == [12, 15]


def test_what_comes_after_the_assignment_for_a_response_unknown_is_late() -> None:
    partition = Partition(0, floor=10)
    partition.own(acts_from=20, committed=10)
    partition.unknown_read(ID, 20, closes=True)
    assert [erasure.start for erasure in partition.erasures.values()] == [20]
