"""Which replay is asked about which partition: by what each said last, and who answers."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest

from schemas.errors import ApiError, misrouted
from schemas.ids import ResponseId, response_id
from services.broker.tcp import free_port
from services.web import replays as module
from services.web.answers import error_answer
from services.web.internal import (
    LOAD_PATH,
    SERVING_PATH,
    Load,
    NotServed,
    PartitionLoad,
    ReplayAway,
    ResponseView,
    Serving,
    turn_path,
)
from services.web.peer import Peer
from services.web.replay_client import ReplayClient
from services.web.replays import Replays
from tests.conftest import eventually
from tests.upstreams import Call, raw

COUNT = 6


def id_in(partition: int) -> ResponseId:
    return response_id(partition, bytes(16))


class Replica:
    """Answers as a replay that serves some partitions. `hangs`: it takes requests and answers nothing."""

    def __init__(self, *partitions: int, names: Sequence[str] = ()) -> None:
        self.partitions = list(partitions)
        self.names = list(names)
        self.caught_up = True
        self.speaks = True
        """Whether it knows the path on which replays say what they serve."""
        self.hangs = False
        self.asked: list[str] = []
        self.url = ""

    async def answer(self, call: Call) -> None:
        if self.hangs:
            await call.hung_up.wait()
            return
        if call.path == SERVING_PATH:
            said = Serving(self.partitions, COUNT, 8000, self.names, self.caught_up)
            await call.answer(*((200, msgspec.json.encode(said)) if self.speaks else (404, {"error": {}})))
            return
        self.asked.append(call.path)
        if call.path == LOAD_PATH:
            parts = {partition: PartitionLoad(7, {}) for partition in self.partitions}
            await call.answer(200, msgspec.json.encode(Load(0, {}, [], parts)))
            return
        id = ResponseId(call.path.split("/")[3].partition("?")[0])
        partition = int(id[5:9], 16)
        if partition in self.partitions:
            await call.answer(200, msgspec.json.encode(ResponseView(id, found=True)))
        else:
            await call.answer(503, bytes(error_answer(misrouted(partition)).body))

    @asynccontextmanager
    async def up(self) -> AsyncIterator["Replica"]:
        async with raw(self.answer) as server:
            self.url = server.url.rstrip("/")
            yield self


@asynccontextmanager
async def knowing(*urls: str) -> AsyncIterator[Replays]:
    """The replays at `urls`, which are asked until the end of the block."""
    replays = Replays.at(urls, Peer)
    asking = asyncio.create_task(replays.run())
    try:
        yield replays
    finally:
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        await replays.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERIOD_S", 0.01)


def all_heard(replays: Replays) -> bool:
    return all(port.serving is not None for port in replays)


async def test_each_partition_is_asked_of_the_replay_that_serves_it() -> None:
    async with (
        Replica(0, 1).up() as first,
        Replica(2, 3).up() as second,
        knowing(first.url, second.url) as replays,
    ):
        await eventually(lambda: all_heard(replays))
        client = ReplayClient(replays)
        for partition in (0, 3, 1, 2):
            assert (await client.view(id_in(partition))).found
        assert (len(first.asked), len(second.asked)) == (2, 2)
        assert {part for load in await client.loads() for part in load.by_partition()} == {0, 1, 2, 3}


async def test_a_partition_that_nobody_serves_is_misrouted_and_says_how_to_mend_it() -> None:
    async with Replica(0).up() as only, knowing(only.url) as replays:
        await eventually(lambda: all_heard(replays))
        with pytest.raises(ApiError, match=r"partition 5 .* REJOINDER_SHARD") as refused:
            await ReplayClient(replays).view(id_in(5))
        assert (refused.value.status, refused.value.code) == (503, "misrouted")
        with pytest.raises(NotServed):
            await ReplayClient(replays).turn(id_in(5))
    assert turn_path(id_in(5)) not in only.asked


async def test_of_a_partition_that_no_replay_knows_any_can_tell() -> None:
    """It may have been added, or there is none: a client's id says nothing of that."""
    async with Replica(0).up() as only, knowing(only.url) as replays:
        await eventually(lambda: all_heard(replays))
        only.partitions.append(COUNT)
        assert (await ReplayClient(replays).view(id_in(COUNT))).found
        assert not replays.served(COUNT + 1)


