"""Ingest in the world: the real commands. They look up at some replay of the world and append to its log."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from schemas.errors import ApiError
from schemas.ids import ResponseId
from services.config import Config, Model
from services.eventlog.installation import freeze_key_partitions
from services.eventlog.known_partitions import KnownPartitions
from services.eventlog.patience import patiently
from services.ingest.admission import Admission
from services.ingest.appends import DELIVERY_S, Appends
from services.ingest.commands import Commands, Terms
from services.ingest.gauge import Gauge
from services.ingest.routes import InternalDesk
from services.placement import Places
from services.settings import Settings
from services.web.internal import LOAD_PATH, ReplayAway
from services.web.peer import Peer
from services.web.replay_client import ReplayClient
from services.web.replays import ReplayPort, Replays
from services.web.room import Room
from tests.simulation.node import Node
from tests.simulation.processes import NAMES, Process, started
from tests.simulation.upstream import KINDS

CONFIG = Config(models=tuple(Model(match=kind, backend="scripted") for kind in KINDS))
LONG_S, SHORT_S = 100, 10
"""Deadlines of runs, seconds: the last ingest gives the short one."""
GRACE_S = 2.0
NOBODY = Peer("http://127.0.0.1:9")
"""No connection is made."""
FIND = Callable[[], Process | None]
BACKGROUND = Callable[[Coroutine[Any, Any, Any], Node], "asyncio.Task[Any]"]


class Line(ReplayClient):
    """Ingest's connection to whatever replay answers: late, or not at all."""

    def __init__(self, node: Node, find: FIND, background: BACKGROUND) -> None:
        super().__init__(Replays([NOBODY]))
        self._node = node
        self._find = find
        self._background = background

    async def read(
        self,
        port: ReplayPort,
        path: str,
        within_s: float | None,
        asked: bytes | None = None,
    ) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(within_s):
                await self._node.turn()
                answer = await self._answered(path)
                await self._node.passage()
                return (204, b"") if answer is None else (200, answer)
        except TimeoutError as error:
            raise ReplayAway("no answer in time") from error

    async def _answered(self, path: str) -> bytes | None:
        process = self._find()
        if process is None:
            raise ReplayAway("nobody listens")
        task = self._background(_answer(process, path), process.node)
        process.connections.append(task)
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
        if task.cancelled():
            raise ReplayAway("the connection broke")
        try:
            said: bytes | None = task.result()
        except ApiError as error:
            raise ReplayAway(f"answered {error.status}") from error
        return said


async def _answer(process: Process, path: str) -> bytes | None:
    """A replay's answer, as on its internal port (`services.web.internal`); None without one."""
    assert process.reader is not None
    await process.node.turn()
    replay, url = process.reader.replay, urlsplit(path)
    if url.path == LOAD_PATH:
        return msgspec.json.encode(replay.load())
    given = parse_qs(url.query).get("offset")
    id, offset = ResponseId(url.path.split("/")[3]), int(given[0]) if given else None
    view = await replay.view(id, offset)
    await process.node.passage()
    return msgspec.json.encode(view)


def start(
    name: str,
    node: Node,
    settings: Settings,
    partitions: int,
    find: FIND,
    background: BACKGROUND,
    clock: Callable[[], int],
) -> Process:
    """Start an ingest, put together as `services.ingest.app` does. It asks the replays that `find` finds."""
    loop, line = asyncio.get_running_loop(), Line(node, find, background)
    admission = Admission(settings.max_queue, CONFIG.quota)
    writer, leader = node.writer(delivery_timeout=DELIVERY_S), partial(node.leader, NAMES.events)
    places = Places(partitions, leader, clock=loop.time)
    appends = Appends(writer, NAMES.events, places)
    gauge = Gauge(line, admission)
    deadline_s = SHORT_S if brief(name) else LONG_S
    terms = Terms(partitions, settings.acceptance_ms, settings.skew_ms, deadline_s * 1000)
    entropy = node.rng.randbytes
    count = KnownPartitions(node, NAMES.events, partitions)
    count.on_growth(places.grow)
    commands = Commands(
        CONFIG, terms, count, admission, appends, places, line, gauge, clock=clock, entropy=entropy
    )
    stop, connections = asyncio.Event(), list[asyncio.Task[Any]]()
    desk = InternalDesk(settings, commands, Room())
    task = started(node, _serve(node, (gauge.run, count.run), stop, connections))
    return Process(name, node, task, stop, commands=commands, desk=desk, connections=connections)


def brief(name: str) -> bool:
    """Whether the ingest of that name gives runs little time."""
    return name == "i2"


async def _serve(
    node: Node,
    loops: Iterable[Callable[[], Coroutine[Any, Any, None]]],
    stop: asyncio.Event,
    connections: list[asyncio.Task[Any]],
) -> None:
    """Freeze where keys lead, look at the neighbours until told to stop; then finish what is under way."""
    await patiently(lambda: freeze_key_partitions(node, NAMES, lambda: node.rng.randbytes(8).hex()))
    watching = [asyncio.create_task(loop()) for loop in loops]
    try:
        await stop.wait()
        under_way = [task for task in connections if not task.done()]
        if under_way:
            await asyncio.wait(under_way, timeout=GRACE_S)
    finally:
        for task in watching:
            task.cancel()
