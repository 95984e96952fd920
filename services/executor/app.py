"""The executor's process: builds the adapters and serves until told to stop."""

import asyncio
import os

from services import config
from services.connect import connect, topic_names
from services.executor import metrics
from services.executor.backends import build
from services.executor.conversation import Conversation
from services.executor.executor import Executor
from services.executor.listing import Lister
from services.settings import Settings
from services.traces.setup import tracing
from services.web.certificates import Certificates
from services.web.health import serve_admin
from services.web.replay_client import ReplayClient
from services.web.replays import replays_of


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Run an executor until `stop` is set.

    Raises SettingsError, LogUnavailable, TopicMissing or TopicMisconfigured when it cannot start.
    """
    configuration = config.load(settings.config, os.environ)
    for route in configuration.routes():
        metrics.PLACES.labels(route.label).set(route.max_concurrency)
    registry = build(configuration, os.environ, settings.upstream_idle_s, settings.max_record_bytes)
    certificates = await Certificates.of(settings)
    replays = replays_of(settings, certificates.client)
    conversation = Conversation(ReplayClient(replays), settings.max_conversation_bytes)
    log = connect(settings, "executor")
    try:
        names = topic_names(settings)
        lister = Lister(log, names.executors, configuration, registry.upstreams, settings.models_s)
        beside = [lister.run, replays.run, *certificates.loops]
        quota = configuration.quota
        async with tracing(settings, "executor") as tracer:
            executor = Executor(
                settings, log, names, registry, conversation, quota=quota, beside=beside, tracer=tracer
            )
            async with serve_admin(settings, lambda: [*executor.not_ready(), *lister.not_ready()]):
                await executor.run(stop)
    finally:
        await registry.close()
        await replays.close()
        await log.close()
