"""`rejoinder dev`: everything on one machine, under one supervisor.

    port free? → Kafka (embedded, or the one that was named) → topics created and checked
    → ingest, replay, executor, projector, webhooks, analytics as child processes
    → all ready: prints `ready URL`

Replay's port is the public one; replay hands commands over to ingest. The supervisor starts a service, or the
broker, again if it ends by itself. SIGINT or SIGTERM stops the services, which drain, and then the broker; a
last line says where the responses are stored. A second signal ends all at once. If the supervisor itself is
killed, the services and the broker end by themselves.
"""

import asyncio
import os
import secrets
import signal
import sys
import time
from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import aiohttp
import msgspec
import structlog
from setproctitle import setproctitle

from schemas.errors import LogUnavailable
from services import config
from services.broker import BrokerError, EmbeddedKafka
from services.broker.tcp import LOOPBACK, free_port
from services.dev.child import Child, service_command
from services.fits import SEALING_KEY_BYTES
from services.process import until_stopped
from services.settings import Settings, environment
from services.together import INTERNAL_FILES
from services.topic_setup import make_topics, require_topics
from services.web.edge import Edge
from services.web.hosts import LOOPBACK_NAMES
from services.web.server import Server

EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104  # what an operator may give, not what we listen on
HERE: Mapping[str, Any] = {
    "grace_s": 5.0,  # 20 are long on Ctrl-C
    "hosts": LOOPBACK_NAMES,
    "webhooks_allow_private": 1,
    "access_log": "off",
    "audit_log": "off",
}
"""Settings that have other defaults here."""
STOP_MARGIN_S = 5.0
"""Seconds over the grace period after which a service is killed."""
POLL_S = 0.1
FAUST = "pip install 'rejoinder[analytics]', with Python 3.11 to 3.13"
KEY_FILE = "webhooks.key"
"""Where a data directory has the key that seals the secrets of webhooks."""
TELL_S = 10.0
"""Seconds between two log lines that say what is not ready yet."""

USUAL_PORT = int(Settings().kafka.rpartition(":")[2])
"""Where every other command, and whoever reads the topics, looks for Kafka when nobody names it."""

log = structlog.get_logger()


Optional = Literal["analytics", "webhooks"]
"""The services that the others do without."""


def dev(settings: Settings, chosen: Collection[str], data: Path, without: Collection[Optional] = ()) -> None:
    """Run everything but the services `without` until a signal. `chosen` names the settings that the operator
    gave; Kafka stores in `data`.

    Raises CannotListen, BrokerError, LogUnavailable, TopicMisconfigured, SettingsError or ChildRefused if it
    cannot start.
    """
    setproctitle("rejoinder dev")
    here = {name: value for name, value in HERE.items() if name not in chosen}
    settings = msgspec.structs.replace(settings, **here)
    if not {"store_dir", "kafka"} & set(chosen):  # with our own Kafka no other system is in `data`
        settings = msgspec.structs.replace(settings, store_dir=str(data.absolute()))
    kafka = None if "kafka" in chosen else EmbeddedKafka(data, usual_port=USUAL_PORT)
    system = System(settings, kafka, data, without)
    until_stopped(system.run, at_once=system.kill)
    stored = f"Kafka at {settings.kafka}" if kafka is None else str(data.absolute())
    sys.stdout.write(f"stopped; all responses are in {stored}\n")


