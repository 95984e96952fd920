"""Shards: contiguous blocks of partitions, what settings name, and how long another shard is waited for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import ASGIApp
from yarl import URL

from schemas.errors import SettingsError
from schemas.shards import Shard, parse_shard, partitions_of
from services.fits import between_commas
from services.replay import shards as module
from services.replay.app import served_by
from services.replay.folding import Folding, Foldings
from services.replay.shards import Shards
from services.settings import Settings, load
from services.web.edge import route
from services.web.internal import SERVING_PATH, Serving
from services.web.peer import Peer
from services.web.replays import Replays
from tests.conftest import PATIENCE, eventually
from tests.ingesting import error_of
from tests.serving import ask, opened, serving
from tests.upstreams import Call, raw


@given(st.data(), st.integers(1, 300))
def test_every_partition_belongs_to_one_shard_and_each_shard_is_a_block(
    data: st.DataObject, count: int
) -> None:
    shards = data.draw(st.integers(1, count))
    blocks = [Shard(index, shards).partitions(count) for index in range(shards)]
    assert [partition for block in blocks for partition in block] == list(range(count))
    assert all(p * shards // count == index for index, block in enumerate(blocks) for p in block)
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1
    assert all(blocks)


@given(st.data(), st.integers(1, 100), st.integers(0, 100))
def test_restarted_in_their_order_shards_leave_nothing_unserved_when_partitions_are_added(
    data: st.DataObject, count: int, more: int
) -> None:
    shards = data.draw(st.integers(1, count))
    for restarted in range(shards + 1):
        counts = [count + more if index < restarted else count for index in range(shards)]
        served = {p for index, known in enumerate(counts) for p in Shard(index, shards).partitions(known)}
        assert served >= set(range(count))


@pytest.mark.parametrize("text", ["", "3", "3/3", "1/0", "-1/3", "1/3/4", "a/b", "01/3", "1 / 3", "0/100000"])
def test_what_names_no_shard(text: str) -> None:
    assert parse_shard(text) is None


def test_a_replay_may_serve_several_shards_of_two_counts_while_the_count_changes() -> None:
    assert partitions_of([Shard(0, 2), Shard(0, 3)], 8) == {0, 1, 2, 3}
    assert partitions_of([Shard(1, 2), Shard(1, 3)], 8) == {3, 4, 5, 6, 7}
    assert partitions_of([], 8) == set(range(8))


def test_settings_name_shards() -> None:
    given = {"REJOINDER_SHARD": "0/2, 0/3", "REJOINDER_REPLAY_URL": "http://localhost:1, http://localhost:2"}
    chosen = load(given)
    assert chosen.shards == (Shard(0, 2), Shard(0, 3))
    assert between_commas(chosen.replay_url) == ("http://localhost:1", "http://localhost:2")
    assert served_by(chosen, 6) == {0, 1, 2}
    assert served_by(load({}), 2) == {0, 1}


def test_more_shards_than_partitions_cannot_be() -> None:
    chosen = load({"REJOINDER_SHARD": "8/9", "REJOINDER_REPLAY_URL": "http://localhost:1"})
    with pytest.raises(SettingsError, match=r"^REJOINDER_SHARD: 8/9 .*8 partitions.*topics --partitions"):
        served_by(chosen, 8)


def test_a_shard_must_say_where_the_others_are() -> None:
    with pytest.raises(SettingsError, match=r"^REJOINDER_REPLAY_URL: needed with REJOINDER_SHARD"):
        load({"REJOINDER_SHARD": "0/2"})


class Far:
    """Both ports of a replay that serves partition 0 of 1. If it `begins`, a read gets the head of a
    stream and an event; then nothing comes.
    """

    def __init__(self, *, begins: bool = False) -> None:
        self._begins = begins
        self.url = ""
        self.asked = 0

    async def answer(self, call: Call) -> None:
        if call.path == SERVING_PATH:
            said = Serving([0], 1, URL(self.url).port or 0)
            await call.answer(200, msgspec.json.encode(said))
            return
        if call.path == "/livez":
            await call.answer(200, {})
            return
        self.asked += 1
        if self._begins:
            await call.head()
            await call.events({"type": "response.created"})
        await call.hung_up.wait()


def folded_nowhere(partition: int) -> Folding:
    raise AssertionError(f"partition {partition} is not served here")


@asynccontextmanager
async def passing_on(*far: Far, heard: bool = True) -> AsyncIterator[tuple[Shards, int]]:
    """A shard that passes every read on, and its port. `heard`: it knows what the others serve."""
    async with AsyncExitStack() as stack:
        for each in far:
            each.url = (await stack.enter_async_context(raw(each.answer))).url
        replays = Replays([Peer(each.url) for each in far])
        settings = Settings(barrier_s=0.1, keepalive_s=0.1)
        shards = Shards(replays, Foldings(folded_nowhere, (), 1), settings)
        stack.push_async_callback(shards.close)

        async def read(request: Request) -> ASGIApp:
            return await shards.pass_on(request, 0)

        asking = asyncio.create_task(replays.run()) if heard else None
        if asking is not None:
            await eventually(lambda: all(port.serves(0) for port in replays))
            asking.cancel()
        _, port = await stack.enter_async_context(serving([route("GET", "/x", read)]))
        yield shards, port


async def test_a_replay_that_says_nothing_more_cuts_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_SILENCE_S", 0.0)
    async with passing_on(Far(begins=True)) as (shards, port):
        assert shards.silence_s == pytest.approx(0.3)
        reader, writer = await opened(port, "GET /x")
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b"response.created")
            with pytest.raises(ConnectionResetError):
                await reader.read()
        writer.close()


async def test_all_that_are_asked_have_one_time_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEAD_S", 0.1)
    far = [Far(), Far(), Far()]
    async with passing_on(*far) as (_, port), asyncio.timeout(PATIENCE):
        refused = await ask(port, "GET /x")
    assert (refused.status, error_of(refused)["code"]) == (503, "service_unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    assert sum(each.asked for each in far) == 1, "the first took the time of all"


async def test_who_was_never_heard_may_serve_it_so_it_is_not_misrouted() -> None:
    far = Far()
    async with passing_on(far, heard=False) as (_, port):
        refused = await ask(port, "GET /x")
    assert (refused.status, error_of(refused)["code"]) == (503, "service_unavailable")
    assert not far.asked
