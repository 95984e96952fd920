"""How long a command takes, however slow each of its steps: 5 s when nothing was sent, 20 s when in doubt."""

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from random import Random
from typing import cast

import msgspec
import pytest

from schemas import response
from schemas.errors import ApiError, LogUnavailable, Unsent
from schemas.ids import Tenant, response_id
from schemas.records import NewRecord
from schemas.request import parse
from services.config import Config, Model
from services.eventlog.known_partitions import KnownPartitions
from services.eventlog.memory import MemoryLog
from services.eventlog.port import Ack, Leader, Writer
from services.ingest.admission import Admission
from services.ingest.appends import DELIVERY_S, Appends, Patience
from services.ingest.commands import Commands, Terms
from services.ingest.gauge import Gauge
from services.placement import Places
from services.web.commands import Elsewhere, Order
from services.web.internal import ReplayAway, ResponseView
from services.web.peer import Peer
from services.web.replay_client import ReplayClient
from services.web.replays import ReplayPort, Replays
from tests.simulation.clockwork import play

CONFIG = Config(models=(Model(match="*", backend="scripted"),))
TENANT = Tenant("t")
OPEN, NEW = response_id(0, bytes(16)), response_id(0, bytes(15) + b"1")
FIRST_REFUSED_S, FIRST_IN_DOUBT_S = 5.0, 20.0
SLOW_S = 4.4
"""Seconds of a look-up that is answered at the last moment."""


class Replay(ReplayClient):
    """Replay whose look-ups take `takes_s` each; one response is open, and stays so."""

    def __init__(self, takes_s: float) -> None:
        super().__init__(Replays([Peer("http://127.0.0.1:9")]))
        self._takes_s = takes_s

    async def read(
        self,
        port: ReplayPort,  # noqa: ARG002
        path: str,
        within_s: float | None,
        asked: bytes | None = None,  # noqa: ARG002
    ) -> tuple[int, bytes]:
        await asyncio.sleep(min(self._takes_s, within_s or inf))
        if within_s is not None and within_s < self._takes_s:
            raise ReplayAway("no answer in time")
        if OPEN not in path:
            return 204, b""
        shown = msgspec.json.encode(response.initial({"background": True}, OPEN, 0, "m"))
        view = ResponseView(
            OPEN, found=True, tenant=TENANT, background=True, status="queued", object=msgspec.Raw(shown)
        )
        return 200, msgspec.json.encode(view)


class Stuck:
    """A writer that confirms nothing. What may move is given back once, after a part of its time."""

    def __init__(self, *, sends: bool, given_back: float | None = None) -> None:
        self._sends = sends
        self._given_back = given_back
        self.tried: list[int] = []

    async def append(
        self,
        topic: str,  # noqa: ARG002
        partition: int,
        record: NewRecord,  # noqa: ARG002
        *,
        unsent_s: float = inf,
        movable: bool = False,
    ) -> Ack:
        self.tried.append(partition)
        if movable and self._given_back is not None:
            part, self._given_back = self._given_back, None
            await asyncio.sleep(unsent_s * part)
            raise Unsent("its leader is gone")
        if self._sends:
            await asyncio.Event().wait()
        await asyncio.sleep(unsent_s)
        raise LogUnavailable("nothing was sent")


def commands(writer: Stuck, look_up_s: float) -> Commands:
    replay = Replay(look_up_s)
    admission = Admission(100, CONFIG.quota)
    places = Places(4, lambda _: Leader(1, healthy=True), clock=asyncio.get_running_loop().time)
    appends = Appends(cast("Writer", writer), "events", places)
    return Commands(
        CONFIG,
        Terms(4, 30_000, 10_000, 60_000),
        KnownPartitions(MemoryLog({"events": 4}), "events", 4),
        admission,
        appends,
        places,
        replay,
        Gauge(replay, admission),
        clock=lambda: 0,
        entropy=Random(1).randbytes,
    )


def create(
    *, keyed: bool = False, waited_s: float = 0, **more: object
) -> Callable[[Commands], Awaitable[object]]:
    body = parse(msgspec.json.encode({"model": "m", "input": "x", "background": True, **more}))
    order = Order(TENANT, keyed, 30_000, waited_s)
    return lambda these: these.create(NEW, order, body, Patience(waited_s))


async def refused(
    ask: Callable[[Commands], Awaitable[object]], writer: Stuck, look_up_s: float
) -> tuple[ApiError, float]:
    """The refusal, and the seconds after which it came."""
    these, loop = commands(writer, look_up_s), asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(ApiError) as caught:
        await ask(these)
    assert caught.value.status == 503
    return caught.value, loop.time() - began


ASKS = {
    "anywhere": (create(), SLOW_S),
    "keyed": (create(keyed=True), 1.4),
    "chained": (create(previous_response_id=OPEN), 1.4),
    "cancel": (lambda these: these.cancel(OPEN, TENANT), SLOW_S),
    "delete": (lambda these: these.delete(OPEN, TENANT), SLOW_S),
}


@pytest.mark.parametrize("ask", ASKS)
def test_what_was_not_sent_is_refused_within_five_seconds(ask: str) -> None:
    what, look_up_s = ASKS[ask]
    error, seconds = play(refused(what, Stuck(sends=False), look_up_s))
    assert seconds <= FIRST_REFUSED_S
    assert "x-should-retry" not in (error.headers or {})


@pytest.mark.parametrize("ask", ASKS)
def test_what_is_in_doubt_is_answered_within_twenty_seconds(ask: str) -> None:
    what, look_up_s = ASKS[ask]
    _, seconds = play(refused(what, Stuck(sends=True), look_up_s))
    assert seconds <= FIRST_IN_DOUBT_S
    assert seconds > DELIVERY_S, "an append is given up while Kafka may still fail over"


@pytest.mark.parametrize("waited_s", [1.0, 3.0])
def test_what_its_client_has_waited_already_is_no_time_more(waited_s: float) -> None:
    _, seconds = play(refused(create(keyed=True, waited_s=waited_s), Stuck(sends=False), 1.4))
    assert waited_s + seconds <= FIRST_REFUSED_S
    _, seconds = play(refused(create(keyed=True, waited_s=waited_s), Stuck(sends=True), 1.4))
    assert waited_s + seconds <= FIRST_IN_DOUBT_S


def test_what_was_given_back_unsent_is_told_so() -> None:
    async def told() -> object:
        return await create()(commands(Stuck(sends=False, given_back=0.5), 0))

    assert play(told()) == Elsewhere(None)
