"""A deployment whose every process a test can kill: each service started by itself, none started again.

Unlike `rejoinder dev`, the rig starts nothing again by itself. Blocking; coroutines run in a thread's loop.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any, Self, TypeVar

import psutil
from anyio.from_thread import BlockingPortal, start_blocking_portal

from services.broker import EmbeddedKafka
from services.broker.tcp import free_port
from services.dev.child import service_command
from services.eventlog.kafka import KafkaLog
from services.settings import Settings, environment
from services.terminal.balancers import Layout
from services.topic_setup import make_topics
from tests.api import Api
from tests.balancing import Real, balanced
from tests.wire import ask

T = TypeVar("T")
PATIENCE = 60.0
"""Seconds until a test gives up waiting. It guards against a hang; bounds are measured by `tests.steady`."""
QUICK: Mapping[str, object] = {"keepalive_s": 0.5, "stall_s": 10, "grace_s": 8, "log_format": "console"}


def until(condition: Callable[[], T], timeout: float = PATIENCE, pause: float = 0.05) -> T:
    """What `condition` returns once that is true. An AssertionError or a refused connection is "not yet"."""
    deadline = time.monotonic() + timeout
    while True:
        failed: Exception | None = None
        try:
            if found := condition():
                return found
        except (AssertionError, OSError) as error:
            failed = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s") from failed
        time.sleep(pause)


class Service:
    """One process of a deployment."""

    def __init__(self, name: str, command: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log_path = log
        self._admin = environ.get("ADMIN_URL", "")
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                command, env={**os.environ, **environ}, stdin=subprocess.PIPE, stdout=sink, stderr=sink
            )

    def __repr__(self) -> str:
        return f"<{self.name} pid={self.pid} status={self.process.poll()}>"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def rss_mib(self) -> float:
        return float(psutil.Process(self.pid).memory_info().rss) / (1 << 20)

    def ready(self) -> bool:
        """Whether the service says that it is ready. Fails if it has ended."""
        if not self.alive:
            raise RuntimeError(f"{self!r} ended:\n{self.log[-3000:]}")
        with suppress(OSError, AssertionError):
            return ask(self._admin, "GET", "/readyz", timeout=5).status == 200
        return False

    @property
    def page(self) -> str:
        """What it shows to Prometheus."""
        return ask(self._admin, "GET", "/metrics", timeout=10).body.decode()

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.page.splitlines()
        found = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.wait()
        self._let_go()

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Send SIGTERM; `wait` returns how the service ended."""
        self.process.terminate()

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit status, once it has ended by itself."""
        status = self.process.wait(timeout)
        self._let_go()
        return status

    def _let_go(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()


class Rig:
    """A deployment on the broker at `kafka`, under topics of its own. With several `shards` its replays are
    called `replay-0` and so on, each a shard.
    """

    def __init__(
        self, kafka: str, folder: Path, portal: BlockingPortal, *, shards: int = 1, **settings: Any
    ) -> None:
        self.portal = portal
        self.folder = folder
        self.services: list[Service] = []
        self.replays = [f"replay-{shard}" for shard in range(shards)] if shards > 1 else ["replay"]
        """The names of its replays."""
        self.ports = {name: free_port() for name in ("ingest", "inside", *self.replays)}
        self.internal = {name: free_port() for name in self.replays}
        """The internal ports of its replays."""
        self.front = self.ports[self.replays[0]]
        """The port that clients ask: that of a replay, or of a balancer in front of all."""
        self.settings = Settings(
            kafka=kafka,
            topic_prefix=f"t{secrets.token_hex(4)}.",
            internal_port=self.internal[self.replays[0]],
            replay_url=",".join(f"http://127.0.0.1:{port}" for port in self.internal.values()),
            internal_secret=secrets.token_hex(16),
            **{**QUICK, **settings},
        )
        self.run(lambda: make_topics(self.settings))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for service in self.services:
            service.resume()
            service.kill()

    @property
    def api(self) -> Api:
        """Everything through replay's public port, as in `rejoinder dev`, or through a balancer."""
        return Api(f"http://127.0.0.1:{self.front}")

    @property
    def ingest_url(self) -> str:
        """Where replays find ingest."""
        return f"http://127.0.0.1:{self.ports['inside']}"

    @property
    def alive(self) -> list[Service]:
        return [service for service in self.services if service.alive]

    def named(self, name: str) -> list[Service]:
        """Its living services of this name."""
        return [service for service in self.alive if service.name == name]

    def run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `main` on the loop."""
        result: T = self.portal.call(main)
        return result

    def start(self, name: str, command: Sequence[str] = (), **extra: str) -> Service:
        """Start a service; it is not ready yet. `extra` are variables of its environment."""
        port = self.ports.get(name) or free_port()
        own: dict[str, Any] = {"admin_port": port}
        if name == "ingest":
            own = {"port": port, "internal_port": self.ports["inside"]}
        kind, _, shard = name.partition("-")
        if kind == "replay":
            own = {"port": port, "ingest_url": self.ingest_url, "internal_port": self.internal[name]}
            own["shard"] = (f"{shard}/{len(self.replays)}",) if shard else ()
        environ = environment({**_fields(self.settings), **own}) | extra
        environ["ADMIN_URL"] = f"http://127.0.0.1:{port}"
        log = self.folder / f"{len(self.services):03}-{name}.log"
        service = Service(name, command or service_command(kind), environ, log)
        self.services.append(service)
        return service

    def start_all(self, *more: str) -> None:
        """One of each service, and `more`; all ready."""
        self.ready(self.start(name) for name in (*self.replays, "ingest", "projector", "executor", *more))

    @contextmanager
    def behind(self, balancer: Real) -> Iterator[str]:
        """Have clients ask a balancer in front of the shards while the block lasts; its URL."""
        replays = [[f"127.0.0.1:{self.ports[name]}"] for name in self.replays]
        layout = Layout(self.settings.partitions, replays)
        with self.portal.wrap_async_context_manager(balanced(balancer, layout)) as port:
            before, self.front = self.front, port
            try:
                yield self.api.base_url
            finally:
                self.front = before

    def ready(self, services: Iterable[Service]) -> None:
        """Wait until `services` are ready."""
        for service in list(services):
            until(service.ready)

    def another(self, name: str) -> tuple[Service, Api]:
        """A second ingest or replay on ports of its own, ready."""
        port = free_port()
        own: dict[str, Any] = {"port": port, "internal_port": free_port()}
        if name == "replay":
            own["ingest_url"] = self.ingest_url
        environ = environment({**_fields(self.settings), **own})
        environ["ADMIN_URL"] = f"http://127.0.0.1:{port}"
        log = self.folder / f"{len(self.services):03}-{name}.log"
        service = Service(name, service_command(name), environ, log)
        self.services.append(service)
        self.ready([service])
        return service, Api(f"http://127.0.0.1:{port}")

    @contextmanager
    def log(self) -> Iterator[KafkaLog]:
        """The log from inside, for calls through `run`."""

        async def made() -> KafkaLog:
            return KafkaLog(self.settings.kafka, "rejoinder-audit")

        log = self.run(made)
        try:
            yield log
        finally:
            self.run(log.close)


class Child:
    """An executor of a nursery."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        self.log_path = log
        self.status: int | None = None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""


