"""Several shards of replay, an ingest and an executor in the test's own process, over one log in memory.

Each replay may be started and stopped by itself.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from msgspec.structs import replace

from services.broker.tcp import free_port
from services.eventlog.memory import MemoryLog
from services.replay import app as replay
from services.settings import Settings
from tests.conftest import eventually
from tests.ingesting import Ingesting, executing, served_topics
from tests.serving import HOST, Answer, ask
from tests.stores import memory_store

PARTITIONS = 6


class Sharding(Ingesting):
    """An ingest, and replays, each by the name of what it serves at first: `0/3`, say."""

    def __init__(self, shards: Sequence[str], **changes: Any) -> None:
        super().__init__(MemoryLog(served_topics(PARTITIONS)), **changes)
        self.settings: dict[str, Settings] = {}
        for shard in shards:
            self.add(shard)

    def add(self, shard: str) -> None:
        """Make room for one more replay; those that run already do not know of it."""
        port, internal = free_port(), free_port()
        self.settings[shard] = replace(
            self.replay_settings, port=port, internal_port=internal, shard=tuple(shard.split(","))
        )
        urls = ",".join(f"http://{HOST}:{each.internal_port}" for each in self.settings.values())
        self.ingest_settings = replace(self.ingest_settings, replay_url=urls)
        self.settings = {name: replace(own, replay_url=urls) for name, own in self.settings.items()}
        self.public = next(iter(self.settings.values())).port

    def port_of(self, shard: str) -> int:
        """The public port of a replay."""
        return self.settings[shard].port

    async def change(self, name: str, shard: str) -> None:
        """Start a replay again, at its ports, to serve something else. It knows all that there are now."""
        await self.stop(name)
        self.settings[name] = replace(self.settings[name], shard=tuple(shard.split(",")))
        await self.start_shard(name)

    async def start_replay(self) -> None:
        for shard in self.settings:
            await self.start_shard(shard)

    async def start_shard(self, shard: str) -> None:
        """Start a replay, and wait until it listens."""
        stop, own = asyncio.Event(), self.settings[shard]
        self.stops[shard] = stop
        self.tasks[shard] = asyncio.create_task(replay.serve(own, self.log, self.names, memory_store(), stop))
        await eventually(lambda: self.listens(shard, own.port))

    async def ready(self) -> bool:
        ports = [own.port for shard, own in self.settings.items() if shard in self.tasks]
        answers = [await ask(port, "GET /readyz") for port in (*ports, self.port)]
        return all(answer.status == 200 for answer in answers)

    async def known(self, asker: str, partition: int, status: int = 404) -> bool:
        """Whether replay `asker` has heard who serves a partition, or that nobody does (503)."""
        keys = [f"authorization: Bearer {pair.partition('=')[2]}" for pair in self.replay_settings.api_keys]
        path = f"/v1/responses/resp_{partition:04x}{'0' * 32}"
        answer = await ask(self.port_of(asker), f"GET {path}", b"", keys[:1])
        return answer.status == status


async def create(at: Sharding, shard: str, *headers: str, **body: Any) -> Answer:
    """POST at a shard; the model echoes a few words."""
    return await create_at(at.port_of(shard), *headers, **body)


async def create_at(port: int, *headers: str, **body: Any) -> Answer:
    """The same at the port of any of them, or of a balancer."""
    whole = {"model": "echo", "input": "to be or not to be", **body}
    return await ask(port, "POST /v1/responses", json.dumps(whole).encode(), headers)


async def made(at: Sharding, shard: str, *headers: str, **body: Any) -> str:
    """The id of a background response that was made at a shard."""
    answer = await create(at, shard, *headers, background=True, **body)
    assert answer.status == 200, answer
    return str(json.loads(answer.body)["id"])


async def ends_cleanly(reader: asyncio.StreamReader) -> bool:
    """Whether a chunked answer has its last chunk."""
    with suppress(asyncio.IncompleteReadError, ConnectionResetError):
        while True:
            if await reader.readuntil(b"\r\n") == b"0\r\n":
                return True
    return False


@asynccontextmanager
async def sharding(
    shards: Sequence[str] = ("0/3", "1/3", "2/3"), *, alone: bool = False, **changes: Any
) -> AsyncIterator[Sharding]:
    """Shards that know each other, an ingest and an executor. `alone`: they do not serve all partitions."""
    running = Sharding(shards, **changes)
    try:
        await running.start_replay()
        await running.start_ingest()
        await eventually(running.ready)
        async with executing(running):
            for asker in shards:
                for partition in range(0 if alone else PARTITIONS):
                    await eventually(lambda a=asker, p=partition: running.known(a, p))  # type: ignore[misc]
            yield running
    finally:
        for name in list(running.tasks):
            await running.stop(name)
