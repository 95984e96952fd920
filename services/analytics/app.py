"""The process of analytics: builds the adapters and serves until told to stop."""

import asyncio
import os

from services import config
from services.analytics.prices import Prices
from services.connect import connect, topic_names
from services.process import while_wanted
from services.settings import Settings
from services.analytics.counter import Counter
from services.analytics.faust_settings import quieten
from services.analytics.mended import mend_faust


async def run(settings: Settings, stop: asyncio.Event) -> None:
    configuration = config.load(settings.config, os.environ)
    mend_faust()
    quieten()
    log = connect(settings, "analytics")
    try:
        partitions = await log.partitions(topic_names(settings).closings)
        counter = Counter(settings, log, Prices(configuration.prices), partitions)
        await while_wanted(counter.run(), stop)
    finally:
        await log.close()
