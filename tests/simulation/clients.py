"""Clients: they post, cancel and delete behind ingest's back, and read from replays as they are."""

import asyncio
import json
from random import Random
from typing import TYPE_CHECKING

from schemas import response
from schemas.errors import ApiError
from schemas.ids import ResponseId, Tenant, response_id
from schemas.records import Accepted, Cancelled, Deleted
from services.replay.reader import Cut
from services.replay.replay import Deleted as DeletedFound
from services.replay.replay import Packed
from services.replay.window import Window
from tests.simulation.processes import PARTITIONS, Process
from tests.simulation.truth import Story

if TYPE_CHECKING:
    from tests.simulation.world import World

TENANT = Tenant("sim")


class Post(Accepted, frozen=True):
    """An `accepted` under way."""


async def client(world: "World") -> None:
    """One response's clients: a POST, perhaps twice, perhaps late; a cancel, a delete, perhaps."""
    rng, plan = world.rng, world.plan
    await asyncio.sleep(rng.uniform(0, plan.seconds * 0.8))
    partition = rng.randrange(PARTITIONS)
    previous = rng.choice(list(world.posted)) if world.posted and rng.random() < plan.chained else None
    id = response_id(partition, rng.randbytes(16))
    world.posted[id] = rng.choices(list(plan.kinds), list(plan.kinds.values()))[0]
    terms = _terms(world, id, previous)
    post(world, id, previous, terms, rng.randint(1, plan.words))
    if rng.random() < plan.repeats:  # the same key at another ingest, which looked before the first appended
        world.later(
            rng.choice((0.1, 5, 18, 25)), post, world, id, previous, terms, rng.randint(1, plan.words)
        )
    if rng.random() < plan.cancels:
        await asyncio.sleep(rng.expovariate(1 / 3))
        for _ in range(rng.choice((1, 2))):
            world.put(id, Cancelled(id, nonce(rng), TENANT).new(cancelled_object(id)))
    if rng.random() < plan.deletes:
        await asyncio.sleep(rng.choice((0, rng.expovariate(1 / 3), rng.expovariate(1 / 15))))
        offset = world.story(id).offset
        world.put(id, Deleted(id, nonce(rng), TENANT, offset).new())


def _terms(world: "World", id: ResponseId, previous: ResponseId | None) -> Accepted:
    rng, now = world.rng, world.now()
    limit = rng.choice((8_000, 100_000)) if world.posted[id] not in ("silent", "stubborn") else 12_000
    if world.plan.lossless:
        limit = 100_000
    return Accepted(
        id,
        nonce(rng),
        TENANT,
        "sha",
        not_after=now + world.settings.window_ms,
        deadline=now + limit,
        background=rng.random() < 0.7,
        store=rng.random() >= world.plan.unstored,
        previous=previous,
    )


def post(world: "World", id: ResponseId, previous: ResponseId | None, terms: Accepted, words: int) -> None:
    """One POST arrives at the log, with a body of its own."""
    rng = world.rng
    metadata = {"echo.tokens": str(words), "echo.interval_ms": str(rng.choice((0, 50, 500)))}
    body = {"model": world.posted[id], "background": terms.background, "store": terms.store, "input": "a b c"}
    body |= {"metadata": metadata} | ({"previous_response_id": previous} if previous else {})
    initial = response.initial(body, id, 0, "echo")
    value = json.dumps({"request": body, "response": initial}, separators=(",", ":")).encode()
    again = Accepted(
        **{name: getattr(terms, name) for name in terms.__struct_fields__} | {"nonce": nonce(rng)}
    )
    world.put(id, again.new(value))


def nonce(rng: Random) -> str:
    """A fresh one."""
    return rng.randbytes(4).hex()


def cancelled_object(id: ResponseId) -> bytes:
    """The final object of a cancel."""
    return json.dumps({"id": id, "object": "response", "status": "cancelled", "output": []}).encode()


# Reading.


async def follow(world: "World", process: Process, story: Story) -> None:
    """Read one response from `process` while it goes on, from a random cursor, to whatever end it has."""
    assert process.reader is not None
    replay = process.reader.replay
    cursor = world.rng.choice((-1, -1, world.rng.randint(0, 12)))
    known = story.accepted is not None and not story.closed
    try:
        found = await replay.find(story.id)
        if found is None and known and not (story.deleted or story.hidden):
            world.bad("P-80 a false 404", process.name, story.id)
        if not isinstance(found, Window | Packed):
            return
        got = [data async for data in replay.chunks(found, cursor)]
    except ApiError:
        return  # 503: honest
    except Cut:
        return  # seen as a broken connection
    if not story.deleted and b"".join(got) != b"".join(story.frames[cursor + 1 :]):
        world.bad("P-81 a reader got something else", process.name, story, cursor, b"".join(got))
    elif not story.closed:
        world.bad("A-2 a stream ended early", process.name, story.id)


async def audit(world: "World", process: Process) -> None:
    """At the end: this replay gives exactly the truth for every response, from any cursor."""
    for truth in world.truth:
        for story in list(truth.stories.values()):
            try:
                async with asyncio.timeout(20):
                    await _audit(world, process, story)
            except (ApiError, Cut, TimeoutError) as error:
                world.bad("P-80 a reader that cannot answer", process.name, story, repr(error))


async def _audit(world: "World", process: Process, story: Story) -> None:
    assert process.reader is not None
    replay = process.reader.replay
    found = await replay.find(story.id)
    shown = isinstance(found, Window | Packed) and found.stored
    if not story.readable:
        if shown and (story.closed or story.accepted is None):
            world.bad("P-72 shown though deleted, not stored or never accepted", process.name, story)
        if story.deleted and not isinstance(found, DeletedFound | None):
            world.bad("P-72 deleted, and still there", process.name, story)
        return
    if not isinstance(found, Window | Packed):
        world.bad("P-80 a false 404", process.name, story, repr(found))
        return
    for cursor in (-1, world.rng.randint(0, len(story.frames))):
        got = b"".join([data async for data in replay.chunks(found, cursor)])
        if got != b"".join(story.frames[cursor + 1 :]):
            world.bad("P-81 readers differ", process.name, story, cursor, got)
    if json.loads(await replay.object(found)) != story.final:
        world.bad("P-70 a GET shows something else", process.name, story)
