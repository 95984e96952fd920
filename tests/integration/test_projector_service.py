"""The projector's process on a real broker: its views, its restarts, its admin port, a full partition."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from msgspec import structs

from services.broker.tcp import free_port
from services.connect import connect, topic_names
from services.eventlog.kafka_topics import create_topics
from services.eventlog.port import Writer
from services.projector import app
from services.settings import Settings
from tests.conftest import eventually
from tests.projecting import Views
from tests.responses import Author

PARTITIONS = 2


class Site:
    """A running projector process, a writer to the log under it, and its views."""

    def __init__(self, settings: Settings, writer: Writer, views: Views) -> None:
        self._names = topic_names(settings)
        self.writer = writer
        self.views = views

    def author(self, number: int) -> Author:
        return Author(self.writer, number, number % PARTITIONS, self._names)

    async def completed(self, number: int, *texts: str) -> Author:
        author = await (await self.author(number).accept()).take()
        return await (await author.say(*texts)).complete()

    async def projected(self, author: Author) -> None:
        """Wait until its transcript is what its readers got."""

        async def there() -> bool:
            assert await self.views.frames(author.id) == author.after(-1)
            return await self.views.object(author.id) is not None

        await eventually(there, timeout=20)


@pytest.fixture
async def settings(kafka: str, topic_prefix: str) -> Settings:
    """Settings of a process on topics of its own."""
    settings = Settings(kafka=kafka, topic_prefix=topic_prefix, grace_s=5)
    await create_topics(kafka, topic_names(settings), partitions=PARTITIONS)
    return settings


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Site]:
    stop = asyncio.Event()
    log = connect(settings, "test")
    process = asyncio.create_task(app.run(settings, stop))
    writer = log.writer()
    try:
        yield Site(settings, writer, Views(log, topic_names(settings), settings))
    finally:
        await writer.close()
        stop.set()
        await process
        await log.close()


async def test_a_closed_response_comes_into_both_views(settings: Settings) -> None:
    async with running(settings) as site:
        authors = await asyncio.gather(*(site.completed(number, "one ", "two") for number in range(50)))
        cancelled = await (await site.author(100).accept()).cancel()
        for author in [*authors, cancelled]:
            await site.projected(author)
        await site.views.committed(0, max(a.ack.offset for a in [*authors[::2], cancelled]) + 1)


async def test_a_restart_goes_on_at_the_watermark(settings: Settings) -> None:
    async with running(settings) as site:
        first = await site.completed(0, "one")
        half = await (await (await site.author(2).accept()).take()).say("two ")
        await site.views.committed(0, half.accepted.offset)
        await site.projected(first)
    async with running(settings) as site:
        half.writer = site.writer
        await (await half.say("three")).complete()
        await site.projected(half)
        first.writer = site.writer
        await first.delete()
        await eventually(lambda: site.views.gone(first.id), timeout=20)


async def test_a_long_response_has_many_chunks_beside_many_short_ones(settings: Settings) -> None:
    async with running(settings) as site:
        long = await (await site.author(0).accept()).take()
        for turn in range(3):
            await long.say(*["word " * 2000] * 20)
            await asyncio.gather(*(site.completed(100 + turn * 40 + 2 * n, "x") for n in range(20)))
        await long.complete()
        await site.projected(long)


async def test_the_admin_port_says_when_it_is_caught_up(settings: Settings) -> None:
    settings = structs.replace(settings, admin_port=free_port())
    url = f"http://127.0.0.1:{settings.admin_port}"

    async with running(settings), aiohttp.ClientSession() as client:

        async def ready() -> bool:
            try:
                async with client.get(f"{url}/readyz") as answer:
                    return answer.status == 200
            except aiohttp.ClientConnectorError:
                return False

        await eventually(ready, timeout=20)
        async with client.get(f"{url}/metrics") as answer:
            assert "rejoinder_projector_lag" in await answer.text()
