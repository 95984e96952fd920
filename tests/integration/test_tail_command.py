"""`rejoinder tail` on a real broker: the ends of real responses, from the process that people start."""

import asyncio
import json
import os
import pty
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.connect import connect, topic_names
from services.eventlog.kafka_topics import create_topics
from services.eventlog.port import Log
from services.settings import Settings
from services.terminal.closing_line import COLOURS
from tests.conftest import eventually
from tests.process import REJOINDER
from tests.projecting import Views, projecting
from tests.responses import Author


class Ends:
    """Ends responses, in two partitions, and waits until the projector has announced them."""

    def __init__(self, log: Log, settings: Settings) -> None:
        self._log = log
        self._names = topic_names(settings)
        self._views = Views(log, self._names, settings)
        self._made = 0

    async def end(self, *tenants: str) -> list[str]:
        """One response of each tenant, one after the other; their ids."""
        writer = self._log.writer()
        ids = []
        for tenant in tenants:
            self._made += 1
            author = Author(writer, self._made, self._made % 2, self._names)
            await (await author.accept(tenant=tenant, model="echo")).take()
            await (await author.say("hello")).complete()
            await self._views.committed(self._made % 2, author.ack.offset + 1)
            ids.append(str(author.id))
        await writer.close()
        return ids


@pytest.fixture
async def settings(kafka: str, topic_prefix: str) -> Settings:
    settings = Settings(kafka=kafka, topic_prefix=topic_prefix, grace_s=5)
    await create_topics(kafka, topic_names(settings), partitions=2)
    return settings


@pytest.fixture
async def ends(settings: Settings) -> AsyncIterator[Ends]:
    log = connect(settings, "test")
    async with projecting(log, topic_names(settings), settings):
        yield Ends(log, settings)
    await log.close()


def command(settings: Settings, *arguments: str) -> list[str]:
    return [REJOINDER, "tail", "--kafka", settings.kafka, "--topic-prefix", settings.topic_prefix, *arguments]


@asynccontextmanager
async def tailing(settings: Settings, *arguments: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(*command(settings, *arguments), stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line(process: Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return (await process.stdout.readline()).decode()


async def test_each_end_is_a_line_and_ctrl_c_ends_it_with_status_0(settings: Settings, ends: Ends) -> None:
    await ends.end("acme", "default", "acme")
    async with tailing(settings, "--last", "1h") as process:
        assert [(await line(process)).split()[2] for _ in range(3)] == ["acme", "default", "acme"]
        await ends.end("live")
        said = await line(process)
        assert said.split()[2:5] == ["live", "echo", "completed"]
        assert "\x1b" not in said  # no terminal
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
        assert process.stdout is not None
        assert await process.stdout.read() == b""


async def test_a_tenants_ends_come_as_the_records_values(settings: Settings, ends: Ends) -> None:
    one, _, two = await ends.end("acme", "default", "acme")
    async with tailing(settings, "--last", "1h", "--tenant", "acme", "--json") as process:
        found = [json.loads(await line(process)) for _ in range(2)]
    assert [(entry["id"], entry["tenant"]) for entry in found] == [(one, "acme"), (two, "acme")]
    assert all(entry["accepted_offset"] < entry["closed_offset"] for entry in found)


async def test_a_reader_that_has_enough_ends_it_with_status_0(settings: Settings, ends: Ends) -> None:
    await ends.end("acme")
    reader, writer = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *command(settings, "--last", "1h"), stdout=writer, stderr=PIPE
    )
    os.close(writer)
    os.set_blocking(reader, False)
    try:
        await eventually(lambda: _readable(reader), timeout=60)
        os.close(reader)
        await ends.end("acme")
        _, err = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert (process.returncode, err) == (0, b"")


@pytest.mark.parametrize("no_color, coloured", [("", True), ("1", False)])
async def test_a_terminal_shows_colours_unless_told_otherwise(
    settings: Settings, ends: Ends, no_color: str, coloured: bool
) -> None:
    await ends.end("acme")
    ours, theirs = pty.openpty()
    environ = {**os.environ, "NO_COLOR": no_color}
    process = await asyncio.create_subprocess_exec(
        *command(settings, "--last", "1h"), stdout=theirs, stderr=PIPE, env=environ
    )
    try:
        os.close(theirs)
        os.set_blocking(ours, False)
        said = await eventually(lambda: _readable(ours), timeout=60)
        assert (COLOURS["completed"] in said) is coloured
    finally:
        process.send_signal(signal.SIGINT)
        await process.communicate()
        os.close(ours)


def _readable(file: int) -> str:
    try:
        return os.read(file, 10_000).decode()
    except BlockingIOError:
        return ""


async def test_without_the_topic_one_line_says_how_to_make_it(kafka: str, topic_prefix: str) -> None:
    settings = Settings(kafka=kafka, topic_prefix=topic_prefix)
    async with tailing(settings) as process:
        out, err = await process.communicate()
    said = f"rejoinder: topic {topic_prefix}closings does not exist: run `rejoinder topics --create`\n"
    assert (process.returncode, out, err.decode()) == (1, b"", said)


@pytest.mark.parametrize("last", ["0s", "-1h"])
async def test_a_time_that_is_none_is_one_line(settings: Settings, last: str) -> None:
    async with tailing(settings, f"--last={last}") as process:
        out, err = await process.communicate()
    said = "rejoinder: --last takes a time above 0, such as 90s, 30m, 1h or 2d\n"
    assert (process.returncode, out, err.decode()) == (2, b"", said)
