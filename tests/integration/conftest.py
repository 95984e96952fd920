"""What tests of services on a real broker share."""

from collections.abc import AsyncIterator

import pytest

from services.connect import connect
from services.eventlog.port import Log
from services.settings import Settings


@pytest.fixture
async def log(settings: Settings) -> AsyncIterator[Log]:
    """The log of a test that has `settings`."""
    log = connect(settings, "test")
    yield log
    await log.close()
