"""The commands of docs/consumers/parquet.md on a real broker: Parquet then holds each end once."""

import asyncio
import json
import re
import shlex
import shutil
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.closings import ClosingRecord, parse
from schemas.records import NewRecord
from services.connect import topic_names
from services.eventlog.kafka_topics import create_topics
from services.eventlog.port import Log, TopicPartition
from services.eventlog.scan import scan
from services.settings import Settings
from tests.conftest import eventually
from tests.projecting import projecting
from tests.responses import Author

PARTITIONS = 2
PAGE = Path(__file__).parents[2] / "docs" / "consumers" / "parquet.md"
COMMANDS = re.findall(r"```sh\n(kcat .*)\n```", PAGE.read_text())
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
ROWS = """
import json, sys, polars
print(json.dumps(polars.read_parquet(sys.argv[1]).sort("partition", "closed_offset").to_dicts()))
"""
"""Reads Parquet. As the page's programs, it is no part of this process."""
USAGE = {"input_tokens": 912, "output_tokens": 561, "total_tokens": 1473}

pytestmark = pytest.mark.skipif(not shutil.which("kcat"), reason="kcat is not installed")


@pytest.fixture
async def settings(kafka: str, topic_prefix: str) -> Settings:
    settings = Settings(kafka=kafka, topic_prefix=topic_prefix, grace_s=5)
    await create_topics(kafka, topic_names(settings), partitions=PARTITIONS)
    return settings


async def ended(log: Log, settings: Settings) -> None:
    """Responses of all kinds of ends, announced by a projector."""
    writer, names = log.writer(), topic_names(settings)
    async with projecting(log, names, settings):
        authors = [Author(writer, number, number % PARTITIONS, names) for number in range(6)]
        for author, model in zip(
            authors, ["gpt-5", 'qu"ote', "zwölf 🦆", "a'b", "echo", "echo"], strict=True
        ):
            await author.accept(model=model, tenant="acme", store=model != "echo")
        for author in authors[:5]:
            await (await author.take()).say("hello")
        done, failed, cut, cancelled, deleted, never = authors
        final = {"model": "gpt-5-2026", "usage": USAGE, "status": "completed"}
        await done.event("response.completed", {"response": final}, "completed")
        error = {"error": {"type": "server_error", "message": "no matter"}}
        await failed.event("response.failed", {"response": error}, "failed")
        why = {"incomplete_details": {"reason": "max_output_tokens"}}
        await cut.event("response.incomplete", {"response": why}, "incomplete")
        await cancelled.cancel()
        await deleted.delete()
        await never.cancel()
        await eventually(lambda: _count(log, settings, len(authors)))
    await writer.close()


async def _count(log: Log, settings: Settings, count: int) -> bool:
    bounds = await log.bounds(topic_names(settings).closings, range(PARTITIONS))
    return sum(found.end for found in bounds.values()) == count


async def announced(log: Log, settings: Settings) -> dict[int, list[ClosingRecord]]:
    """By partition, what `closings` holds."""
    topic = topic_names(settings).closings
    found = {}
    for number, bounds in (await log.bounds(topic, range(PARTITIONS))).items():
        records = scan(log, TopicPartition(topic, number), bounds.start, bounds.end)
        entries = [parse(record, number) async for record in records]
        found[number] = [entry for entry in entries if isinstance(entry, ClosingRecord)]
    return found


async def tell_again(log: Log, settings: Settings, closings: dict[int, list[ClosingRecord]]) -> None:
    """All once more, with a field of a later version; and a record of a kind that nobody knows."""
    topic, writer = topic_names(settings).closings, log.writer()
    for number, entries in closings.items():
        for entry in entries:
            again = entry.new()
            value = msgspec.json.encode({**msgspec.json.decode(again.value or b""), "later": {"a": [1]}})
            await writer.append(topic, number, NewRecord(again.key, value, again.headers))
        await writer.append(topic, number, NewRecord(b"x", b"[1]", [("kind", b"later")]))
    await writer.close()


async def ran(command: str, folder: Path) -> tuple[bytes, bytes]:
    """What a command that succeeds prints and says."""
    process = await asyncio.create_subprocess_shell(command, cwd=folder, stdout=PIPE, stderr=PIPE)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err
    return out, err


@pytest.mark.parametrize("command, program", list(zip(COMMANDS, PROGRAMS, strict=True)))
async def test_parquet_holds_each_end_once_with_all_its_fields(
    log: Log, settings: Settings, tmp_path: Path, command: str, program: str
) -> None:
    await ended(log, settings)
    closings = await announced(log, settings)
    await tell_again(log, settings, closings)

    (name,) = re.findall(r"python (\w+\.py)", command)
    (tmp_path / name).write_text(program)
    for found, put in (
        ("127.0.0.1:9092", settings.kafka),
        ("-t closings", f"-t {topic_names(settings).closings}"),
        ("python", sys.executable),
    ):
        assert found in command
        command = command.replace(found, put, 1)
    out, err = await ran(command, tmp_path)
    assert err == b"", out
    out, _ = await ran(shlex.join([sys.executable, "-c", ROWS, "closings.parquet"]), tmp_path)
    rows = json.loads(out)
    assert rows == [
        {"partition": number, **_plain(entry)} for number, entries in closings.items() for entry in entries
    ]
    assert len(rows) == 6


def _plain(entry: ClosingRecord) -> dict[str, Any]:
    return dict(msgspec.json.decode(msgspec.json.encode(entry)))
