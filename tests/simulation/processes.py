"""A world's processes: real executors, projectors, replays, ingests, each behind a door of its own."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

from msgspec import Struct, field
from msgspec.structs import replace

from services.eventlog.topics import topics
from services.executor.executor import Executor
from services.ingest.commands import Commands
from services.ingest.routes import InternalDesk
from services.projector.projector import Projector
from services.replay.app import Service
from services.replay.disk import Disk
from services.replay.store import Store
from services.settings import Settings
from services.web.edge import Edge
from tests.simulation.node import Node

NAMES = topics()
PARTITIONS = 2
ROLES = {"x": 3, "p": 2, "r": 2, "i": 3}
"""Executors, projectors, replays and ingests that live at a time."""


class Client(Protocol):
    """A client's connection."""

    draining: bool
    streaming: bool

    def abort(self) -> None:
        """Reset it."""


class Process(Struct, eq=False):
    """A running process. `reader` and `door` are set for a replay, `me` for an executor, the rest for an
    ingest.
    """

    name: str
    node: Node
    task: asyncio.Task[None]
    stop: asyncio.Event
    me: str = ""
    reader: Service | None = None
    door: Edge | None = None
    commands: Commands | None = None
    desk: InternalDesk | None = None
    clients: list["Client"] = field(default_factory=list)
    """The clients that are connected to a replay's front door."""
    connections: list[asyncio.Task[Any]] = field(default_factory=list)
    """The requests of others that this process is answering."""


def executor(name: str, node: Node, settings: Settings, upstreams: Any, chains: Any) -> Process:
    """Start an executor: its id is fresh."""
    it, stop = Executor(settings, node, NAMES, upstreams, chains), asyncio.Event()
    return Process(name, node, started(node, it.run(stop)), stop, me=it.me)


def projector(name: str, node: Node, settings: Settings) -> Process:
    """Start a projector."""
    stop = asyncio.Event()
    return Process(name, node, started(node, Projector(settings, node, NAMES).run(stop)), stop)


def replay(name: str, node: Node, settings: Settings, partitions: int, memory: int, disk: Disk) -> Process:
    """Start a replay that holds so many bytes of frames, with its store on `disk`."""
    little = replace(settings, replay_memory_bytes=memory, barrier_s=5)
    service = Service(little, node, NAMES, partitions, Store(disk), node.log.clock)
    return Process(name, node, started(node, _together(service.loops)), asyncio.Event(), reader=service)


async def _together(loops: Iterable[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Run the loops of a process until it ends."""
    async with asyncio.TaskGroup() as tasks:
        for loop in loops:
            tasks.create_task(loop())


def started(node: Node, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """The task of a process."""
    return asyncio.get_running_loop().create_task(coroutine, name=node.name, context=node.context)
