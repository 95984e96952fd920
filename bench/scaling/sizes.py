"""What responses leave in each topic, in bytes: a fixed part and a part an event, from short and long ones.

The words are those of this project's own pages, so that what is packed packs as text does.
"""

import asyncio
import json
import re
import time
from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path

import uvloop
from msgspec import Struct

from bench.load import OVERHEAD, Load
from bench.scaling.installation import Installation
from services.connect import topic_names
from tests.api import Api

TEXT = Path(__file__).parents[2] / "docs" / "architecture.md"
FEW, MANY, RESPONSES, INTERVAL_MS = 60, 600, 40, 10
"""Words of a short and of a long response, how many of each, and ms between two words."""
BOUND_S = 60.0
TYPE = "response.output_text.delta"
QUIET_S = 2.0
"""Seconds without growth after which everything that a response leaves is there."""
TOPICS = ("events", "transcripts", "responses", "index", "closings")


class Sizes(Struct, frozen=True):
    """Bytes by topic: of a response beside its events, and of an event. `event`: of its JSON, in the log."""

    response: Mapping[str, float]
    event: Mapping[str, float]
    request: float
    """Of a request's body."""
    event_json: float
    frame: float
    """Of an event on a stream (SSE) beside its JSON."""
    row: float
    """What one response alone leaves in `usage`: a row, and the mark behind it."""


class Said(Load):
    """Background responses of model echo that say a text of so many words once."""

    def __init__(self, url: str, words: int) -> None:
        super().__init__(url, words + OVERHEAD)
        found = islice(cycle(re.findall(r"\S+", TEXT.read_text())), words)
        metadata = {"echo.interval_ms": str(INTERVAL_MS)}
        asked = {"model": "echo", "input": " ".join(found), "metadata": metadata, **self.ask}
        self.body = json.dumps(asked).encode()


def sizes(ours: Installation) -> Sizes:
    """Measure them on an installation that has nothing else to do."""
    few, many = (_left(ours, words) for words in (FEW, MANY))
    events = MANY - FEW
    event = {topic: (many[topic] - few[topic]) / events for topic in TOPICS}
    response = {topic: max(0.0, few[topic] - (FEW + OVERHEAD) * event[topic]) for topic in TOPICS}
    usage = topic_names(ours.settings).usage
    rows = ours.log_bytes(usage)
    body = Said(ours.base_url, MANY).body
    api = Api(ours.base_url)
    frames = [found for found in api.events(api.post(json.loads(body)).json["id"]) if found.type == TYPE]
    _still(ours, [usage])
    return Sizes(
        response,
        event,
        request=len(Said(ours.base_url, FEW).body),
        event_json=sum(len(found.data) for found in frames) / len(frames),
        frame=sum(len(found.raw) - len(found.data) for found in frames) / len(frames),
        row=ours.log_bytes(usage) - rows,
    )


def _left(ours: Installation, words: int) -> Mapping[str, float]:
    """Bytes that one response leaves, by topic."""
    names = topic_names(ours.settings)
    files = {topic: getattr(names, topic) for topic in TOPICS}
    before = {topic: ours.log_bytes(name) for topic, name in files.items()}
    uvloop.run(_said(Said(ours.base_url, words)))
    _still(ours, list(files.values()))
    return {topic: (ours.log_bytes(name) - before[topic]) / RESPONSES for topic, name in files.items()}


async def _said(load: Said) -> None:
    async with asyncio.timeout(BOUND_S):
        await asyncio.gather(*(load.one() for _ in range(RESPONSES)))


def _still(ours: Installation, names: list[str]) -> None:
    """Wait until nothing is written any more."""
    known, since = -1, time.monotonic()
    while time.monotonic() - since < QUIET_S:
        time.sleep(0.1)
        now = sum(map(ours.log_bytes, names))
        if now != known:
            known, since = now, time.monotonic()
