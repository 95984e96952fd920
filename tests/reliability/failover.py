"""Shows what clients see while one of three brokers is gone: repeats every kind of request, and times it.

    posts     background responses that may go anywhere        cancels   of responses that are open
    reads     of closed responses, in every partition          deletes   of closed ones
    streams   of responses that run all the time

Blocking, a thread each. The figures are of `steady`, as all upper bounds.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPException
from typing import NamedTuple

from schemas.ids import ResponseId, partition_of
from services.eventlog.topics import topics
from tests.api import request
from tests.reliability import audit
from tests.reliability.cluster import Cluster
from tests.reliability.rig import Rig, until
from tests.steady import steady
from tests.wire import Answer

POSTERS = 4
PAUSE_S = 0.1
SPENT = 40
"""How many responses are cancelled, and deleted, one after the other, while the streams last."""
WORD = "placed meanwhile"


class Asked(NamedTuple):
    """One request: when it began and ended, what came, and the partition that it was for, if any."""

    began: float
    ended: float
    answer: Answer | None
    partition: int = -1
    id: str = ""

    @property
    def taken(self) -> bool:
        return self.answer is not None and self.answer.status == 200

    @property
    def unsure(self) -> bool:
        """Whether the outcome is unknown, so that the client must not repeat the request."""
        return self.answer is None or self.answer.headers.get("x-should-retry") == "false"


class Clients:
    """Clients of `rig`, whose brokers are `cluster`, from `with` on until its end."""

    def __init__(self, rig: Rig, cluster: Cluster, *, partitions: int, words: int) -> None:
        """`words`: of each stream, ten a second; more than the fault takes."""
        self.rig = rig
        self.cluster = cluster
        self.asked: defaultdict[str, list[Asked]] = defaultdict(list)
        self.closed = self._one_each(partitions, rig.api.closed)
        self.open = [rig.api.open("to be cancelled") for _ in range(SPENT)]
        self.old = [rig.api.closed("to be deleted") for _ in range(SPENT)]
        self._pause = words / 10 / SPENT
        self.running = [rig.api.create("a b c", tokens=words, interval_ms=100) for _ in range(2 * partitions)]
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(POSTERS + 5 + len(self.running))
        self._loops: list[Future[None]] = []
        self._readers: dict[str, Future[audit.Watched]] = {}

    @contextmanager
    def about(self) -> Iterator[None]:
        """Everything goes on while the block lasts, and it is well before and after it."""
        self._readers = {id: self._pool.submit(audit.watch, self.rig.api, id, 240) for id in self.running}
        for _ in range(POSTERS):
            self._begin("post", self._post)
        reads = [self._reading(id) for id in self.closed.values()]
        self._begin("read", _taking_turns(reads))
        self._begin("read", _taking_turns(reads[::-1]))
        self._begin("cancel", self._cancel, pause=self._pause)
        self._begin("delete", self._delete, pause=self._pause)
        for kind in ("post", "read", "cancel", "delete"):
            until(lambda kind=kind: len(self.asked[kind]) > 3 and self.asked[kind][-1].taken)  # type: ignore[misc]
        try:
            yield
            until(lambda: all(self.asked["post"][-n].taken for n in range(1, 2 * POSTERS)))
        finally:
            self._stop.set()
            for loop in self._loops:
                loop.result()

    @staticmethod
    def now() -> float:
        """The time that `Asked` is told in."""
        return steady()

    def streams(self) -> dict[str, audit.Watched]:
        """Each stream, read to its end."""
        return {id: reader.result(240) for id, reader in self._readers.items()}

    def refusals(self, began: float) -> list[str]:
        """What was refused since `began`, a line each."""
        return [
            f"{kind}, partition {one.partition}, from {one.began - began:.1f} to {one.ended - began:.1f} s: "
            f"{one.answer!r:.300}"
            for kind, asked in self.asked.items()
            for one in asked
            if one.ended >= began and not one.taken
        ]

    def close(self) -> None:
        self._stop.set()
        self._pool.shutdown()

    def _begin(self, kind: str, ask: Callable[[], Asked | None], pause: float = PAUSE_S) -> None:
        def again() -> None:
            while not self._stop.wait(pause):
                if (asked := ask()) is not None:
                    self.asked[kind].append(asked)

        self._loops.append(self._pool.submit(again))

    def _post(self) -> Asked:
        return _timed(lambda: self.rig.api.post(request(WORD, tokens=3)))

    def _cancel(self) -> Asked | None:
        if not self.open:
            return None
        id = self.open[-1]
        asked = _timed(lambda: self.rig.api.cancel(id), id)
        if asked.taken:
            self.open.pop()
        return asked

    def _delete(self) -> Asked | None:
        if not self.old:
            return None
        id = self.old[-1]
        asked = _timed(lambda: self.rig.api.delete(id), id)
        gone = asked.answer is not None and asked.answer.status == 404  # a repetition of one in doubt
        if asked.taken or gone:
            self.old.pop()
        return asked._replace(answer=None) if gone else asked

    def _reading(self, id: str) -> Callable[[], Asked]:
        return lambda: _timed(lambda: self.rig.api.get(id), id)

    def _one_each(self, partitions: int, make: Callable[[str], str]) -> dict[int, str]:
        found: dict[int, str] = {}
        while len(found) < partitions:
            id = make("to be read")
            found[partition_of(ResponseId(id))] = id
        return found


def _taking_turns(asks: list[Callable[[], Asked]]) -> Callable[[], Asked]:
    turn = 0

    def ask() -> Asked:
        nonlocal turn
        turn += 1
        return asks[turn % len(asks)]()

    return ask


def _timed(ask: Callable[[], Answer], id: str = "") -> Asked:
    began, answer = steady(), None
    with suppress(OSError, HTTPException):
        answer = ask()
    return Asked(began, steady(), answer, partition_of(ResponseId(id)) if id else -1, id)


class Figures(NamedTuple):
    """The effects of a fault: seconds from its beginning, and counts."""

    again: dict[str, float]
    """When each kind of request was taken for good: its last refusal after the fault ended, or 0."""
    refused: dict[str, int]
    unsure: int
    posts: int
    reads_refused_elsewhere: int
    """Of partitions that the victim led neither events nor transcripts of."""
    slowest_refusal: float
    silence: float
    """The longest of all streams."""


def led_by(clients: Clients, node: int) -> set[int]:
    """The partitions of which `node` leads events or transcripts."""
    names = topics(clients.rig.settings.topic_prefix)
    leaders = [clients.cluster.led(names.events), clients.cluster.led(names.transcripts)]
    return {partition for led in leaders for partition, leader in led.items() if leader == node}


def figures(clients: Clients, began: float, victims: set[int]) -> Figures:
    """After `about`: what the fault that began at `began` did, where `victims` are the partitions it hit."""
    after = {kind: [one for one in asked if one.ended >= began] for kind, asked in clients.asked.items()}
    refused = {kind: [one for one in asked if not one.taken] for kind, asked in after.items()}
    every = [one for asked in refused.values() for one in asked]
    elsewhere = [one for one in refused["read"] if one.partition not in victims]
    return Figures(
        again={
            kind: max((one.ended - began for one in asked), default=0.0) for kind, asked in refused.items()
        },
        refused={kind: len(asked) for kind, asked in refused.items()},
        unsure=sum(one.unsure for one in refused["post"]),
        posts=len(after["post"]),
        reads_refused_elsewhere=len(elsewhere),
        slowest_refusal=max((one.ended - one.began for one in every), default=0.0),
        silence=max(watched.silence for watched in clients.streams().values()),
    )


def check(clients: Clients) -> None:
    """Check that nothing is lost, twice or stuck, and no response exists of which no client was unsure."""
    rig = clients.rig
    told = [one.answer.json["id"] for one in clients.asked["post"] if one.taken and one.answer]
    cancelled = [one.id for one in clients.asked["cancel"] if one.taken]
    seen = clients.streams()
    found, known = audit.check(rig, [*told, *cancelled, *clients.running, *clients.closed.values()])
    for id, was in seen.items():
        assert was.frames == found[id], f"{id}: the live stream is not the replay"
        assert was.frames[-1].type == "response.completed", was.frames[-1]
    for id in cancelled:
        assert known[id].status == "cancelled", id
    for one in clients.asked["delete"]:
        if one.taken:
            assert rig.api.get(one.id).status == 404, one.id
    unsure = sum(one.unsure for one in clients.asked["post"] if not one.taken)
    mine = {id for id, life in known.items() if WORD.encode() in life.values.get(2, b"")}
    assert len(mine - set(told)) <= unsure, "a response exists that nobody was unsure of"
