"""What is erased from the log: all of a response that is to go, and of another nothing but what is astray."""

from schemas.ids import ExecutorId, ResponseId, Tenant
from schemas.records import Claimed, Deleted, EventHeaders, NewRecord
from services.eventlog.memory import MemoryLog
from services.eventlog.port import Ack, Writer
from services.eventlog.topics import topics
from services.executor.eraser import SLICE, erase
from services.executor.partition import Partition
from tests.written import claim_of

EVENTS = topics().events
ID = ResponseId("resp_0000" + "7" * 32)


async def logged(attempts: int) -> MemoryLog:
    """A log of claims of one response."""
    log = MemoryLog({EVENTS: 1})
    writer = log.writer()
    for attempt in range(1, attempts + 1):
        entry = Claimed(ID, attempt, claim_of(f"{attempt}"), ExecutorId("exec_1"), Tenant("default"))
        await writer.append(EVENTS, 0, entry.new())
    return log


async def erased(log: MemoryLog, partition: Partition) -> list[bytes]:
    """The keys that were tombstoned when all that was asked for is done."""
    await erase(log, log.writer(), EVENTS, partition, list(partition.erasures.wanted.values()))
    assert not partition.erasures.wanted
    return [r.key or b"" for r in log.records(EVENTS, 0) if r.value is None]


async def test_what_lies_between_two_strays_stays() -> None:
    log = await logged(5)
    records, partition = log.records(EVENTS, 0), Partition(0, floor=0)
    for offset in (0, 1, 3):
        partition.erasures.erase_stray(ID, offset)
    assert partition.watermark(5) == 0
    assert await erased(log, partition) == [records[offset].key for offset in (0, 1, 3)]
    assert partition.watermark(5) == 5


async def test_all_of_a_response_that_is_to_go_goes() -> None:
    log = await logged(5)
    records, partition = log.records(EVENTS, 0), Partition(0, floor=0)
    partition.erasures.erase_stray(ID, 4)
    partition.erasures.erase(ID, 0, records[2])
    partition.erasures.erase(ID, 3, records[3])
    assert await erased(log, partition) == [record.key for record in records]


class Lane:
    """A writer that counts what is under way, and what was at most."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.under_way = self.most = 0

    def post(self, topic: str, partition: int, record: NewRecord) -> None:
        self._writer.post(topic, partition, record)
        self._begun()

    async def append(self, topic: str, partition: int, record: NewRecord) -> Ack:
        self._begun()
        ack = await self._writer.append(topic, partition, record)
        self.under_way = 0
        return ack

    def _begun(self) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)


async def test_others_get_between_the_tombstones_of_a_long_response() -> None:
    log = await logged(2 * SLICE + 1)
    records, partition, lane = log.records(EVENTS, 0), Partition(0, floor=0), Lane(log.writer())
    partition.erasures.erase(ID, 0, records[-1])
    await erase(log, lane, EVENTS, partition, list(partition.erasures.wanted.values()))  # type: ignore[arg-type]

    assert not partition.erasures.wanted
    assert [r.key for r in log.records(EVENTS, 0) if r.value is None] == [record.key for record in records]
    assert lane.most == SLICE


async def test_a_delete_is_known_by_its_kind_and_all_else_of_the_response_goes() -> None:
    log = await logged(1)
    writer = log.writer()
    event = EventHeaders(ID, claim_of("deleted"), 1, Tenant("default")).event(0, "x", b"{}")
    for record in (event, Deleted(ID, "n", Tenant("default"), 0).new()):
        await writer.append(EVENTS, 0, record)
    records, partition = log.records(EVENTS, 0), Partition(0, floor=0)
    partition.erasures.erase(ID, 0, records[-1])
    assert await erased(log, partition) == [record.key for record in records[:-1]]


async def test_what_the_owner_before_has_erased_is_not_erased_again() -> None:
    log = await logged(5)
    records, partition = log.records(EVENTS, 0), Partition(0, floor=0)
    partition.erasures.erase_stray(ID, 1)
    partition.erasures.erase_stray(ID, 3)
    partition.begin(acts_from=5, committed=3)
    assert await erased(log, partition) == [records[3].key]


async def test_nothing_is_committed_over_what_came_late_until_it_is_erased() -> None:
    """Who starts from the checkpoint would take it for what led to a close behind the floor."""
    log = await logged(5)
    records, partition = log.records(EVENTS, 0), Partition(0, floor=0)
    said = [partition.erasures.is_rid]
    partition.erasures.erase_stray(ID, 4)
    said.append(partition.erasures.is_rid)
    await erased(log, partition)
    said.append(partition.erasures.is_rid)
    partition.erasures.erase(ID, 2, records[2], late=True)
    said.append(partition.erasures.is_rid)
    assert said == [True, False, True, False]


async def test_what_says_itself_why_it_is_erased_holds_up_no_checkpoint() -> None:
    """The watermark stays before it, so who starts reads it again."""
    records, partition = (await logged(5)).records(EVENTS, 0), Partition(0, floor=0)
    partition.erasures.erase(ID, 0, records[2])
    partition.erasures.erase(ID, 3, records[3], late=True)
    assert (partition.erasures.is_rid, partition.watermark(5)) == (True, 2)
