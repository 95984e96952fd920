"""The webhooks process: builds the adapters, serves until told to stop, drains.

internal port   the routes of endpoints, forwarded by the front door; /livez, /readyz, /metrics
closings        courier → deliveries → dispatcher → endpoints
"""

import asyncio
import random
import secrets
from collections.abc import Callable, Sequence

import structlog
from msgspec.structs import replace

from schemas.ids import ENTROPY_BYTES, response_id
from schemas.webhooks import delivery_id
from services.clock import now_ms
from services.connect import connect, topic_names, webhooks_group
from services.eventlog.port import Log
from services.eventlog.topics import Topics
from services.loops import while_all_run
from services.settings import Settings
from services.web import health
from services.web.certificates import Certificates
from services.web.edge import Edge
from services.web.hosts import names_inside
from services.web.server import Server
from services.webhooks.courier import Courier
from services.webhooks.dispatcher import Attempter, Dispatcher
from services.webhooks.endpoints import Endpoint
from services.webhooks.management import Management
from services.webhooks.registry import EndpointRegistry
from services.webhooks.routes import WebhookRoutes
from services.webhooks.schedule import Schedule
from services.webhooks.sealing import Sealer
from services.webhooks.sender import Sender

APPEND_S = 10.0
"""Seconds for which an endpoint's change may stay unacknowledged: its caller waits."""

log = structlog.get_logger()


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set. Raises LogUnavailable, TopicMissing or CannotListen if it cannot start."""
    eventlog = connect(settings, "webhooks")
    try:
        await serve(settings, eventlog, topic_names(settings), stop)
    finally:
        await eventlog.close()


async def serve(
    settings: Settings, eventlog: Log, names: Topics, stop: asyncio.Event, clock: Callable[[], int] = now_ms
) -> None:
    """Deliver, and answer on the internal port, until `stop` is set, then drain."""
    certificates = await Certificates.of(settings)
    service = Service(settings, eventlog, names, clock, certified=certificates.server is not None)
    server = Server.of(service.edge, replace(settings, max_connections_per_address=0))
    done = asyncio.Event()

    async def drain() -> None:
        half = settings.grace_s / 2
        await asyncio.gather(server.drain(half), service.dispatcher.close(half))

    try:
        async with asyncio.TaskGroup() as tasks:
            registry = tasks.create_task(service.registry.run(), name="EndpointRegistry.run")
            dispatcher = tasks.create_task(service.dispatcher.run(), name="Dispatcher.run")
            courier = tasks.create_task(service.courier.run(done, drain), name="Courier.run")
            renewing = [tasks.create_task(loop(), name=loop.__qualname__) for loop in certificates.loops]
            inside = settings.internal_host, settings.internal_port
            port = await server.start(*inside, certificates.server)
            log.info("listening", internal_port=port)
            await while_all_run([registry, dispatcher, courier, *renewing], stop)
            dispatcher.cancel()  # nothing more is begun; what is under way has some seconds
            done.set()
            await courier
            for task in (registry, *renewing):
                task.cancel()
    finally:
        await server.drain(0)
        await service.close()


class Service:
    """The pieces of one webhooks process, put together over `eventlog`."""

    def __init__(
        self,
        settings: Settings,
        eventlog: Log,
        names: Topics,
        clock: Callable[[], int],
        *,
        certified: bool = False,
    ) -> None:
        stirred = asyncio.Event()
        schedule = Schedule(settings.webhooks_attempts, max(1, settings.webhooks_attempts // 8), stirred.set)
        self.registry = EndpointRegistry(eventlog, names.webhooks)
        self.courier = Courier(
            eventlog,
            names,
            webhooks_group(settings),
            self.registry,
            schedule,
            skew_ms=settings.skew_ms,
            clock=clock,
        )
        self._sender = Sender(
            allow_private=bool(settings.webhooks_allow_private), timeout_s=settings.webhooks_timeout_s
        )
        sealer = Sealer(settings.webhooks_keys, secrets.token_bytes)
        self._attempter = Attempter(self._sender, sealer, clock)
        self.dispatcher = Dispatcher(
            schedule,
            stirred,
            self.courier,
            self.registry,
            self._attempter,
            clock=clock,
            chance=random.random,
        )
        self._writer = eventlog.writer(delivery_timeout=APPEND_S)
        management = Management(
            self.registry,
            self._writer,
            names.webhooks,
            sealer,
            most=settings.webhooks_endpoints,
            clock=clock,
            entropy=secrets.token_bytes,
        )
        routes = WebhookRoutes(management, self._test, self._sender.check_url)
        self.edge = Edge(
            [*health.routes(self._not_ready), *routes.routes()],
            hosts=names_inside(settings.internal_host),
            secret=settings.internal_secret,
            certified=certified,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._writer.close(timeout=2)
        await self._sender.close()

    async def _test(self, endpoint: Endpoint, type: str) -> int:
        sample = response_id(0, secrets.token_bytes(ENTROPY_BYTES))
        return await self._attempter.test(endpoint, type, sample, delivery_id(endpoint.id, sample, type))

    def _not_ready(self) -> Sequence[str]:
        endpoints = [] if self.registry.caught_up else ["reading the webhook endpoints"]
        return [*endpoints, *self.courier.behind()]
