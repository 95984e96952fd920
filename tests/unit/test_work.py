"""How a winning claim is worked off where the log does not give what it takes."""

import asyncio
import json

import pytest

from schemas.fold import Fold
from schemas.ids import ExecutorId, response_id
from schemas.records import Accepted, Claimed, Entry, NewRecord
from services.config import load
from services.executor import work
from services.executor.backends import build
from services.executor.fairness import Queue
from services.executor.history import History
from services.executor.liveness import Liveness
from services.executor.narrator import Outlet
from services.executor.partition import Partition
from services.executor.run import Job, Run
from services.executor.scribe import Limits
from services.executor.work import Worker
from tests.conftest import PATIENCE
from tests.executing import DEAD, FAR, NAMES, TENANT, conversing, memory
from tests.written import claim_of

ID = response_id(0, bytes(16))


async def test_an_overdue_response_ends_also_where_its_past_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(work, "LATE_S", 0.01)
    rotten = memory()
    rotten.available = False
    partition, posted = Partition(0, floor=0), list[NewRecord]()
    history, registry = History(rotten, NAMES.events), build(load("", {}), {})

    def post(_: int, record: NewRecord) -> None:
        posted.append(record)

    outlet = Outlet(post, post, lambda: None, clock=lambda: 0, unbroken=lambda _: True)
    liveness = Liveness(ExecutorId("exec_me"))
    liveness.own_beat(0, now=0, within=20, log_time=2_000)
    run = taken_over(partition.fold)
    partition.waiting.accept(partition.fold.responses[ID], b'{"request":{},"response":{}}', None)
    run.over.set()  # as soon as its end is read back
    async with conversing() as conversation:
        worker = Worker(history, registry, conversation, outlet, liveness, Limits(), 5)
        await asyncio.wait_for(worker.work(Job(partition, partition.fold.responses[ID], run)), PATIENCE)

    end = posted[-1]
    assert dict(end.headers)["terminal"] == b"failed"
    assert json.loads(end.value or b"")["response"]["error"]["type"] == "deadline"


def taken_over(fold: Fold) -> Run:
    """A run of the second attempt of a response whose deadline is over."""
    entries: list[Entry] = [
        Accepted(ID, "n", TENANT, "sha", FAR, 1_000, background=True, store=True),
        Claimed(ID, 1, claim_of("dead"), DEAD, TENANT),
        Claimed(ID, 2, claim_of("mine"), ExecutorId("exec_me"), TENANT),
    ]
    for offset, entry in enumerate(entries):
        fold.apply(offset, offset, entry)
    return Run(fold.responses[ID], Queue(TENANT, None), lease=5, sent_at=0)
