"""Clients: they create, wait, cancel and delete at ingests, and try again as the SDKs do.

What a client is told is held against the truth at once (`Answers`).
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from starlette.types import ASGIApp, Message, Receive, Send

from schemas.errors import ApiError
from schemas.ids import ResponseId, Tenant
from schemas.request import CreateRequest, parse
from services.ingest import decide
from services.ingest.commands import Commands, Created
from services.web.stream import Disconnected
from tests.simulation.ingest import brief
from tests.simulation.processes import Process

if TYPE_CHECKING:
    from tests.simulation.world import World

TENANT = Tenant("sim")
TRIES = 8
"""How often a client sends a request before it gives up."""
PATIENCE = 30.0
"""Seconds that a client waits for its response on the connection of its POST."""


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
    asked_for, created = next((pair for pair in zip(wishes, made, strict=True) if pair[1]), (wishes[0], None))
    if created is None:
        return
    if not asked_for.request.background:
        await wait(world, asked_for, created)
    elif rng.random() < plan.cancels:
        await asyncio.sleep(rng.expovariate(1 / 3))
        await asyncio.gather(*(cancel(world, created) for _ in range(rng.choice((1, 2)))))
    if rng.random() < plan.deletes:
        await asyncio.sleep(rng.choice((0, rng.expovariate(1 / 3), rng.expovariate(1 / 15))))
        await delete(world, created.id)
    if asked_for.key and rng.random() < plan.returns:
        await asyncio.sleep(rng.expovariate(1 / plan.absence))
        await create(world, asked_for)


def wish(world: "World", key: str | None) -> Wish:
    """What some client wants."""
    rng, plan = world.rng, world.plan
    kind = rng.choices(list(plan.kinds), list(plan.kinds.values()))[0]
    previous = rng.choice(world.created) if world.created and rng.random() < plan.chained else None
    mark = nonce(rng)
    words, interval = str(rng.randint(1, plan.words)), str(rng.choice((0, 50, 500)))
    body: dict[str, Any] = {"model": kind, "input": "a b c"}
    body["metadata"] = {"mark": mark, "echo.tokens": words, "echo.interval_ms": interval}
    body["store"] = rng.random() >= plan.unstored
    body["background"] = rng.random() < (0.8 if body["store"] else plan.ephemeral)
    if previous:
        body["previous_response_id"] = previous
    endless = kind in ("silent", "stubborn")
    hurried = endless or (not plan.lossless and rng.random() < 0.2)
    return Wish(parse(msgspec.json.encode(body)), mark, key, hurried)


def nonce(rng: Random) -> str:
    """A fresh one."""
    return rng.randbytes(4).hex()


async def create(world: "World", wish: Wish) -> Created | None:
    """POST until it is answered for good; None when nothing came of it, as far as the client knows."""
    for _ in range(TRIES):
        said = await asked(world, lambda it: it.create(wish.request, TENANT, wish.key), in_brief=wish.brief)
        if isinstance(said, Created):
            world.answers.created(wish, said)
            return said
        world.answers.not_created(wish, said)
        if said is None:
            if wish.key is None:
                return None  # it may be there or not, and a repetition could make a second one
        elif said.status not in (429, 503) or said.headers.get("x-should-retry") == "false":
            return None
        await asyncio.sleep(world.rng.expovariate(1 / 2))
    return None


async def wait(world: "World", wish: Wish, created: Created) -> None:
    """Wait for the final object, as on the connection of the POST; perhaps not to the end (A-7)."""
    process = _listening(world, wish.brief)
    if process is None or process.attachments is None:
        return
    cancels, said, gone = decide.ends_with_its_client(wish.request, wish.key), bytearray(), asyncio.Event()

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        said.extend(message.get("body", b""))

    app = process.attachments.attach(created, stream=False, cancels=cancels, keyed=wish.key is not None)
    connection = world.background(_connected(app, receive, send), process.node)
    process.connections.append(connection)
    impatient = world.rng.random() < world.plan.cancels
    await asyncio.wait([connection], timeout=world.rng.expovariate(1 / 3) if impatient else PATIENCE)
    if not connection.done():
        world.answers.left(created.id, back=wish.key is not None)
        gone.set()
    elif said:
        world.answers.awaited(created.id, bytes(said))


async def _connected(app: ASGIApp, receive: Receive, send: Send) -> None:
    with suppress(ApiError, Disconnected):  # the client hears 503, 404, or nothing any more
        await app({"type": "http"}, receive, send)


async def cancel(world: "World", created: Created) -> None:
    """Cancel until it is answered."""
    world.answers.cancels.add(created.id)
    for _ in range(TRIES):
        said = await asked(world, lambda it: it.cancel(created.id, TENANT))
        if said is not None and not (isinstance(said, ApiError) and said.status == 503):
            world.answers.cancelled(created.id, said)
            return
        await asyncio.sleep(world.rng.expovariate(1))


async def delete(world: "World", id: ResponseId) -> None:
    """Delete until it is answered."""
    for _ in range(TRIES):
        said = await asked(world, lambda it: _deleted(it, id))
        if said is not None and not (isinstance(said, ApiError) and said.status == 503):
            world.answers.deleted(id, said)
            return
        await asyncio.sleep(world.rng.expovariate(1))


async def _deleted(commands: Commands, id: ResponseId) -> bool:
    await commands.delete(id, TENANT)
    return True


async def asked(
    world: "World", command: Callable[[Commands], Coroutine[Any, Any, Any]], *, in_brief: bool = False
) -> Any:
    """What some ingest answers, ApiErrors included; None when the connection breaks or nobody listens."""
    process = _listening(world, in_brief)
    if process is None or process.commands is None:
        await asyncio.sleep(1)
        return None
    task = world.background(command(process.commands), process.node)
    process.connections.append(task)
    await asyncio.wait([task])
    if task.cancelled():
        return None
    error = task.exception()
    if error is not None and not isinstance(error, ApiError):
        world.bad("A-22 an ingest's own error", process.name, repr(error))
        return None
    return error or task.result()


def _listening(world: "World", in_brief: bool) -> Process | None:
    processes = [
        process
        for process in world.processes.values()
        if process.commands is not None and brief(process.name) == in_brief and not process.stop.is_set()
    ]
    return world.rng.choice(processes) if processes else None
