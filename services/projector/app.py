"""The projector's process: builds the adapters and serves until told to stop."""

import asyncio

from services.connect import connect, topic_names
from services.projector.projector import Projector
from services.settings import Settings
from services.web.health import serve_admin


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Run a projector until `stop` is set.

    Raises LogUnavailable, TopicMissing or CannotListen when it cannot start.
    """
    log = connect(settings, "projector")
    try:
        projector = Projector(settings, log, topic_names(settings))
        async with serve_admin(settings, projector.not_ready):
            await projector.run(stop)
    finally:
        await log.close()
