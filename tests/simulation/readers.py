"""Readers: they follow responses at replays while they go on, and look at everything in the end."""

import asyncio
import json
from random import Random
from typing import TYPE_CHECKING

from schemas.errors import ApiError, LogError
from services.replay.reader import Cut
from services.replay.replay import Deleted, Packed
from services.replay.window import Window
from tests.simulation.processes import Process
from tests.simulation.truth import Story

if TYPE_CHECKING:
    from tests.simulation.world import World


TAKEN = 0.7
"""How much of what is pushed a client takes at once."""


async def follow(world: "World", process: Process, story: Story) -> None:
    """Read one response from `process` while it goes on, from a random cursor, to whatever end it has."""
    assert process.reader is not None
    replay = process.reader.replay
    cursor = world.rng.choice((-1, -1, world.rng.randint(0, 12)))
    known = story.accepted is not None and (story.ephemeral or not story.closed)
    log_time = world.promises.log_time(story.id)
    try:
        found = await replay.find(story.id)
        if not isinstance(found, Window | Packed) and known and story.seen(world.now()):
            world.bad("P-80 a false 404", process.name, story.id)
        if isinstance(found, Window) and story.over(log_time):
            world.bad("P-85 shown after its time", process.name, story)
        if not isinstance(found, Window | Packed):
            return
        got, chance = list[bytes](), Random(f"{story.id}{cursor}")

        def push(data: bytes) -> bool:
            if taken := chance.random() < TAKEN:
                got.append(data)
            return taken

        async for data in replay.chunks(found, cursor, push):
            got.append(data)  # between what is pushed
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
            except (ApiError, LogError, Cut, TimeoutError) as error:
                world.bad("P-80 a reader that cannot answer", process.name, story, repr(error))


async def _audit(world: "World", process: Process, story: Story) -> None:
    assert process.reader is not None
    replay = process.reader.replay
    found = await replay.find(story.id)
    shown = isinstance(found, Window | Packed) and found.visible
    if not story.readable:
        if shown and (story.closed or story.accepted is None):
            world.bad("P-72 shown though deleted, not stored or never accepted", process.name, story)
        if story.deleted and not isinstance(found, Deleted | None):
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
