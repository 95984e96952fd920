"""The fold in the program of docs/consumers/events.md agrees with Rejoinder's, whatever is appended."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings

from schemas.fold import Verdict
from schemas.records import ONE_HEADER, SEVEN_HEADERS, Cancelled, Deleted, EventHeaders, EventRecord, parse
from tests.long import examples
from tests.property.test_fold import IDS, History, Stored, T, histories, read

PAGE = Path(__file__).parents[2] / "docs" / "consumers" / "events.md"
(PROGRAM,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
DELTA = "response.output_text.delta"


def told(record: Stored, form: int) -> Stored:
    """The record; an event in that form, with a delta that says its offset."""
    entry = parse(record)
    if not isinstance(entry, EventRecord):
        return record
    value = json.dumps({"type": DELTA, "delta": f"<{record.offset}>"}).encode()
    headers = EventHeaders(entry.id, entry.claim, 1, T, form)
    new = headers.event(entry.sequence_number, DELTA, value, entry.terminal)
    return Stored(record.offset, record.timestamp, *new)


def expected(records: list[Stored]) -> list[dict[str, Any]]:
    """What is to be printed, by Rejoinder's own fold."""
    _, verdicts = read(records)
    texts: dict[str, str] = {}
    lines: list[dict[str, Any]] = []
    for record in records:
        if verdicts[record.offset] is not Verdict.COUNTS:
            continue
        match entry := parse(record):
            case Deleted(id=id):
                lines.append({"id": id, "status": "deleted"})
            case Cancelled(id=id):
                lines.append({"id": id, "status": "cancelled", "text": texts.get(id, "")})
            case EventRecord(id=id):
                texts[id] = texts.get(id, "") + f"<{record.offset}>"
                if entry.terminal:
                    lines.append({"id": id, "status": entry.terminal, "text": texts[id]})
    return lines


def taken_over() -> History:
    """A takeover, and a cancel. Among what counts stand a zombie's event with the next number, events behind
    a gap, one of a claim whose attempt is too high, and a repeated create. More of all that follows the end.
    """
    history, (id, *_) = History(), IDS
    history.accept(id)
    history.claim(id, 1)
    history.event(id, history.claims[id][0][0], 2)
    history.claim(id, 2)
    history.claim(id, 4)
    (zombie, _), (winner, _), (early, _) = history.claims[id]
    for claim in (zombie, early):
        history.event(id, claim, 3)
    history.accept(id)
    for number in (5, 3, 4):
        history.event(id, winner, number)
    history.event(id, zombie, 5, "failed")
    history.event(id, winner, 9, "completed")
    history.cancel(id)
    history.event(id, winner, 6, "completed")
    history.claim(id, 3)
    history.accept(id)
    history.cancel(id)
    history.delete(id)
    history.cancel(id)
    return history


@pytest.mark.parametrize("form", [ONE_HEADER, SEVEN_HEADERS])
@settings(max_examples=examples(1_000))
@example(history=taken_over())
@given(history=histories)
def test_the_pages_fold_prints_what_counts(form: int, history: History) -> None:
    names: dict[str, Any] = {}
    exec(PROGRAM.split("\nasync def main")[0], names)
    records = [told(record, form) for record in history.records]
    responses: dict[str, Any] = {}
    printed = []
    for record in records:
        try:
            said = names["fold"](responses, record)
        except (AttributeError, KeyError, ValueError):
            continue
        if said:
            printed.append(said)
    assert printed == expected(records)
