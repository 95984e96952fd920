"""Workers of webhooks as processes on a real broker: killed amid deliveries, and the operator's commands."""

import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from services.broker.tcp import LOOPBACK, free_port
from services.clock import now_ms
from services.connect import topic_names
from services.eventlog.kafka_topics import create_topics
from services.eventlog.port import Log
from services.eventlog.topics import MAX_RECORD_BYTES
from services.settings import Settings, environment
from tests.closings import CLOSING
from tests.conftest import eventually
from tests.process import REJOINDER
from tests.webhooks import KEY, Hooks, Receiver, announce, deliveries, ended

PARTITIONS = 2
ENDS = 300


class Worker:
    """`rejoinder webhooks` as a process."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.port = free_port()
        own = {
            "kafka": settings.kafka,
            "topic_prefix": settings.topic_prefix,
            "max_record_bytes": settings.max_record_bytes,
            "webhooks_keys": (KEY,),
            "webhooks_allow_private": 1,
            "internal_port": self.port,
            "log_format": "console",
        }
        self.environ = {**os.environ, **environment(own)}
        self._log = folder / f"{self.port}.log"
        with self._log.open("wb") as sink:
            self.process = subprocess.Popen(
                [REJOINDER, "webhooks"], env=self.environ, stdout=sink, stderr=sink
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def owns(self) -> int:
        """How many partitions the group has assigned to it last."""
        said = re.findall(r"partitions owned .*?partitions=\[([^\]]*)\]", self.log)
        return len(said[-1].split(",")) if said and said[-1] else 0

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """`rejoinder webhooks` with a command."""
        return subprocess.run(
            [REJOINDER, "webhooks", *command],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
async def settings(kafka: str, topic_prefix: str) -> Settings:
    settings = Settings(
        kafka=kafka,
        topic_prefix=topic_prefix,
        max_record_bytes=MAX_RECORD_BYTES,
        max_body_bytes=MAX_RECORD_BYTES,
    )
    await create_topics(kafka, topic_names(settings), partitions=PARTITIONS)
    return settings


@pytest.fixture
def workers(settings: Settings, tmp_path: Path) -> Iterator[list[Worker]]:
    running = [Worker(settings, tmp_path) for _ in range(2)]
    yield running
    for worker in running:
        worker.end()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.mark.slow
async def test_p123_a_worker_is_killed_amid_deliveries_and_the_other_tells_of_every_end_under_one_id(
    settings: Settings, log: Log, workers: list[Worker], session: aiohttp.ClientSession
) -> None:
    names = topic_names(settings)
    first, second = workers
    await eventually(lambda: [worker.owns() for worker in workers] == [1, 1], 60)
    hooks = Hooks(first.url, session, CLOSING.tenant)
    async with Receiver().serving() as receiver:
        made = await hooks.make(receiver.url)
        now = now_ms()
        ends = [ended(number, partition=number % PARTITIONS, closed_at=now) for number in range(ENDS)]
        receiver.free.clear()
        await announce(log, names, *ends[: ENDS // 2])
        await eventually(lambda: receiver.waiting >= 20)
        first.process.kill()
        receiver.free.set()
        await announce(log, names, *ends[ENDS // 3 :])
        await eventually(lambda: receiver.responses == {end.id for end in ends}, 60)
        assert len(receiver.ids) == ENDS
        for each in receiver.received:
            each.unwrap(made["signing_secret"])
        await _operated(log, settings, second, hooks=Hooks(second.url, session, CLOSING.tenant))


async def _operated(log: Log, settings: Settings, worker: Worker, hooks: Hooks) -> None:
    """What an operator sees of an endpoint that fails, and how he has it tried again."""
    names = topic_names(settings)
    async with Receiver(503).serving() as failing:
        made = await hooks.make(failing.url, ["response.failed"], name="failing")
        end = ended(ENDS, status="failed", closed_at=now_ms())
        await announce(log, names, end)

        async def failed_once() -> str:
            found = [each for each in (await deliveries(log, names)).values() if each.endpoint == made["id"]]
            return found[0].id if found and found[0].attempts else ""

        id = await eventually(failed_once)
        said = worker.run("list", "--tenant", CLOSING.tenant)
        assert said.returncode == 0, said.stderr
        assert (
            f"{made['id']}  acme  {failing.url}  'failing': 1 pending, 0 failed, 0 delivered; key k1\n"
            in said.stdout
        )
        assert f"{id}  response.failed  {end.id}  pending: refused 503 after 1 attempt\n" in said.stdout
        assert worker.run("list", "--tenant", "other").stdout == ""
        nothing = worker.run("retry", made["id"])
        assert (nothing.returncode, "webhooks list" in nothing.stderr) == (1, True)
        failing.status = 200
        assert worker.run("retry", id).stdout == "1 to be tried again\n"
        await eventually(lambda: len(failing.received) >= 2)
        assert set(failing.ids) == {id}
