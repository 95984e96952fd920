"""The replay process on a real broker: its ports, streams over the window and by seek, restarts, the end."""

import asyncio
import errno
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from msgspec import structs
from prometheus_client import REGISTRY

from schemas.errors import TopicMisconfigured
from services.broker.tcp import free_port
from services.connect import connect, projector_group, topic_names
from services.eventlog.kafka import KafkaLog
from services.eventlog.kafka_address import KafkaAddress
from services.eventlog.kafka_topics import admin_at, check_topics, create_topics
from services.eventlog.topics import Topics
from services.replay import app
from services.settings import Settings
from services.topic_setup import make_topics
from services.web.internal import view_path
from tests.conftest import eventually
from tests.projecting import Views, projecting
from tests.responses import Author

PARTITIONS = 2


def error_of(connection: socket.socket) -> int:
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


class Site:
    """A running replay process, a writer to the log under it, and a client."""

    def __init__(
        self, settings: Settings, log: KafkaLog, names: Topics, client: aiohttp.ClientSession
    ) -> None:
        self.writer = log.writer()
        self.names = names
        self.client = client
        self.public = f"http://127.0.0.1:{settings.port}"
        self.internal = f"http://127.0.0.1:{settings.internal_port}"

    def author(self, number: int, partition: int = 0) -> Author:
        return Author(self.writer, number, partition, self.names)

    async def ready(self) -> bool:
        try:
            async with self.client.get(f"{self.public}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientConnectorError:
            return False

    async def read(self, author: Author, cursor: int = -1) -> bytes:
        """The whole stream after the cursor. Raises aiohttp's ClientPayloadError when it is cut."""
        query = f"?stream=true&starting_after={cursor}"
        async with self.client.get(f"{self.public}/v1/responses/{author.id}{query}") as answer:
            assert answer.status == 200
            return await answer.read()

    async def get(self, author: Author) -> tuple[int, dict[str, Any]]:
        async with self.client.get(f"{self.public}/v1/responses/{author.id}") as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def settings(kafka: str, topic_prefix: str) -> Settings:
    """Settings of a process on topics of its own."""
    settings = Settings(kafka=kafka, topic_prefix=topic_prefix, port=free_port(), internal_port=free_port())
    await create_topics(kafka, topic_names(settings), partitions=PARTITIONS)
    return settings


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Site]:
    stop = asyncio.Event()
    log = connect(settings, "test")
    process = asyncio.create_task(app.run(settings, stop))
    try:
        async with aiohttp.ClientSession() as client:
            site = Site(settings, log, topic_names(settings), client)
            await eventually(site.ready)
            try:
                yield site
            finally:
                await site.writer.close()
    finally:
        stop.set()
        await process
        await log.close()


async def test_a_stream_goes_from_history_to_live_to_its_end(settings: Settings) -> None:
    async with running(settings) as site:
        author = await (await site.author(1).accept()).take()
        await author.say("one ", "two ")
        reading = asyncio.create_task(site.read(author))
        rest = asyncio.create_task(site.read(author, 2))
        assert (await site.get(author))[1]["status"] == "in_progress"
        await author.say("three ")
        await author.complete()

        assert await reading == author.after(-1)
        assert await rest == author.after(2)


async def test_what_was_just_written_is_never_a_404(settings: Settings) -> None:
    async with running(settings) as site:
        for number in range(30):
            author = await site.author(number, number % PARTITIONS).accept()
            status, shown = await site.get(author)
            assert (status, shown["id"]) == (200, author.id)
            async with site.client.get(site.internal + view_path(author.id, author.ack.offset)) as answer:
                assert (await answer.json())["accepted_offset"] == author.ack.offset


async def test_out_of_the_window_it_is_read_by_seek_while_two_hundred_share_the_partition(
    settings: Settings,
) -> None:
    async with running(structs.replace(settings, replay_memory_bytes=1024)) as site:
        authors = [site.author(number) for number in range(200)]
        await asyncio.gather(*(author.accept() for author in authors))
        await asyncio.gather(*(author.take() for author in authors))
        for _ in range(10):
            await asyncio.gather(*(author.say("a few ", "words ", "x" * 50) for author in authors))
        author = authors[99]
        await author.complete()

        assert await site.read(author) == author.after(-1)
        assert await site.read(author, 17) == author.after(17)
        seeks = await asyncio.to_thread(REGISTRY.get_sample_value, "rejoinder_replay_seeks")
        assert seeks is not None
        assert seeks > 0


async def test_after_a_restart_a_replay_is_byte_identical_from_log_and_transcript(settings: Settings) -> None:
    async with running(settings) as site:
        author = await (await site.author(1).accept()).take()
        await author.say(*(f"word {n} " for n in range(50)))
        await author.complete()
        live = await site.read(author)
    async with running(settings) as site:
        assert await site.read(author) == live == author.after(-1)
        author.writer = site.writer
        await author.pack()
    async with running(settings) as site:
        assert await site.read(author, 30) == author.after(30)
        assert (await site.get(author))[1]["status"] == "completed"