class Nursery:
    """Forks executors that end themselves where they are told to (see `doomed`)."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.doomed"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._children: dict[int, Child] = {}
        self._born: Queue[int] = Queue()
        Thread(target=self._read, daemon=True).start()

    def start(self, doom: str) -> Child:
        """An executor whose DIE_AT is `doom`."""
        assert self._process.stdin is not None
        log = self._rig.folder / f"doomed-{len(self._children):03}.log"
        environ = environment(_fields(self._rig.settings)) | {"DIE_AT": doom}
        self._process.stdin.write(json.dumps([environ, str(log)]).encode() + b"\n")
        self._process.stdin.flush()
        pid = self._born.get(timeout=PATIENCE)
        child = self._children[pid] = Child(pid, log)
        return child

    def close(self) -> None:
        """End the nursery; its children end with it."""
        with suppress(OSError):
            self._process.communicate(timeout=20)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            pid, *status = map(int, line.split())
            if status:
                until(lambda pid=pid: pid in self._children)  # type: ignore[misc]
                self._children[pid].status = status[0]
            else:
                self._born.put(pid)


class Broker:
    """A broker of a test's own, to be paused and killed."""

    def __init__(
        self, portal: BlockingPortal, folder: Path, properties: Mapping[str, str] = {}, **options: Any
    ) -> None:
        self._portal = portal
        self.folder = folder
        self._kafka = EmbeddedKafka(folder, properties=properties, **options)

    @property
    def pid(self) -> int:
        return self._kafka.pid

    @property
    def bootstrap(self) -> str:
        return self._kafka.bootstrap

    @property
    def log(self) -> str:
        """Its output since its last start."""
        return self._kafka.log_path.read_text(errors="replace")

    def start(self) -> str:
        return self._portal.call(self._kafka.start)

    def kill(self) -> None:
        self._portal.call(self._kafka.kill)

    def stop(self) -> None:
        self._portal.call(self._kafka.stop)

    def pause(self) -> None:
        self._portal.call(self._kafka.pause)

    def resume(self) -> None:
        self._portal.call(self._kafka.resume)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def portal() -> Any:
    """A loop in a thread."""
    return start_blocking_portal("asyncio")


def _fields(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__struct_fields__}
