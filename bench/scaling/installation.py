"""An installation under measurement: its services, its broker, and what they have used so far.

`rejoinder dev` runs one process of each service. Here there may be several executors, and replays that share
the partitions out in shards.
"""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from anyio.from_thread import BlockingPortal

from bench.target import Target
from services.broker.tcp import LOOPBACK, free_port
from services.dev.child import service_command
from services.settings import Settings, environment
from services.topic_setup import make_topics
from tests.reliability.rig import Broker, Service, portal, until

SHARD = "shard"
"""The setting that names a replay's part of the partitions."""


class Installation:
    """A broker and its services. `executors` of them, and a replay for each of the `shards`."""

    def __init__(self, folder: Path, *, executors: int = 1, shards: int = 1, config: str = "") -> None:
        self.folder = folder
        self._executors = executors
        self._ports = [(free_port(), free_port()) for _ in range(shards)]
        self._inside = free_port()
        self._config = config
        self._services: list[Service] = []
        self._broker: Broker | None = None
        self.settings = Settings()
        self._held = ExitStack()

    def __repr__(self) -> str:
        return f"<installation at {self.base_url}>"

    @property
    def base_urls(self) -> Sequence[str]:
        """Where the API is: at each replay."""
        return [_url(port) for port, _ in self._ports]

    @property
    def base_url(self) -> str:
        """Where the API is."""
        return self.base_urls[0]

    def tree(self) -> list[psutil.Process]:
        """Its processes that live."""
        assert self._broker is not None
        return [
            psutil.Process(pid) for pid in (self._broker.pid, *(service.pid for service in self._services))
        ]

    def start(self) -> None:
        """Start everything, and wait until all of it is ready."""
        loop: BlockingPortal = self._held.enter_context(portal())
        self._broker = self._held.enter_context(Broker(loop, self.folder / "kafka"))
        self.settings = Settings(
            kafka=self._broker.bootstrap,
            internal_secret=secrets.token_hex(16),
            replay_url=",".join(_url(internal) for _, internal in self._ports),
            config=self._config,
            access_log="off",
            audit_log="off",
            log_level="warning",
        )
        loop.call(make_topics, self.settings)
        self._held.callback(self._stop)
        ingest = {"port": free_port(), "internal_port": self._inside}
        self._start("ingest", ingest["port"], ingest)
        for number, (port, internal) in enumerate(self._ports):
            own: dict[str, Any] = {"port": port, "internal_port": internal, "ingest_url": _url(self._inside)}
            if len(self._ports) > 1:
                own[SHARD] = (f"{number}/{len(self._ports)}",)
            self._start("replay", port, own)
        for name in ("projector", *["executor"] * self._executors):
            self._start(name, admin := free_port(), {"admin_port": admin})
        for name in ("analytics", "webhooks"):
            self._start(name, internal := free_port(), {"internal_port": internal})
        for service in self._services:
            until(service.ready)

    def stop(self) -> None:
        """Stop everything."""
        self._held.close()

    def log_bytes(self, topic: str) -> int:
        """Bytes of the records of a topic."""
        return sum(path.stat().st_size for path in self.folder.rglob(f"{topic}-[0-9]*/*.log"))

    def _start(self, name: str, port: int, own: dict[str, Any]) -> None:
        given = {field: getattr(self.settings, field) for field in self.settings.__struct_fields__}
        environ = {**environment({**given, **own}), "ADMIN_URL": _url(port)}
        log = self.folder / f"{len(self._services):02}-{name}.log"
        self._services.append(Service(name, service_command(name), environ, log))

    def _stop(self) -> None:
        for service in self._services:
            service.terminate()
        for service in self._services:
            service.wait()


@contextmanager
def installation(folder: Path, **options: Any) -> Iterator[tuple[Installation, Target]]:
    """An installation that is ready, and the same as a target of loads."""
    made = Installation(folder, **options)
    try:
        made.start()
        yield made, Target("rejoinder", made)
    finally:
        made.stop()


def _url(port: int) -> str:
    return f"http://{LOOPBACK}:{port}"
