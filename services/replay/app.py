"""The replay process: one feed, a public port for clients, an internal one for ingest and executors.

With an `ingest_url` the public port is the front door of the whole API: it makes commands for ingest of
POSTs, cancels and deletes.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog
from msgspec.structs import replace
from starlette.routing import BaseRoute

from schemas.errors import SettingsError
from schemas.shards import partitions_of
from services.clock import now_ms
from services.connect import connect, executors_group, projector_group, topic_names
from services.eventlog.installation import KeySpread
from services.eventlog.known_partitions import KnownPartitions
from services.eventlog.port import Checkpoint, Log
from services.eventlog.start import StartingPoint, starting_points_at
from services.eventlog.topics import Topics
from services.loops import Tasks, while_all_run
from services.placement import Places
from services.replay import metrics
from services.replay.beats import LastBeat
from services.replay.disk import RocksDisk
from services.replay.door import FrontDoor, Terms
from services.replay.door_routes import DoorRoutes
from services.replay.feed import Feed, Sources
from services.replay.folding import Folding, Foldings
from services.replay.forwarding import Forwarding, behind
from services.replay.ingest_client import IngestClient
from services.replay.library import Library
from services.replay.models import Catalogue, ModelRoutes
from services.replay.opening import Opening
from services.replay.replay import Replay
from services.replay.routes import InternalRoutes, PublicRoutes
from services.replay.schemas import SchemaRoutes, published
from services.replay.seek import Seeker
from services.replay.shards import Shards
from services.replay.snapshot import Snapshots
from services.replay.store import Store
from services.replay.window import Memory
from services.settings import PREFIX, Settings
from services.traces.port import OFF, Tracer
from services.traces.setup import tracing
from services.web import health
from services.web.barrier import Barrier, Position
from services.web.callers import Callers
from services.web.certificates import Certificates
from services.web.edge import Edge
from services.web.hosts import names_inside
from services.web.peer import Peer
from services.web.replays import replays_of
from services.web.request_log import RequestLog
from services.web.room import Room
from services.web.server import Server

ANSWER_BYTES = 1 << 20
"""Bytes that an answer of ingest may have beside an object, which fits into a record."""

LEAVE_S = 2.0
"""Seconds that a stopping process waits for creates under way, and for cancels of responses whose clients
went before."""

log = structlog.get_logger()


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set. Raises LogUnavailable, TopicMissing or CannotListen if it cannot start."""
    eventlog, opened = connect(settings, "replay"), ExitStack()
    try:
        store = await asyncio.to_thread(open_store, settings.store_dir, opened)
        async with tracing(settings, "replay") as tracer:
            await serve(settings, eventlog, topic_names(settings), store, stop, tracer)
    finally:
        await asyncio.to_thread(opened.close)
        await eventlog.close()


def open_store(chosen: str, opened: ExitStack) -> Store:
    """The store in the `chosen` directory; closing `opened` closes it. Raises StoreUnusable."""
    store = Store(RocksDisk(opened.enter_context(store_directory(chosen))))
    opened.callback(store.close)
    return store


@contextmanager
def store_directory(chosen: str) -> Iterator[Path]:
    """Where the store lies: the `chosen` directory, or, without one, a fresh one that ends with the block."""
    if chosen:
        yield Path(chosen)
        return
    with TemporaryDirectory(prefix="rejoinder-replay-", ignore_cleanup_errors=True) as fresh:
        yield Path(fresh)


