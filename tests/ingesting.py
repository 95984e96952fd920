"""Ingest and replay in the test's own process, over one log in memory, and a look at that log.

Clients ask replay, the front door. `port` is ingest's public port, which takes the same for one release.

`executing` adds an executor, so that model `echo` answers.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from schemas.records import Accepted, Entry, parse
from services import config
from services.broker.tcp import free_port
from services.eventlog.memory import MemoryLog
from services.eventlog.memory_partition import MemoryRecord
from services.eventlog.port import Log
from services.eventlog.topics import Topics, topics
from services.executor.backends import build
from services.executor.conversation import Conversation
from services.executor.executor import Executor
from services.executor.listing import Lister
from services.ingest import app as ingest
from services.replay import app as replay
from services.settings import Settings
from services.web.certificates import Certificates
from services.web.replay_client import ReplayClient
from services.web.replays import replays_of
from tests.conftest import PATIENCE, eventually
from tests.responses import Author
from tests.serving import HOST, Answer, ask
from tests.stores import memory_store

NAMES = topics()
PARTITIONS = 2
SECRET = "sesame-open-sesame"
CONFIG = '[[agents]]\nname = "weather"\nurl = "http://127.0.0.1:9"\n'


def served_topics(partitions: int = PARTITIONS) -> dict[str, int]:
    """The topics of a log in memory under ingest, replay and executors, with the partitions of each."""
    alike = dict.fromkeys((NAMES.events, NAMES.transcripts, NAMES.index), partitions)
    return alike | {NAMES.executors: 1, NAMES.installation: 1}


class Ingesting:
    """The running pair. `stop_ingest` and `stop_replay` end one of them and wait until it has gone."""

    def __init__(self, log: Log, names: Topics = NAMES, **changes: Any) -> None:
        port, inside, internal, public = (free_port() for _ in range(4))
        hosts = {"host": HOST, "internal_host": HOST}
        common: dict[str, Any] = {**hosts, "internal_secret": SECRET, "grace_s": 2} | changes
        self._log = log
        self.names = names
        self.port = port
        scheme = "https" if changes.get("internal_cert_file") else "http"
        replay_url, ingest_url = f"{scheme}://{HOST}:{internal}", f"{scheme}://{HOST}:{inside}"
        self.ingest_settings = Settings(port=port, internal_port=inside, replay_url=replay_url, **common)
        self.replay_settings = Settings(port=public, internal_port=internal, ingest_url=ingest_url, **common)
        self.public = public
        self.config = CONFIG
        """The text of its rejoinder.toml, for ingest and executors."""
        self.stops: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        """What runs, by name."""

    async def start_ingest(self, text: str | None = None) -> None:
        """Start ingest with `text` as its rejoinder.toml, else with what it had."""
        self.config = self.config if text is None else text
        stop = self.stops["ingest"] = asyncio.Event()
        configuration = config.parse(self.config, "rejoinder.toml")
        serving = ingest.serve(self.ingest_settings, configuration, self._log, self.names, stop)
        self.tasks["ingest"] = asyncio.create_task(serving)
        await eventually(lambda: self.listens("ingest", self.port))

    async def start_replay(self) -> None:
        stop = self.stops["replay"] = asyncio.Event()
        self.tasks["replay"] = asyncio.create_task(
            replay.serve(self.replay_settings, self._log, self.names, memory_store(), stop)
        )
        await eventually(lambda: self.listens("replay", self.public))

    async def ready(self) -> bool:
        """Whether both services are ready."""
        answers = [await ask(port, "GET /readyz") for port in (self.public, self.port)]
        return all(answer.status == 200 for answer in answers)

    async def stop(self, name: str) -> None:
        if name in self.tasks:
            self.stops[name].set()
            await self.tasks.pop(name)

    async def listens(self, name: str, port: int) -> bool:
        """Whether a service that was started listens. Fails if it has ended."""
        if self.tasks[name].done():
            self.tasks[name].result()
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            return False
        writer.close()
        return True

    async def post(self, body: dict[str, Any] | bytes, *headers: str) -> Answer:
        raw = (
            body if isinstance(body, bytes) else json.dumps({"model": "echo", "input": "hi"} | body).encode()
        )
        return await ask(self.public, "POST /v1/responses", raw, headers)

    async def create(self, *headers: str, **body: Any) -> dict[str, Any]:
        answer = await self.post({"background": True} | body, *headers)
        assert answer.status == 200, answer
        made: dict[str, Any] = json.loads(answer.body)
        return made

    async def cancel(self, id: str, *headers: str) -> Answer:
        return await ask(self.public, f"POST /v1/responses/{id}/cancel", b"{}", headers)

    async def delete(self, id: str, *headers: str) -> Answer:
        return await ask(self.public, f"DELETE /v1/responses/{id}", b"", headers)

    async def get(self, id: str, *headers: str) -> Answer:
        return await ask(self.public, f"GET /v1/responses/{id}", b"", headers)

    @property
    def log(self) -> MemoryLog:
        """The log, when it is in memory."""
        assert isinstance(self._log, MemoryLog)
        return self._log

    def author(self, number: int = 1) -> Author:
        """An author that writes a response into the log by hand."""
        return Author(self.log.writer(), number)

    def records(self) -> Sequence[MemoryRecord]:
        """Everything in the log, partition by partition."""
        count = len(self.log.stored[NAMES.events])
        return [record for p in range(count) for record in self.log.records(NAMES.events, p)]

    def entries(self, kind: str) -> list[Entry]:
        """The entries of one kind in the log."""
        return [entry for record in self.records() if (entry := parse(record)).kind == kind]

    def accepted(self) -> list[Accepted]:
        """The requests in the log."""
        return [entry for entry in self.entries("accepted") if isinstance(entry, Accepted)]


@asynccontextmanager
async def ingesting(text: str = CONFIG, **changes: Any) -> AsyncIterator[Ingesting]:
    """Ingest and replay over a log in memory; `text` is their rejoinder.toml, `changes` settings of both."""
    async with started(Ingesting(MemoryLog(served_topics()), **changes), text) as running:
        yield running
        running.log.available = True


@asynccontextmanager
async def started(running: Ingesting, text: str = CONFIG) -> AsyncIterator[Ingesting]:
    """The pair, ready; both end with the block."""
    await running.start_replay()
    await running.start_ingest(text)
    try:
        await eventually(running.ready)
        yield running
    finally:
        await running.stop("ingest")
        await running.stop("replay")


@asynccontextmanager
async def executing(running: Ingesting) -> AsyncIterator[None]:
    """An executor over the same log."""
    stop = asyncio.Event()
    certificates = await Certificates.of(running.ingest_settings)
    replays = replays_of(running.ingest_settings, certificates.client)
    conversation = Conversation(ReplayClient(replays))
    settings, log = running.ingest_settings, running.log
    configuration = config.parse(running.config, "rejoinder.toml")
    registry = build(configuration, {})
    lister = Lister(log, NAMES.executors, configuration, registry.upstreams, settings.models_s)
    executor = Executor(settings, log, NAMES, registry, conversation, beside=[lister.run, replays.run])
    task = asyncio.create_task(executor.run(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, PATIENCE)
        await replays.close()
        await registry.close()


def error_of(answer: Answer) -> dict[str, Any]:
    """The error in an envelope, which has exactly four fields."""
    envelope = json.loads(answer.body)
    assert envelope.keys() == {"error"}
    error: dict[str, Any] = envelope["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error
