"""The process of analytics: it counts what it owns, reads what all have counted, and answers questions.

closings → counter → usage → reader → routes
             ▲─── records that stand, appended again ───┘
"""

import asyncio
import os

import structlog
from msgspec.structs import replace

from schemas.errors import SettingsError
from services import config
from services.analytics.prices import Prices
from services.analytics.reader import UsageReader
from services.analytics.routes import usage_routes
from services.clock import now_ms
from services.connect import connect, topic_names
from services.eventlog.topics import DAY
from services.loops import while_all_run
from services.settings import Settings
from services.web import health
from services.web.certificates import Certificates
from services.web.edge import Edge
from services.web.hosts import names_inside
from services.web.server import Server

log = structlog.get_logger()


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Count and answer until `stop` is set.

    Raises SettingsError, LogUnavailable, TopicMissing or CannotListen when it cannot start.
    """
    try:
        from services.analytics.counter import Counter
    except ImportError as error:
        what = (
            "analytics needs faust-streaming 0.15.3 (Python 3.11 to 3.13): pip install 'rejoinder[analytics]'"
        )
        raise SettingsError(f"{what} ({error})") from error
    configuration = config.load(settings.config, os.environ)
    certificates = await Certificates.of(settings)
    eventlog = connect(settings, "analytics")
    names = topic_names(settings)
    try:
        partitions = await eventlog.partitions(names.usage)
        reader = UsageReader(eventlog, names.usage, settings.usage_days * DAY, now_ms)
        counter = Counter(settings, eventlog, Prices(configuration.prices), partitions, reader)
        routes = [
            *health.routes(lambda: [*counter.not_ready(), *reader.not_ready()]),
            *usage_routes(reader, now_ms),
        ]
        tls, names_here = certificates.server, names_inside(settings.internal_host)
        edge = Edge(routes, hosts=names_here, secret=settings.internal_secret, certified=tls is not None)
        server = Server.of(edge, replace(settings, max_connections_per_address=0))
        async with asyncio.TaskGroup() as tasks:
            loops = [
                tasks.create_task(loop(), name=loop.__qualname__)
                for loop in (counter.run, reader.run, counter.watch, *certificates.loops)
            ]
            port = await server.start(settings.internal_host, settings.internal_port, tls)
            log.info("listening", host=settings.internal_host, internal_port=port)
            await while_all_run(loops, stop)
            await server.drain(settings.grace_s / 2)
            for loop in loops:
                loop.cancel()
    finally:
        await eventlog.close()
