"""The program of docs/consumers/events.md on a real broker: it rebuilds the texts, also over a takeover."""

import asyncio
import json
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from schemas.events import encoded_in
from schemas.ids import ClaimId
from schemas.records import EventHeaders, NewRecord
from services.connect import topic_names
from services.eventlog.kafka_topics import create_topics
from services.eventlog.port import Log
from services.settings import Settings
from tests.responses import Author

PAGE = Path(__file__).parents[2] / "docs" / "consumers" / "events.md"
(PROGRAM,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
FOLDED = 'claim == state["claim"] and number == state["last"] + 1'
WORDS = ("nothing ", "is lost ", "and nothing ", "comes twice")
TEXT = "".join(WORDS)


@pytest.fixture
async def settings(kafka: str, topic_prefix: str) -> Settings:
    settings = Settings(kafka=kafka, topic_prefix=topic_prefix)
    await create_topics(kafka, topic_names(settings), partitions=2)
    return settings


async def said(settings: Settings, folder: Path, ends: int, program: str = PROGRAM) -> list[dict[str, Any]]:
    """The first `ends` lines that the program prints."""
    file = folder / "texts.py"
    file.write_text(program)
    command = [sys.executable, str(file), settings.kafka, topic_names(settings).events]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            return [json.loads(await process.stdout.readline()) for _ in range(ends)]
    finally:
        process.kill()
        await process.communicate()


async def taken_over(author: Author) -> None:
    """A response whose first executor was paused after two words, and says the rest when it wakes: all that
    its upstream sends, with numbers that look right, between the words of the second.
    """
    await (await author.accept()).take()
    await author.say(*WORDS[:2])
    paused, number = author.claim, author.last
    await author.take()
    await author.say(WORDS[2])
    for word in WORDS[2:]:
        number += 1
        await author.put(late(author, paused, number, word))
    await author.say(WORDS[3])
    await author.complete()


def late(author: Author, claim: ClaimId, number: int, word: str) -> NewRecord:
    type = "response.output_text.delta"
    value = json.dumps({"type": type, "sequence_number": number, "delta": word}).encode()
    return EventHeaders(author.id, claim, 1, author.tenant).event(number, type, value)


async def test_a_takeover_changes_no_text(log: Log, settings: Settings, tmp_path: Path) -> None:
    writer = log.writer()
    author = Author(writer, 1, 1, topic_names(settings))
    await taken_over(author)
    await writer.close()
    shown = [json.loads(encoded.value) for encoded in encoded_in(b"".join(author.frames))]
    assert "".join(event.get("delta", "") for event in shown) == TEXT  # what clients see

    assert await said(settings, tmp_path, 1) == [{"id": author.id, "status": "completed", "text": TEXT}]
    naive = PROGRAM.replace(FOLDED, "True")
    assert naive != PROGRAM
    (doubled,) = await said(settings, tmp_path, 1, naive)
    assert doubled["text"] == "nothing is lost and nothing and nothing comes twicecomes twice"


async def test_every_end_is_told_with_what_was_said_until_then(
    log: Log, settings: Settings, tmp_path: Path
) -> None:
    writer, names = log.writer(), topic_names(settings)
    done, cancelled, deleted, never = (Author(writer, number, 0, names) for number in range(4))
    await (await (await (await done.accept(background=False)).take()).say(*WORDS)).complete()
    await done.accept(background=False)  # the same create once more
    await done.say("behind the end")
    await done.put(Author.broken(b"\xff", b"x"))
    await (await (await (await cancelled.accept()).take()).say(*WORDS[:2])).cancel()
    await (await (await (await deleted.accept()).take()).say(*WORDS)).delete()
    await never.delete()
    await (await never.accept()).cancel()
    await done.delete()
    await writer.close()
    assert await said(settings, tmp_path, 5) == [
        {"id": done.id, "status": "completed", "text": TEXT},
        {"id": cancelled.id, "status": "cancelled", "text": "nothing is lost "},
        {"id": deleted.id, "status": "deleted"},
        {"id": never.id, "status": "deleted"},
        {"id": done.id, "status": "deleted"},
    ]
