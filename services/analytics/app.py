"""The process of analytics: builds the adapters and serves until told to stop."""

import asyncio
import os

from schemas.errors import SettingsError
from services import config
from services.analytics.prices import Prices
from services.connect import connect, topic_names
from services.process import while_wanted
from services.settings import Settings


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Count until `stop` is set.

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
    log = connect(settings, "analytics")
    try:
        partitions = await log.partitions(topic_names(settings).closings)
        counter = Counter(settings, log, Prices(configuration.prices), partitions)
        await while_wanted(counter.run(), stop)
    finally:
        await log.close()
