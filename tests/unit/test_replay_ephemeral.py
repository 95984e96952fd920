"""What replay shows of a response that is not stored, in the background: until log time says that its time is
over (P-85), whatever else is known by then.
"""

import asyncio
import json

import pytest

from schemas.errors import ApiError
from schemas.records import NewRecord
from schemas.steps import finished
from services.connect import projector_group
from services.eventlog.memory import MemoryLog
from services.eventlog.topics import topics
from services.replay.app import Service
from services.replay.beats import LastBeat
from services.replay.replay import Deleted
from services.replay.window import Window
from services.settings import Settings
from services.web.internal import view_path
from tests.responses import Author
from tests.unit.test_replay_routes import site
from tests.unit.test_replay_streams import find, new_log, read, replaying

NAMES = topics()
KEPT = int(Settings().ephemeral_s * 1000)
EVERY_ROUTE = ("", "?stream=true", "?stream=true&starting_after=3", "/input_items")


class Time:
    """A log whose time a test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000
        self.log = new_log(clock=lambda: self.now)

    async def closed(self, number: int = 1) -> Author:
        """An ephemeral response that has closed now."""
        author = await (await Author(self.log.writer(), number).accept(store=False)).take()
        return await (await author.say("one ", "two")).complete()

    async def beat(self, at: int) -> None:
        self.now = at
        await beat(self.log)


async def beat(log: MemoryLog) -> None:
    await log.writer().append(NAMES.executors, 0, NewRecord(b"exec_1", b"{}", [("kind", b"beat")]))


async def is_shown(service: Service, author: Author) -> bool:
    found = await service.replay.find(author.id)
    assert isinstance(found, Window | Deleted)
    return isinstance(found, Window)


async def test_the_last_beat_says_that_its_time_is_over() -> None:
    time = Time()
    author = await time.closed()
    end = author.ack.timestamp
    async with replaying(time.log, memory=0) as service:
        assert await read(service, author) == author.after(-1)
        await time.beat(end + KEPT)
        assert await read(service, author) == author.after(-1)
        await time.beat(end + KEPT + 1)
        assert not await is_shown(service, author)


async def test_what_came_after_it_in_its_partition_says_so_where_nobody_beats() -> None:
    time = Time()
    author = await time.closed()
    async with replaying(time.log) as service:
        time.now += KEPT + 1
        assert await is_shown(service, author)  # log time stands still
        await Author(time.log.writer(), 2).accept()
        assert not await is_shown(service, author)


async def test_while_it_is_open_no_time_hides_it() -> None:
    time = Time()
    author = await (await Author(time.log.writer(), 1).accept(store=False)).take()
    async with replaying(time.log) as service:
        await time.beat(time.now + 10 * KEPT)
        assert await is_shown(service, author)
        await author.complete()
        assert await is_shown(service, author)


async def test_what_all_expired_beats_had_ended_does_not_show_again() -> None:
    time = Time()
    author = await time.closed()
    await time.beat(time.now + KEPT + 1)
    time.log.retain(NAMES.executors, 0, 1)
    async with replaying(time.log) as service:
        assert not await is_shown(service, author)


async def test_where_the_beats_cannot_be_read_it_is_a_503_and_never_a_guess(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time = Time()
    ephemeral, stored = await time.closed(), await (await Author(time.log.writer(), 2).accept()).complete()
    bounds = time.log.bounds

    async def hanging(topic: str, partitions: object) -> object:
        if topic == NAMES.executors:
            await asyncio.Event().wait()
        return await bounds(topic, partitions)  # type: ignore[arg-type]

    async with replaying(time.log, barrier_s=1) as service:
        monkeypatch.setattr(time.log, "bounds", hanging)
        with pytest.raises(ApiError) as refused:
            await service.replay.find(ephemeral.id)
        assert refused.value.status == 503
        await find(service, stored)


async def test_a_replay_that_starts_finds_it_in_the_log_until_then() -> None:
    """The projector's watermark has stayed at its `accepted` (P-67)."""
    time = Time()
    before = await (await Author(time.log.writer(), 1).accept()).complete()
    author = await time.closed(2)
    time.now += KEPT // 2
    await Author(time.log.writer(), 3).accept()
    projector = await time.log.join(projector_group(Settings()), NAMES.events, lambda _: None)
    await projector.commit({0: author.accepted.offset}, {0: author.accepted.offset})
    async with replaying(time.log) as service:
        assert await read(service, author) == author.after(-1)
        assert before.id not in service.foldings[0].windows


async def test_its_window_is_let_go_when_it_is_over_and_not_before() -> None:
    time = Time()
    author = await time.closed()
    async with replaying(time.log) as service:
        await find(service, author)
        until = author.ack.timestamp + KEPT
        finished(service.foldings[0].forget(until, lambda _: False))
        assert author.id in service.foldings[0].windows
        assert author.id in service.foldings[0].fold
        finished(service.foldings[0].forget(until + 1, lambda _: False))
        assert author.id not in service.foldings[0].windows
        assert author.id not in service.foldings[0].fold


async def test_on_every_route_it_is_as_any_other_and_then_as_one_that_never_was() -> None:
    time = Time()
    author = await time.closed()
    async with site(time.log) as at:
        shown = await at.response(author)
        assert (shown["status"], shown["background"], shown["store"]) == ("completed", True, False)
        assert {(await at.get(f"/v1/responses/{author.id}{path}")).status for path in EVERY_ROUTE} == {200}
        headers = ["x-rejoinder-tenant: somebody-else"]
        foreign = [await at.get(f"/v1/responses/{author.id}{path}", headers) for path in EVERY_ROUTE]
        assert {answer.status for answer in foreign} == {404}
        view = json.loads((await at.get(view_path(author.id))).body)
        assert (view["deleted"], view["store"], view["background"]) == (False, False, True)

        await time.beat(time.now + KEPT + 1)
        for path in EVERY_ROUTE:
            answer = await at.get(f"/v1/responses/{author.id}{path}")
            assert answer.status == 404
            assert json.loads(answer.body)["error"]["message"].endswith("not found.")
        assert json.loads((await at.get(view_path(author.id))).body)["deleted"] is True


async def test_a_stream_that_began_before_its_time_was_over_still_ends() -> None:
    time = Time()
    author = await time.closed()
    async with replaying(time.log) as service:
        reading = service.replay.chunks(await find(service, author), -1)
        got = [await anext(reading)]
        await time.beat(time.now + KEPT + 1)
        finished(service.foldings[0].forget(time.now, lambda _: True))
        assert b"".join([*got, *[data async for data in reading]]) == author.after(-1)


async def test_no_beat_ever_is_no_time_and_many_who_ask_share_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    log, looks = new_log(clock=lambda: 77), 0
    last, bounds = LastBeat(log, NAMES.executors, 5), log.bounds

    async def counted(topic: str, partitions: object) -> object:
        nonlocal looks
        looks += 1
        return await bounds(topic, partitions)  # type: ignore[arg-type]

    assert await last.time() == 0
    await beat(log)
    monkeypatch.setattr(log, "bounds", counted)
    assert await asyncio.gather(*(last.time() for _ in range(50))) == [77] * 50
    assert looks <= 2
