"""The ingest process: builds the adapters, serves commands until told to stop, drains.

Draining: new requests are refused with 503, streams are cut, who waits for a final object is told where it
will be, appends under way finish. A shutdown cancels no response.
"""

import asyncio
import os
import secrets
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any

import structlog

from services import config
from services.connect import connect, topic_names
from services.eventlog.port import Log
from services.eventlog.topics import Topics
from services.ingest import metrics
from services.ingest.admission import Admission
from services.ingest.appends import DELIVERY_S, Appends
from services.ingest.attach import Attachments
from services.ingest.commands import Commands, Terms
from services.ingest.gauge import Gauge
from services.ingest.replay_client import ReplayClient
from services.ingest.routes import Desk
from services.loops import while_all_run
from services.settings import Settings
from services.web import health
from services.web.edge import Edge
from services.web.forward import Upstream
from services.web.server import Server

BODIES_BYTES = 128 << 20
"""Bytes of request bodies that may be under way at once."""
CLOSE_S = 3.0
"""Seconds that a stopping process gives to appends under way: whoever waits longer hears that it stops."""
LEAVE_S = 2.0
"""Seconds that a stopping process gives to the cancels of clients that went just before."""

log = structlog.get_logger()


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set.

    Raises SettingsError, LogUnavailable, TopicMissing or CannotListen when it cannot start.
    """
    configuration = config.load(settings.config, os.environ)
    eventlog = connect(settings, "ingest")
    try:
        await serve(settings, configuration, eventlog, topic_names(settings), stop)
    finally:
        await eventlog.close()


async def serve(
    settings: Settings, configuration: config.Config, eventlog: Log, names: Topics, stop: asyncio.Event
) -> None:
    """Take commands over `eventlog` until `stop` is set, then drain."""
    partitions = await eventlog.partitions(names.events)
    service = Service(settings, configuration, eventlog, names, partitions, stop)
    server = Server.of(service.edge, settings)
    try:
        async with asyncio.TaskGroup() as tasks:
            loops = [tasks.create_task(loop(), name=loop.__qualname__) for loop in service.loops]
            port = await server.start(settings.host, settings.port)
            log.info("listening", host=settings.host, port=port)
            await while_all_run(loops, stop)
            await server.drain(settings.grace_s / 2)
            for loop in loops:
                loop.cancel()
    finally:
        await service.close()


class Service:
    """The pieces of one ingest process, put together over `eventlog`."""

    def __init__(
        self,
        settings: Settings,
        configuration: config.Config,
        eventlog: Log,
        names: Topics,
        partitions: int,
        stop: asyncio.Event,
    ) -> None:
        self._writer = eventlog.writer(delivery_timeout=DELIVERY_S)
        secret = settings.internal_secret
        self._upstream = Upstream(settings.replay_url, stall_s=settings.stall_s, secret=secret)
        self._tasks = Tasks()
        admission = Admission(settings.max_queue, BODIES_BYTES, configuration.quota)
        metrics.watch(admission, settings.max_queue)
        appends = Appends(self._writer, names.events, partitions, partial(eventlog.leader, names.events))
        replay = ReplayClient(self._upstream)
        gauge = Gauge(replay, admission)
        deadline_ms = int(settings.run_deadline_s * 1000)
        terms = Terms(partitions, settings.window_ms, settings.skew_ms, deadline_ms)
        commands = Commands(
            configuration,
            terms,
            admission,
            appends,
            replay,
            gauge,
            clock=_now_ms,
            entropy=secrets.token_bytes,
        )
        attachments = Attachments(commands, replay, self._upstream, self._tasks.spawn, stop)
        desk = Desk(settings, commands, admission, attachments)
        self.loops = (gauge.run,)
        routes = [*health.routes(gauge.not_ready), *desk.routes()]
        self.edge = Edge(routes, settings.cors_origins, settings.hosts, public=True)

    async def close(self) -> None:
        """Finish what outlives its request, then the appends, then the connections."""
        await self._tasks.close()
        await self._writer.close(CLOSE_S)
        await self._upstream.close()


class Tasks:
    """Tasks that outlive the request that began them."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, task: Coroutine[Any, Any, None]) -> None:
        """Run `task` beside everything else."""
        running = asyncio.create_task(task)
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Give what runs a moment to finish, then stop it."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=LEAVE_S)
            for task in late:
                task.cancel()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