async def serve(
    settings: Settings,
    eventlog: Log,
    names: Topics,
    store: Store,
    stop: asyncio.Event,
    tracer: Tracer = OFF,
) -> None:
    """Follow the log and answer on both ports until `stop` is set, then drain."""
    callers, certificates = await Callers.of(settings), await Certificates.of(settings)
    partitions = await eventlog.partitions(names.events)
    service = Service(settings, eventlog, names, partitions, store)
    shards = Shards(replays_of(settings, certificates.client), service.foldings, settings)
    forwarding = Forwarding(behind(settings, certificates.client), callers, service.room)
    door = (
        Door(service, shards, settings, callers, certificates, eventlog, names, stop)
        if settings.ingest_url
        else None
    )
    try:
        async with asyncio.TaskGroup() as tasks:
            asking = [shards.replays.run] if settings.shard else []
            loops = [
                tasks.create_task(loop(), name=loop.__qualname__)
                for loop in (*service.loops, *asking, *callers.loops, *certificates.loops)
            ]
            more = [*(door.routes if door else []), *forwarding.routes()]
            servers = await _listen(settings, service, shards, callers, certificates, more, tracer)
            await while_all_run(loops, stop)
            await asyncio.gather(*(server.drain(settings.grace_s / 2) for server in servers))
            if door is not None:
                await door.close()
            for loop in loops:
                loop.cancel()
    finally:
        await forwarding.close()
        await shards.close()
        if door is not None:
            await door.peer.close()