class System:
    """All of Rejoinder on this machine, but for the services `without`. `kafka` is None if the settings name
    a broker. `data` has the key of webhooks, if the settings have none.
    """

    def __init__(
        self, settings: Settings, kafka: EmbeddedKafka | None, data: Path, without: Collection[Optional]
    ) -> None:
        self._settings = settings
        self._kafka = kafka
        self._data = data
        self._without = set(without)
        self._children: list[Child] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set. Raises what keeps it from starting."""
        work = asyncio.create_task(self._work())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work

    def kill(self) -> None:
        """End everything at once."""
        for child in self._children:
            child.kill()
        if self._kafka is not None and self._kafka.running and self._kafka.pid:
            os.kill(self._kafka.pid, signal.SIGKILL)

    async def _work(self) -> None:
        for route in config.load(self._settings.config, os.environ).routes():
            config.api_key(route, os.environ)
        settings = await self._with_port()
        try:
            settings = await self._with_kafka(settings)
            # Topics that an older version made: on a broker of our own, no operator mends them.
            await make_topics(settings, fix=self._kafka is not None)
            await require_topics(settings)
            await self._serve(settings)
        finally:
            if self._kafka is not None:
                await asyncio.shield(self._kafka.stop())

    async def _with_port(self) -> Settings:
        """The settings, with a public port that is free now. Raises CannotListen before anything starts."""
        probe = Server(Edge([]))
        port = await probe.start(self._settings.host, self._settings.port or free_port())
        await probe.drain(0)
        return msgspec.structs.replace(self._settings, port=port)

    async def _with_kafka(self, settings: Settings) -> Settings:
        if self._kafka is None:
            return settings
        return msgspec.structs.replace(settings, kafka=await self._kafka.start())

    async def _serve(self, settings: Settings) -> None:
        if "analytics" not in self._without and not analytics_installed():
            log.warning("usage and costs are not known here: analytics needs faust-streaming", mend=FAUST)
            self._without.add("analytics")
        if "webhooks" not in self._without and not settings.webhooks_keys:
            key = await asyncio.to_thread(sealing_key, self._data)
            settings = msgspec.structs.replace(settings, webhooks_keys=(key,))
        plan = plan_of(settings, os.environ, self._without, colors=sys.stderr.isatty())
        self._children = [
            Child(name, service_command(name), environ, sys.stderr) for name, environ, _ in plan
        ]
        stop_s = settings.grace_s + STOP_MARGIN_S
        async with asyncio.TaskGroup() as tasks:
            for child in self._children:
                tasks.create_task(child.keep(stop_s))
            if self._kafka is not None:
                tasks.create_task(_keep_broker(self._kafka, settings))
            await _all_ready({name: f"{url}/readyz" for name, _, url in plan})
            log.info("metrics", **{name: f"{url}/metrics" for name, _, url in plan})
            host = LOOPBACK if settings.host in EVERYWHERE else settings.host
            sys.stdout.write(f"ready http://{f'[{host}]' if ':' in host else host}:{settings.port}\n")
            sys.stdout.flush()


def sealing_key(data: Path) -> str:
    """The key that seals the secrets of webhooks: made once, it stays as long as the directory `data`."""
    path = data / KEY_FILE
    data.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        made = data / f"{KEY_FILE}.{os.getpid()}"
        made.touch(0o600)
        made.write_text(f"dev={b64encode(secrets.token_bytes(SEALING_KEY_BYTES)).decode()}\n")
        with suppress(FileExistsError):  # another process was faster: its key holds
            path.hardlink_to(made)
        made.unlink()
    return path.read_text().strip()


Plan = Sequence[tuple[str, Mapping[str, str], str]]
"""The services to run: name, environment, and the base URL of /readyz and /metrics."""


def analytics_installed() -> bool:
    """Whether there is Faust, which analytics alone needs."""
    return find_spec("faust") is not None


def plan_of(
    settings: Settings, environ: Mapping[str, str], without: Collection[Optional] = (), *, colors: bool
) -> Plan:
    """The services of `settings` but those `without`, connected over loopback ports that are free now."""
    ingest, ingest_inside, ingest_admin, internal, executor, projector = (free_port() for _ in range(6))
    analytics, webhooks = free_port(), free_port()
    common = {
        "replay_url": _url(internal),
        "internal_host": LOOPBACK,
        "internal_port": internal,
        "internal_secret": settings.internal_secret or secrets.token_hex(32),
        **dict.fromkeys(INTERNAL_FILES, ""),
        "shard": (),
        "log_format": "console" if settings.log_format == "auto" else settings.log_format,
    }
    own: dict[str, tuple[dict[str, Any], str]] = {
        "ingest": (
            {"host": LOOPBACK, "port": ingest, "internal_port": ingest_inside, "admin_port": ingest_admin},
            _url(ingest),
        ),
        "replay": (
            {
                "ingest_url": _url(ingest_inside),
                "analytics_url": "" if "analytics" in without else _url(analytics),
                "webhooks_url": "" if "webhooks" in without else _url(webhooks),
                "admin_port": 0,
            },
            _url(internal),
        ),
        "executor": ({"admin_port": executor}, _url(executor)),
        "projector": ({"admin_port": projector}, _url(projector)),
        "webhooks": ({"internal_port": webhooks, "admin_port": 0}, _url(webhooks)),
    }
    named = {"internal_port": analytics, "analytics_instance": settings.analytics_instance or "dev"}
    own["analytics"] = (named, _url(analytics))
    inherited = {**environ, **({"FORCE_COLOR": "1"} if colors else {})}
    given = msgspec.structs.asdict(settings)
    return [
        (name, inherited | environment(given | common | special), url)
        for name, (special, url) in own.items()
        if name not in without
    ]


def _url(port: int) -> str:
    return f"http://{LOOPBACK}:{port}"


async def _keep_broker(kafka: EmbeddedKafka, settings: Settings) -> None:
    while True:
        status = await kafka.wait()
        log.warning("Kafka ended, starting it again", status=status, log=str(kafka.log_path))
        await _start_again(kafka)
        await _topics_again(kafka, settings)


async def _topics_again(kafka: EmbeddedKafka, settings: Settings) -> None:
    """Create the topics that are missing after a start: all of them if the data directory was removed or
    emptied. Raises TopicMisconfigured.
    """
    while kafka.running:
        try:
            if made := await make_topics(settings):
                lost = "every response that was stored in them, and how far each service had read"
                log.error("Kafka came back without topics, made anew", made=made, lost=lost)
            await require_topics(settings)
        except LogUnavailable as error:
            log.warning("cannot look at the topics, trying again", error=str(error))
            await asyncio.sleep(1.0)
        else:
            return


async def _start_again(kafka: EmbeddedKafka) -> None:
    for pause in (0.0, 1.0, 2.0, 5.0, 5.0):
        await asyncio.sleep(pause)
        try:
            await kafka.start()
        except BrokerError as error:
            log.warning("Kafka did not start", why=str(error))
        else:
            return
    await kafka.start()


async def _all_ready(urls: Mapping[str, str]) -> None:
    """Wait until every service says that it is ready. Logs what is missing every `TELL_S`."""
    tell = time.monotonic() + TELL_S
    waiting = dict(urls)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while waiting:
            missing = {name: await _not_ready(session, url) for name, url in waiting.items()}
            waiting = {name: url for name, url in waiting.items() if missing[name]}
            if waiting and time.monotonic() > tell:
                tell = time.monotonic() + TELL_S
                log.info("not ready yet", **missing)
            await asyncio.sleep(POLL_S if waiting else 0)


async def _not_ready(session: aiohttp.ClientSession, url: str) -> str:
    """Why the service whose /readyz is at `url` is not ready; "" if it is."""
    try:
        async with session.get(url) as answer:
            return "" if answer.status == 200 else await answer.text()
    except (aiohttp.ClientError, TimeoutError) as error:
        return str(error) or type(error).__name__
