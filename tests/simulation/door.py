"""The front door in the world: a replay's real routes, and its line to whatever ingest answers.

The hop breaks at every point: no ingest listens, the request is lost, the answer is lost, ingest dies or
stops amid the command. A repetition may reach another ingest.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import msgspec
from starlette.types import Message

from schemas.errors import ApiError
from schemas.ids import ResponseId, Tenant
from schemas.request import parse
from services.eventlog.installation import KeySpread
from services.placement import Places
from services.replay.door import FrontDoor, Terms
from services.replay.door_routes import DoorRoutes
from services.replay.ingest_client import IngestClient
from services.replay.shards import Shards
from services.settings import Settings
from services.web.answers import error_answer
from services.web.ask import BrokenOff, PeerAnswer, Unheard
from services.web.callers import Callers
from services.web.commands import ORDER, TENANT, Order
from services.web.edge import Edge
from services.web.internal import Report
from services.web.replays import Replays
from services.web.room import Room
from services.web.served import EXTENSION
from tests.simulation.node import Node
from tests.simulation.processes import NAMES, Process

BRIEF = b'"brief"'
"""What a body has whose run is to have little time: the ingest that gives it is asked."""
Find = Callable[[bool], Process | None]
Background = Callable[[Coroutine[Any, Any, Any], Node], "asyncio.Task[Any]"]


def open_door(
    process: Process, settings: Settings, find: Find, background: Background, clock: Callable[[], int]
) -> Edge:
    """The front door of a replay, put together as `services.replay.app` does."""
    assert process.reader is not None
    node, loop = process.node, asyncio.get_running_loop()
    service = process.reader
    leader = partial(node.leader, NAMES.events)
    places = Places(service.foldings.count, leader, local=service.opening, clock=loop.time)
    service.count.on_growth(places.grow)
    terms = Terms(settings.acceptance_ms, settings.skew_ms)
    line = Line(node, find, background)
    keys, entropy = KeySpread(node, NAMES, within_s=settings.barrier_s), node.rng.randbytes
    shards = Shards(Replays([]), service.foldings, settings)  # all is served here
    door = FrontDoor(service.replay, shards, line, places, terms, keys, clock=clock, entropy=entropy)

    def spawn(work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = background(work, node)
        process.connections.append(task)
        if not node.alive:  # the work of a killed process
            task.cancel()
        return task

    return Edge(
        DoorRoutes(door, settings, Callers(settings), Room(), process.stop, spawn).routes(), public=True
    )


class Line(IngestClient):
    """The hop to ingest."""

    def __init__(self, node: Node, find: Find, background: Background) -> None:
        self._node = node
        self._find = find
        self._background = background
        self.report = Report("ingest", "ingest", "")

    async def read(self, path: str, headers: Mapping[str, str], raw: bytes, within_s: float) -> PeerAnswer:
        breaks = self._node.rng.random() < self._node.trouble
        how = self._node.rng.choice(("refused", "request", "answer")) if breaks else None
        try:
            async with asyncio.timeout(within_s):
                await self._node.away(0.005)
                process = self._find(BRIEF in raw)
                if process is None or how == "refused":
                    raise Unheard("nobody listens")
                if how == "request":
                    raise BrokenOff("the request was lost")
                task = self._background(_carried_out(process, path, headers, raw), process.node)
                process.connections.append(task)
                await asyncio.wait([task])  # a caller that gives up does not stop ingest
                await self._node.away(0.005)
        except TimeoutError as error:
            raise BrokenOff("no answer in time") from error
        if task.cancelled() or how == "answer":
            raise BrokenOff("the answer was lost")
        return PeerAnswer(*task.result())


async def _carried_out(
    process: Process, path: str, headers: Mapping[str, str], raw: bytes
) -> tuple[int, Mapping[str, str], bytes]:
    """What an ingest answers, as its internal port does (`services.ingest.routes`)."""
    assert process.commands is not None
    assert process.desk is not None
    _, _, command, id = path.split("/")
    of, tenant = ResponseId(id), Tenant(headers.get(TENANT, ""))
    try:
        match command:
            case "create":
                order = msgspec.json.decode(headers[ORDER], type=Order)
                made = await process.desk.create(of, order, parse(raw))
                return 200, {}, msgspec.json.encode(made)
            case "cancel":
                return 200, {}, await process.commands.cancel(of, tenant)
            case "delete":
                await process.commands.delete(of, tenant)
            case _:
                await process.commands.abandon(of, tenant)
    except ApiError as error:
        return error.status, error.headers, bytes(error_answer(error).body)
    return 204, {}, b""


class Connection:
    """A client's connection with one request on it: what comes back, and when the client leaves."""

    def __init__(self, method: str, path: str, raw: bytes = b"", key: str | None = None) -> None:
        self.status = 0
        """The answer's status; 0 before its head."""
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.whole = False
        self.takes_nothing = False
        """The client reads nothing more and says nothing."""
        self.streaming = self.aborted = self.draining = self.stalled = False
        self._gone = asyncio.Event()
        self._asked = False
        self._raw = raw
        self._scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"sim"), *([(b"idempotency-key", key.encode())] if key else [])],
            "extensions": {EXTENSION: {"connection": self}},
        }

    async def serve(self, door: Edge) -> None:
        """Have the request answered."""
        await door(self._scope, self._receive, self._send)

    def push(self, body: bytes) -> bool:
        """Take a piece of the answer at once, unless the client takes nothing or has gone."""
        if self.takes_nothing or self.aborted or self._gone.is_set():
            return False
        self.body += body
        return True

    async def taken(self) -> None:
        """Wait until the client takes more, or has gone."""
        if self.takes_nothing:
            await self._gone.wait()

    untaken_bytes = 0

    async def all_taken(self) -> bool:
        """Wait until the client has taken all, or has gone."""
        await self.taken()
        return not self._gone.is_set()

    def leave(self) -> None:
        """The client goes."""
        self._gone.set()

    def abort(self) -> None:
        """The server resets the connection."""
        self.aborted = True
        self._gone.set()

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._raw, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self.taken()
        if self._gone.is_set():
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self.whole = not message.get("more_body", False)