async def test_views_that_are_made_anew_are_filled_from_the_log(settings: Settings) -> None:
    log, names = connect(settings, "test"), topic_names(settings)
    views, writer = Views(log, names, settings), log.writer()
    author = await (await Author(writer, 1, 0, names).accept()).take()
    await (await author.say("one ", "two")).complete()
    async with projecting(log, names, settings):
        await views.committed(0, author.ack.offset + 1)
        async with admin_at(KafkaAddress(settings.kafka)) as admin:
            await admin.delete_topics([names.responses, names.transcripts])
        await eventually(lambda: lost(settings))
        with pytest.raises(TopicMisconfigured, match="while the projector runs: stop it"):
            await make_topics(settings)
    told, *created = await make_topics(settings)
    assert "fills" in told
    assert len(created) == 2
    async with projecting(log, names, settings):
        await views.committed(0, author.ack.offset + 1)
    await writer.close()
    await log.close()

    async with running(settings) as site:
        assert await site.read(author) == author.after(-1)
        assert (await site.get(author))[1]["status"] == "completed"


@pytest.mark.parametrize("word", [False, True])
async def test_an_index_that_is_made_for_the_first_time_is_made_of_transcripts(
    settings: Settings, word: bool
) -> None:
    """Only a watermark that says that the index is complete is dropped with it (P-77, P-138)."""
    log, names = connect(settings, "test"), topic_names(settings)
    views, writer = Views(log, names, settings), log.writer()
    author = await (await Author(writer, 1, 0, names).accept()).take()
    await (await author.say("one ", "two")).complete()
    async with projecting(log, names, settings):
        await views.committed(0, author.ack.offset + 1)
    if not word:  # as an older projector commits
        member = await log.join(projector_group(settings), names.events, lambda _: None)
        await eventually(lambda: 0 in member.owned)
        await member.commit(dict.fromkeys(member.owned, 0) | {0: author.ack.offset + 1})
        await member.close()
    async with admin_at(KafkaAddress(settings.kafka)) as admin:
        await admin.delete_topics([names.index])
    await eventually(lambda: missing(settings, names.index))
    told = await make_topics(settings)
    assert ("fills" in told[0]) == word
    assert await views.watermark(0) == (None if word else author.ack.offset + 1)
    async with projecting(log, names, settings) as running_projector:
        await eventually(lambda: not running_projector.behind())
        await views.committed(0, author.ack.offset + 1)
        assert await views.entry(author.id) is not None
    await writer.close()
    await log.close()


async def missing(settings: Settings, topic: str) -> bool:
    """Whether `topic`, and no other, is gone."""
    return [one.topic for one in await check_topics(settings.kafka, topic_names(settings))] == [topic]


async def lost(settings: Settings) -> bool:
    """Whether the views are gone, and what is said of them is how to make them anew."""
    problems = await check_topics(settings.kafka, topic_names(settings))
    assert [problem.what for problem in problems] == ["does not exist"] * 2
    return all(problem.mend.startswith("stop replay and the projector") for problem in problems)


async def test_when_told_to_stop_it_cuts_its_streams_and_returns(settings: Settings) -> None:
    async with running(settings) as site:
        author = await site.author(1).accept()
        url = f"{site.public}/v1/responses/{author.id}?stream=true"
        client = aiohttp.ClientSession()
        answer = await client.get(url)
        assert await answer.content.readexactly(len(author.after(-1))) == author.after(-1)
    with pytest.raises(aiohttp.ClientError):
        await answer.read()
    await client.close()


async def test_a_reader_that_takes_nothing_is_dropped_and_slows_nobody(settings: Settings) -> None:
    async with running(structs.replace(settings, stall_s=3)) as site:
        author = await (await site.author(1).accept()).take()
        with socket.create_connection(("127.0.0.1", settings.port)) as stalled:
            stalled.send(f"GET /v1/responses/{author.id}?stream=true HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            quick = [asyncio.create_task(site.read(author)) for _ in range(3)]
            await author.say(*("y" * 250_000 for _ in range(60)))
            await author.complete()

            assert await asyncio.gather(*quick) == [author.after(-1)] * 3
            await eventually(lambda: error_of(stalled) == errno.ECONNRESET)
        assert await site.read(author, author.last - 1) == author.after(author.last - 1)


async def test_unreadable_records_stop_nothing(settings: Settings) -> None:
    async with running(settings) as site:
        author = await (await site.author(1).accept()).take()
        await author.put(author.broken(b"no such key", b"\xff\xfe"))
        await author.put(author.broken(author.id.encode() + b"/x", b"{"))
        await author.complete()

        assert await site.read(author) == author.after(-1)
        assert json.loads(author.frames[-1].partition(b"data: ")[2])["sequence_number"] == 2
