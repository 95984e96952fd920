"""The program of docs/consumers/faust.md on a real broker: as the one of docs/consumers/events.md."""

import re
from pathlib import Path

import pytest

from services.connect import topic_names
from services.eventlog.kafka_topics import create_topics
from services.eventlog.port import Log
from services.settings import Settings
from tests.integration import test_consumer_events as events
from tests.responses import Author

pytest.importorskip("faust", reason="Faust is not installed")

PAGE = Path(__file__).parents[2] / "docs" / "consumers" / "faust.md"
PROGRAM = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
FOLD = re.compile(r"^EVENT = .*?(?=^async def main|^KAFKA)", re.DOTALL | re.MULTILINE)


@pytest.fixture
async def settings(kafka: str, topic_prefix: str) -> Settings:
    settings = Settings(kafka=kafka, topic_prefix=topic_prefix)
    await create_topics(kafka, topic_names(settings), partitions=2)
    return settings


def test_it_folds_as_the_other_page_does() -> None:
    ours, theirs = (FOLD.findall(program) for program in (PROGRAM, events.PROGRAM))
    assert ours
    assert [fold.strip() for fold in ours] == [fold.strip() for fold in theirs]


async def test_a_takeover_changes_no_text(log: Log, settings: Settings, tmp_path: Path) -> None:
    writer = log.writer()
    author = Author(writer, 1, 1, topic_names(settings))
    await events.taken_over(author)
    await writer.close()
    right = [{"id": author.id, "status": "completed", "text": events.TEXT}]
    assert await events.said(settings, tmp_path, 1, PROGRAM) == right
    naive = PROGRAM.replace(events.FOLDED, "True")
    assert naive != PROGRAM
    (doubled,) = await events.said(settings, tmp_path, 1, naive)
    assert doubled["text"] == "nothing is lost and nothing and nothing comes twicecomes twice"
