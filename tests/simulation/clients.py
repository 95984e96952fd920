"""Clients: they create, wait, cancel and delete at the front doors, and try again as the SDKs do.

`Answers` checks against the truth at once what a client is told.
"""

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from schemas.ids import ResponseId, Tenant
from schemas.request import CreateRequest, parse
from tests.simulation.door import Connection
from tests.simulation.processes import Process

if TYPE_CHECKING:
    from tests.simulation.world import World

TENANT = Tenant("default")
TRIES = 8
"""How often a client sends a request before it gives up."""
PATIENCE = 30.0
"""Seconds that a client waits for its response on the connection of its POST."""
STALLED = 60.0
"""Seconds within which a client that takes nothing is dropped."""


class Wish(Struct, frozen=True, eq=False):
    """A response that a client wants made. `mark` is in the body: it tells where it came from.

    `brief`: asked of an ingest that gives runs little time.
    """

    request: CreateRequest
    mark: str
    key: str | None
    brief: bool


async def client(world: "World") -> None:
    """One response's clients: a POST, or two with one key; perhaps a cancel, a delete, the POST again."""
    rng, plan = world.rng, world.plan
    await asyncio.sleep(rng.uniform(0, plan.seconds * 0.8))
    twice = rng.random() < plan.repeats
    wishes = [wish(world, nonce(rng) if twice or rng.random() < plan.keyed else None)]
    if twice:  # the same key at another ingest; mostly with the same body
        other = wish(world, wishes[0].key) if rng.random() < 0.2 else wishes[0]
        wishes.append(other)
    made = await asyncio.gather(*(create(world, one) for one in wishes))
    asked_for, id = next((pair for pair in zip(wishes, made, strict=True) if pair[1]), (wishes[0], None))
    if id is not None:
        if asked_for.request.background and rng.random() < plan.cancels:
            await asyncio.sleep(rng.expovariate(1 / 3))
            await asyncio.gather(*(cancel(world, id) for _ in range(rng.choice((1, 2)))))
        if rng.random() < plan.deletes:
            await asyncio.sleep(rng.choice((0, rng.expovariate(1 / 3), rng.expovariate(1 / 15))))
            await delete(world, id)
    if asked_for.key and rng.random() < plan.returns:
        await asyncio.sleep(rng.expovariate(1 / plan.absence))
        await create(world, asked_for)


def wish(world: "World", key: str | None) -> Wish:
    """The wish of some client."""
    rng, plan = world.rng, world.plan
    kind = rng.choices(list(plan.kinds), list(plan.kinds.values()))[0]
    previous = rng.choice(world.created) if world.created and rng.random() < plan.chained else None
    mark = nonce(rng)
    words, interval = str(rng.randint(1, plan.words)), str(rng.choice((0, 50, 500)))
    body: dict[str, Any] = {"model": kind, "input": "a b c"}
    body["metadata"] = {"mark": mark, "echo.tokens": words, "echo.interval_ms": interval}
    body["store"] = rng.random() >= plan.unstored
    body["background"] = rng.random() < (plan.background if body["store"] else plan.ephemeral)
    body["stream"] = rng.random() < plan.streams
    if previous:
        body["previous_response_id"] = previous
    endless = kind in ("silent", "stubborn")
    hurried = rng.random() < (plan.endless if endless else 0 if plan.lossless else plan.hurries)
    if hurried:
        body["metadata"]["brief"] = "1"
    return Wish(parse(msgspec.json.encode(body)), mark, key, hurried)


def nonce(rng: Random) -> str:
    """A fresh one."""
    return rng.randbytes(4).hex()


async def create(world: "World", wish: Wish) -> ResponseId | None:
    """POST until the answer is final, or the client leaves. Returns the id, if the client heard it."""
    for _ in range(TRIES):
        process = _listening(world)
        if process is None or process.door is None:
            await asyncio.sleep(1)
            continue
        connection = Connection("POST", "/v1/responses", wish.request.raw, wish.key)
        left = await _posted(world, process, wish, connection)
        id = world.answers.heard(wish, connection, process)
        if left:
            world.answers.left(wish, process)
            return id
        if id is not None:
            return id
        if connection.status == 0 or not connection.whole:
            if wish.key is None:
                return None  # it may be there or not, and a repetition could make a second one
        elif connection.status not in (429, 503) or connection.headers.get("x-should-retry") == "false":
            return None
        await asyncio.sleep(world.rng.expovariate(1 / 2))
    return None


async def _posted(world: "World", process: Process, wish: Wish, connection: Connection) -> bool:
    """Wait for the answer, perhaps not to its end, perhaps taking nothing: whether the client left (A-7)."""
    rng, plan = world.rng, world.plan
    serving = _served(world, process, connection)
    patience = PATIENCE
    if rng.random() < plan.leaves:
        patience = rng.expovariate(1 / rng.choice((0.01, 0.1, 3)))
        if wish.request.stream and rng.random() < 0.3:
            await asyncio.wait([serving], timeout=patience)
            connection.takes_nothing, patience = True, STALLED
    await asyncio.wait([serving], timeout=patience)
    if not serving.done():
        connection.leave()
        return True
    return connection.takes_nothing and not connection.whole


async def cancel(world: "World", id: ResponseId) -> None:
    """Send the cancel until a final answer comes."""
    world.answers.cancels.add(id)
    said = await _insisted(world, "POST", f"/v1/responses/{id}/cancel")
    if said is not None:
        world.answers.cancelled(id, said)


async def delete(world: "World", id: ResponseId) -> None:
    """Send the delete until a final answer comes."""
    said = await _insisted(world, "DELETE", f"/v1/responses/{id}")
    if said is not None:
        world.answers.deleted(id, said)


async def _insisted(world: "World", method: str, path: str) -> Connection | None:
    """The final answer of some front door."""
    for _ in range(TRIES):
        process = _listening(world)
        if process is not None:
            connection = Connection(method, path)
            await asyncio.wait([_served(world, process, connection)], timeout=PATIENCE)
            if connection.whole and connection.status != 503:
                return connection
            connection.leave()
        await asyncio.sleep(world.rng.expovariate(1))
    return None


def _served(world: "World", process: Process, connection: Connection) -> "asyncio.Task[Any]":
    assert process.door is not None
    serving = world.background(connection.serve(process.door), process.node)
    process.clients.append(connection)
    process.connections.append(serving)
    return serving


def _listening(world: "World") -> Process | None:
    processes = [process for process in world.processes.values() if process.door is not None]
    return world.rng.choice(processes) if processes else None