async def test_before_they_have_said_what_they_serve_each_is_tried() -> None:
    async with Replica(0).up() as first, Replica(1).up() as second:
        replays = Replays.at([first.url, second.url], Peer)
        for _ in range(2):  # whoever is asked first
            assert (await ReplayClient(replays).view(id_in(1))).found
        await replays.close()


async def test_a_replay_of_a_version_before_serves_all() -> None:
    async with Replica(0, 1).up() as old, knowing(old.url) as replays:
        old.speaks = False
        assert (await ReplayClient(replays).view(id_in(1))).found
        assert [port.answers for port in replays] == [True]


async def test_a_replay_that_others_name_is_asked_too_and_forgotten_with_them() -> None:
    """So a list from before the shards were changed does no harm."""
    async with (
        Replica(1).up() as new,
        Replica(0, names=[new.url]).up() as old,
        knowing(old.url) as replays,
    ):
        await eventually(lambda: replays.served(1))
        assert (await ReplayClient(replays).view(id_in(1))).found
        old.names, new.hangs = [], True
        for port in replays:
            port.answers = port.url.rstrip("/") != new.url  # as a question to it that failed
        await eventually(lambda: [port.url.rstrip("/") for port in replays] == [old.url])


async def test_what_a_replay_said_last_holds_while_another_serves_more() -> None:
    """Amid a change of the shards two serve a partition; one of them does no more when it is asked."""
    async with (
        Replica(0, 1).up() as before,
        Replica(1, 2).up() as after,
        knowing(before.url, after.url) as replays,
    ):
        await eventually(lambda: all_heard(replays))
        client = ReplayClient(replays)
        for _ in range(4):
            assert (await client.view(id_in(1))).found
        assert before.asked  # both had their turns
        assert after.asked
        before.partitions = [0]  # whether or not it has been asked since
        for _ in range(4):
            assert (await client.view(id_in(1))).found


async def test_a_replay_that_is_gone_is_passed_over_and_one_that_hangs_holds_nobody_up() -> None:
    async with Replica(0).up() as there, Replica(0, 1).up() as hanging:
        gone = f"http://127.0.0.1:{free_port()}"
        async with knowing(gone, there.url, hanging.url) as replays:
            await eventually(lambda: sum(port.serving is not None for port in replays) == 2)
            client = ReplayClient(replays)
            for _ in range(3):
                assert (await client.view(id_in(0))).found
            hanging.hangs = True
            for port in replays:
                port.answers = port.url.rstrip("/") == there.url
            assert [sorted(load.by_partition()) for load in await client.loads()] == [[0]]
            assert replays.served(0)
            assert not replays.served(1)


async def test_a_replay_that_still_reads_the_log_is_asked_last() -> None:
    async with (
        Replica(0, 1).up() as reading,
        Replica(0, 1).up() as ready,
        knowing(reading.url, ready.url) as replays,
    ):
        reading.caught_up = False
        await eventually(lambda: all_heard(replays) and [port.behind for port in replays] == [True, False])
        for _ in range(3):
            assert (await ReplayClient(replays).view(id_in(1))).found
        assert not reading.asked
        first = next(port for port in replays.answering()).url.rstrip("/")
        assert (first, replays.owner(1).rstrip("/")) == (ready.url, ready.url)
        reading.caught_up = True
        await eventually(lambda: not any(port.behind for port in replays))
        for _ in range(2):
            assert (await ReplayClient(replays).view(id_in(1))).found
        assert reading.asked


def test_a_replay_of_a_version_that_does_not_tell_has_caught_up() -> None:
    assert msgspec.json.decode(b'{"partitions": [0], "count": 1, "port": 8000}', type=Serving).caught_up


async def test_with_all_gone_the_load_is_not_known() -> None:
    replays = Replays.at([f"http://127.0.0.1:{free_port()}"], Peer)
    with pytest.raises(ReplayAway):
        await ReplayClient(replays).loads()
    await replays.close()