class Service:
    """The pieces of one replay process, put together over `eventlog`."""

    def __init__(
        self,
        settings: Settings,
        eventlog: Log,
        names: Topics,
        partitions: int,
        store: Store,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        memory = Memory(settings.replay_memory_bytes)
        self.library = Library(eventlog, names.transcripts, store, self._catch_up)
        self.seeker = Seeker(eventlog, names.events)
        self.snapshots = Snapshots(self.seeker)
        ephemeral_ms = int(settings.ephemeral_s * 1000)
        hooks = (self.library.hide, self.snapshots.forget)

        def folding(partition: int) -> Folding:
            return Folding(partition, memory, *hooks, ephemeral_ms=ephemeral_ms)

        self.foldings = Foldings(folding, served_by(settings, partitions), partitions)
        self.feed = Feed(_sources(settings, eventlog, names, clock), self.foldings, self.library)
        events = _barrier(self.feed.folded, eventlog, names.events, settings)
        self._packed = _barrier(self.feed.shelved, eventlog, names.index, settings)
        beats = LastBeat(eventlog, names.executors, settings.barrier_s * 0.9)
        self.count = KnownPartitions(eventlog, names.events, partitions)
        self.count.on_growth(self._grow)
        self.opening = Opening(
            self.foldings, partial(eventlog.committed, executors_group(settings), names.events)
        )
        pieces = (self.foldings, self.library, self.seeker, self.snapshots)
        self.replay = Replay(*pieces, events, self._packed, beats, self.count)
        self.catalogue = Catalogue(eventlog, names.executors, within_s=settings.barrier_s)
        self.room = Room()
        metrics.show(self.foldings, self.feed, memory, self.seeker, self.room)

    @property
    def loops(self) -> Sequence[Callable[[], Coroutine[None, None, None]]]:
        """What runs for as long as the process serves."""
        return (self.feed.run, self.count.run, self.opening.run)

    def not_ready(self) -> list[str]:
        """Why replay cannot serve: only until it has read the log. Later faults of Kafka show in answers."""
        return [] if self.feed.caught_up else [self.feed.waits_for or "reading the log"]

    def _grow(self, count: int) -> None:
        added = self.foldings.grow(count)
        self.feed.add(added)
        self.opening.add(added)

    async def _catch_up(self, partition: int) -> None:
        await self._packed.reach(partition)


class Door:
    """The pieces of the front door, put together before `service`."""

    def __init__(
        self,
        service: Service,
        shards: Shards,
        settings: Settings,
        callers: Callers,
        certificates: Certificates,
        eventlog: Log,
        names: Topics,
        stop: asyncio.Event,
    ) -> None:
        secret, stall_s = settings.internal_secret, settings.stall_s
        self.peer = Peer(settings.ingest_url, stall_s=stall_s, secret=secret, tls=certificates.client)
        ingest = IngestClient(self.peer, settings.max_record_bytes + ANSWER_BYTES)
        leader = partial(eventlog.leader, names.events)
        elsewhere = shards.replays.served
        places = Places(service.foldings.count, leader, local=service.opening, elsewhere=elsewhere)
        service.count.on_growth(places.grow)
        terms = Terms(settings.acceptance_ms, settings.skew_ms)
        keys, entropy = KeySpread(eventlog, names, within_s=settings.barrier_s * 0.9), secrets.token_bytes
        door = FrontDoor(service.replay, shards, ingest, places, terms, keys, clock=now_ms, entropy=entropy)
        self._tasks = Tasks()
        routes = DoorRoutes(door, settings, callers, service.room, stop, self._tasks.spawn)
        self.routes = routes.routes()

    async def close(self) -> None:
        """Finish the tasks that outlive their requests."""
        await self._tasks.close(LEAVE_S)


async def _listen(
    settings: Settings,
    service: Service,
    shards: Shards,
    callers: Callers,
    certificates: Certificates,
    more: Sequence[BaseRoute],
    tracer: Tracer,
) -> list[Server]:
    """Open both ports; the public one has `more` routes as well. Raises CannotListen."""
    health_routes = health.routes(service.not_ready)
    public = [
        *PublicRoutes(service.replay, shards, settings, callers).routes(),
        *ModelRoutes(service.catalogue, callers).routes(),
        *more,
    ]
    documents = await asyncio.to_thread(published)
    public += SchemaRoutes(documents).routes()
    internal = InternalRoutes(service.replay, settings, lambda: port, lambda: service.feed.caught_up).routes()
    told = RequestLog(settings, time.time)
    edge = Edge(
        [*health_routes, *public],
        settings.cors_origins,
        settings.hosts,
        public=True,
        request_log=told,
        tracer=tracer,
    )
    public_server = Server.of(edge, settings)
    names, secret = names_inside(settings.internal_host), settings.internal_secret
    tls = certificates.server
    inside = Edge(
        [*health_routes, *internal], hosts=names, secret=secret, certified=tls is not None, tracer=tracer
    )
    # No bound on connections of one address: the clients of this port are few, and ours.
    internal_server = Server.of(inside, replace(settings, max_connections_per_address=0))
    port = await public_server.start(settings.host, settings.port)
    internal_port = await internal_server.start(settings.internal_host, settings.internal_port, tls)
    log.info("listening", host=settings.host, port=port, internal_port=internal_port)
    return [public_server, internal_server]


def served_by(settings: Settings, partitions: int) -> frozenset[int]:
    """The partitions, of so many, that a replay with these settings serves. Raises SettingsError."""
    try:
        return partitions_of(settings.shards, partitions)
    except ValueError as error:
        mend = "have at most as many shards as partitions, or add partitions (rejoinder topics --partitions)"
        raise SettingsError(f"{PREFIX}SHARD: {error}; {mend}") from error


def _sources(settings: Settings, eventlog: Log, names: Topics, clock: Callable[[], int]) -> Sources:
    memory_ms = settings.acceptance_ms + settings.skew_ms

    async def watermarks(partitions: Collection[int]) -> dict[int, Checkpoint | None]:
        return await eventlog.checkpoints(projector_group(settings), names.events, partitions)

    async def starts(committed: Mapping[int, int | None]) -> dict[int, StartingPoint]:
        return await starting_points_at(eventlog, names.events, committed, memory_ms=memory_ms)

    topics = (names.events, names.transcripts, names.index)
    return Sources(eventlog, *topics, watermarks, starts, memory_ms, clock)


def _barrier(positions: Mapping[int, Position], eventlog: Log, topic: str, settings: Settings) -> Barrier:
    async def ends(partitions: frozenset[int]) -> dict[int, int]:
        return {p: bounds.end for p, bounds in (await eventlog.bounds(topic, partitions)).items()}

    def leader(partition: int) -> int | None:
        found = eventlog.leader(topic, partition)
        return None if found is None else found.broker

    return Barrier(positions, ends, leader, settings.barrier_s * 0.9)
