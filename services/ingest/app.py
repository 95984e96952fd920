"""The ingest process: builds the adapters, serves commands until told to stop, drains.

In a drain ingest refuses new requests with 503, cuts streams, tells a client that waits for a final object
where that will be, and lets appends under way finish. A shutdown cancels no response.
"""

import asyncio
import os
import secrets
import time
from functools import partial

import structlog
from msgspec.structs import replace

from services import config
from services.clock import now_ms
from services.connect import connect, topic_names
from services.eventlog.installation import freeze_key_partitions
from services.eventlog.known_partitions import KnownPartitions
from services.eventlog.port import Log
from services.eventlog.topics import Topics
from services.ingest import metrics
from services.ingest.admission import Admission
from services.ingest.appends import DELIVERY_S, Appends
from services.ingest.attach import Attachments
from services.ingest.commands import Commands, Terms
from services.ingest.gauge import Gauge
from services.ingest.routes import Desk, InternalDesk
from services.loops import Tasks, while_all_run
from services.placement import Places
from services.settings import Settings
from services.traces.port import OFF, Tracer
from services.traces.setup import tracing
from services.web import health
from services.web.callers import Callers
from services.web.certificates import Certificates
from services.web.commands import DRAINING
from services.web.edge import Edge
from services.web.hosts import names_inside
from services.web.replay_client import ReplayClient
from services.web.replays import replays_of
from services.web.request_log import RequestLog
from services.web.room import Room
from services.web.server import Server

CLOSE_S = 3.0
"""Seconds that a stopping process waits for appends under way. A client that waits longer hears that the
process stops."""
LEAVE_S = 2.0
"""Seconds that a stopping process waits for cancels of responses whose clients went just before."""

log = structlog.get_logger()


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set.

    Raises SettingsError, LogUnavailable, TopicMissing or CannotListen when it cannot start.
    """
    configuration = config.load(settings.config, os.environ)
    eventlog = connect(settings, "ingest")
    try:
        async with tracing(settings, "ingest") as tracer:
            await serve(settings, configuration, eventlog, topic_names(settings), stop, tracer)
    finally:
        await eventlog.close()


async def serve(
    settings: Settings,
    configuration: config.Config,
    eventlog: Log,
    names: Topics,
    stop: asyncio.Event,
    tracer: Tracer = OFF,
) -> None:
    """Take commands over `eventlog` until `stop` is set, then drain."""
    partitions = await eventlog.partitions(names.events)
    key_partitions = await freeze_key_partitions(eventlog, names, lambda: secrets.token_hex(8))
    log.info("keys are spread", partitions=key_partitions, of=partitions)
    callers, certificates = await Callers.of(settings), await Certificates.of(settings)
    service = Service(
        settings,
        configuration,
        callers,
        certificates,
        eventlog,
        names,
        partitions,
        key_partitions,
        stop,
        tracer,
    )
    server = Server.of(service.edge, settings)
    # No bound on connections of one address: the clients of this port are few, and ours.
    internal = Server.of(service.inside, replace(settings, max_connections_per_address=0))
    try:
        async with asyncio.TaskGroup() as tasks:
            loops = [tasks.create_task(loop(), name=loop.__qualname__) for loop in service.loops]
            inside = settings.internal_host, settings.internal_port
            internal_port = await internal.start(*inside, certificates.server)
            port = await server.start(settings.host, settings.port)
            log.info("listening", host=settings.host, port=port, internal_port=internal_port)
            await while_all_run(loops, stop)
            await asyncio.gather(*(each.drain(settings.grace_s / 2) for each in (server, internal)))
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
        callers: Callers,
        certificates: Certificates,
        eventlog: Log,
        names: Topics,
        partitions: int,
        key_partitions: int,
        stop: asyncio.Event,
        tracer: Tracer = OFF,
    ) -> None:
        self._writer = eventlog.writer(delivery_timeout=DELIVERY_S)
        self._replays = replays_of(settings, certificates.client)
        self._tasks = Tasks()
        admission, room = Admission(settings.max_queue, configuration.quota), Room()
        metrics.show(admission, room, settings.max_queue)
        places = Places(partitions, partial(eventlog.leader, names.events))
        count = KnownPartitions(eventlog, names.events, partitions)
        count.on_growth(places.grow)
        appends = Appends(self._writer, names.events, places)
        replay = ReplayClient(self._replays)
        gauge = Gauge(replay, admission)
        deadline_ms = int(settings.run_deadline_s * 1000)
        terms = Terms(key_partitions, settings.acceptance_ms, settings.skew_ms, deadline_ms)
        commands = Commands(
            configuration,
            terms,
            count,
            admission,
            appends,
            places,
            replay,
            gauge,
            clock=now_ms,
            entropy=secrets.token_bytes,
        )
        attachments = Attachments(commands, replay, self._tasks.spawn, stop)
        desk = Desk(settings, callers, commands, room, attachments, now_ms)
        internal = InternalDesk(settings, commands, room)
        self.loops = (gauge.run, count.run, self._replays.run, *callers.loops, *certificates.loops)
        healthy = health.routes(gauge.not_ready)
        self.edge = Edge(
            [*healthy, *desk.routes()],
            settings.cors_origins,
            settings.hosts,
            public=True,
            request_log=RequestLog(settings, time.time),
            tracer=tracer,
        )
        self.inside = Edge(
            [*healthy, *internal.routes()],
            hosts=names_inside(settings.internal_host),
            secret=settings.internal_secret,
            certified=certificates.server is not None,
            draining=DRAINING,
            tracer=tracer,
        )

    async def close(self) -> None:
        """Finish the tasks that outlive their requests, then the appends, then close the connections."""
        await self._tasks.close(LEAVE_S)
        await self._writer.close(CLOSE_S)
        await self._replays.close()
