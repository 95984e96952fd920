"""An executor over the log in memory, and a rig that writes to that log as clients and other executors do."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from math import inf
from typing import Any

import pytest

from schemas import response
from schemas.errors import LogUnavailable
from schemas.fold import Fold, State, Verdict
from schemas.ids import ClaimId, ExecutorId, ResponseId, Tenant, partition_of, response_id
from schemas.records import Accepted, Claimed, EventHeaders, EventRecord, NewRecord, parse
from services.config import load
from services.eventlog.memory import MemoryLog
from services.eventlog.port import Batch, TopicPartition
from services.eventlog.topics import topics
from services.executor.backends import Registry, build
from services.executor.conversation import Conversation
from services.executor.executor import Executor
from services.settings import Settings
from services.web.peer import Peer
from services.web.replay_client import ReplayClient
from services.web.replays import Replays
from tests.conftest import PATIENCE, eventually
from tests.written import claim_of

NAMES = topics()
TENANT = Tenant("default")
FAR = 1 << 50
DEAD = ExecutorId("exec_dead")
DEAD_CLAIM = claim_of("dead")


@asynccontextmanager
async def conversing(url: str = "http://127.0.0.1:9", bound: float = inf) -> AsyncIterator[Conversation]:
    """Conversations that ask the replay at `url`; nobody listens at the usual one."""
    peer = Peer(url)
    try:
        yield Conversation(ReplayClient(Replays([peer])), bound)
    finally:
        await peer.close()


@contextmanager
def away(log: MemoryLog, source: TopicPartition, patch: pytest.MonkeyPatch) -> Iterator[asyncio.Event]:
    """A log whose partition `source` has no leader while the event is set."""
    gone, fetch = asyncio.Event(), log.fetch

    async def partly(positions: Mapping[TopicPartition, int], **bounds: Any) -> list[Batch]:
        if not gone.is_set():
            return await fetch(positions, **bounds)
        left = {one: position for one, position in positions.items() if one != source}
        if not left:
            raise LogUnavailable(f"the leader of {source.topic}/{source.partition} is away")
        return await fetch(left, **bounds)

    with patch.context() as patched:
        patched.setattr(log, "fetch", partly)
        yield gone


def memory() -> MemoryLog:
    """A log of two partitions."""
    return MemoryLog({NAMES.events: 2, NAMES.executors: 1})


class Rig:
    """A log, and writes to it as of clients and other executors."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.writer = log.writer()
        self.made = 0
        self.running: asyncio.Task[None]
        """The executor that was started last."""

    async def put(self, record: NewRecord, partition: int = 0) -> int:
        return (await self.writer.append(NAMES.events, partition, record)).offset

    async def accept(
        self,
        text: str = "one two",
        deadline: int = FAR,
        raw_value: bytes = b"",
        partition: int = 0,
        **body: Any,
    ) -> ResponseId:
        self.made += 1
        id = response_id(partition, self.made.to_bytes(16))
        body = {"model": "echo", "background": True, "input": text, **body}
        initial = response.initial(body, id, 1_700_000_000, "echo")
        entry = Accepted(
            id, "n", TENANT, "sha", FAR, deadline, background=body["background"],
            store=body.get("store", True), previous=body.get("previous_response_id"),
        )  # fmt: skip
        value = raw_value or json.dumps({"request": body, "response": initial}).encode()
        await self.put(entry.new(value), partition)
        return id

    async def claim(self, id: ResponseId, attempt: int = 1, claim: ClaimId = DEAD_CLAIM) -> None:
        await self.put(Claimed(id, attempt, claim, DEAD, TENANT).new(), partition_of(id))

    async def event(
        self, id: ResponseId, number: int, event: dict[str, Any], claim: ClaimId = DEAD_CLAIM
    ) -> None:
        value = json.dumps(event | {"sequence_number": number}).encode()
        await self.put(EventHeaders(id, claim, 1, TENANT).event(number, event["type"], value))

    def fold(self, partition: int = 0) -> tuple[Fold, dict[ResponseId, list[dict[str, Any]]]]:
        """The fold of the log as a reader has it: the states, and the values of the events that count."""
        fold = Fold()
        told: dict[ResponseId, list[dict[str, Any]]] = {}
        for record in self.log.records(NAMES.events, partition):
            entry = parse(record)
            counts = fold.apply(record.offset, record.timestamp, entry) is Verdict.COUNTS
            if counts and isinstance(entry, EventRecord):
                assert record.value is not None
                told.setdefault(entry.id, []).append(json.loads(record.value))
        return fold, told

    def state(self, id: ResponseId) -> State:
        return self.fold(partition_of(id))[0].responses[id]

    def events(self, id: ResponseId) -> list[dict[str, Any]]:
        return self.fold()[1].get(id, [])

    async def closed(self, id: ResponseId) -> State:
        await eventually(lambda: self.state(id).closed)
        return self.state(id)

    @asynccontextmanager
    async def executor(self, registry: Registry | None = None, **settings: Any) -> AsyncIterator[Executor]:
        stop = asyncio.Event()
        registry = registry or build(load("", {}), {})
        options = Settings(**{"grace_s": 1, **settings})
        async with conversing() as conversation:
            executor = Executor(options, self.log, NAMES, registry, conversation)
            self.running = asyncio.create_task(executor.run(stop))
            try:
                yield executor
            finally:
                stop.set()
                await asyncio.wait_for(self.running, PATIENCE)
