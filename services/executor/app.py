"""The executor's process: builds the adapters and serves until told to stop."""

import asyncio
import os

from services import config
from services.connect import connect, topic_names
from services.executor.backends import build
from services.executor.conversation import Conversation
from services.executor.executor import Executor
from services.executor.listing import Lister
from services.settings import Settings
from services.web.health import serve_admin


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Run an executor until `stop` is set.

    Raises SettingsError, LogUnavailable, TopicMissing or TopicMisconfigured when it cannot start.
    """
    configuration = config.load(settings.config, os.environ)
    registry = build(configuration, os.environ, settings.upstream_idle_s, settings.max_record_bytes)
    bound, secret = settings.max_conversation_bytes, settings.internal_secret
    conversation = Conversation(settings.replay_url, bound, secret)
    log = connect(settings, "executor")
    try:
        names = topic_names(settings)
        lister = Lister(log, names.executors, configuration, registry.upstreams, settings.models_s)
        beside = [lister.run]
        quota = configuration.quota
        executor = Executor(settings, log, names, registry, conversation, quota=quota, beside=beside)
        async with serve_admin(settings, lambda: [*executor.not_ready(), *lister.not_ready()]):
            await executor.run(stop)
    finally:
        await registry.close()
        await conversation.close()
        await log.close()
