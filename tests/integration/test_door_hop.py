"""The hop from the front door to ingest: what breaks, is sent again, and is told of it (A-10, P-20)."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from schemas.errors import unavailable
from schemas.ids import partition_of
from services.broker.tcp import free_port
from services.eventlog.memory import MemoryLog
from services.points import Point
from services.replay import door
from services.replay.door import Visit
from services.replay.ingest_client import IngestClient
from services.replay.replay import Replay
from services.web import pulse
from services.web.ask import PIECE_BYTES
from services.web.commands import Elsewhere
from services.web.replay_client import ReplayClient
from tests.conftest import PATIENCE, eventually
from tests.ingesting import PARTITIONS, SECRET, Ingesting, error_of, executing, ingesting
from tests.points import when
from tests.serving import HOST, ask
from tests.steady import steady
from tests.upstreams import Call, raw

Break = Literal["request lost", "answer lost"]
UNKNOWN = "resp_" + "0" * 36
KEY = "Idempotency-Key: once"


class Wire:
    """What is between the front door and ingest. Its next connections break as told, one each."""

    def __init__(self, ingest_port: int) -> None:
        self.breaks: list[Break] = []
        self.carried = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._carrying: set[asyncio.Task[None]] = set()
        self.port = free_port()
        self._ingest_port = ingest_port
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._carrying.add(asyncio.create_task(self._carry(reader, writer)))

        self._server = await asyncio.start_server(carry, HOST, self.port)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        if self._carrying:
            await asyncio.wait(self._carrying, timeout=PATIENCE)

    def cut(self) -> None:
        """Break every connection that there is now."""
        while self._open:
            self._open.pop().transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request and its answer, then the connection ends."""
        how = self.breaks.pop(0) if self.breaks else None
        self._open.add(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(int(length.split(b":")[1]))
        self.carried += 1
        if how != "request lost":
            onward, back = await asyncio.open_connection(HOST, self._ingest_port)
            back.write(head.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + body)
            answer = await onward.read()
            back.close()
            if how != "answer lost" and writer in self._open:
                writer.write(answer)
        if writer in self._open:
            self._open.remove(writer)
            writer.close()


@asynccontextmanager
async def wired(**changes: Any) -> AsyncIterator[tuple[Ingesting, Wire]]:
    async with ingesting(**changes) as running:
        wire = Wire(running.ingest_settings.internal_port)
        await wire.open()
        await reached_at(running, wire.port)
        try:
            yield running, wire
        finally:
            await wire.close()


async def reached_at(running: Ingesting, port: int, **changes: Any) -> None:
    """Start replay again, which then looks for ingest at `port`."""
    await running.stop("replay")
    ingest_url = f"http://{HOST}:{port}"
    running.replay_settings = replace(running.replay_settings, ingest_url=ingest_url, **changes)
    await running.start_replay()
    await eventually(running.ready)


@pytest.mark.parametrize(
    "breaks", [["request lost"], ["answer lost"], ["answer lost", "request lost"]], ids=str
)
@pytest.mark.parametrize("key", [None, KEY])
async def test_a_hop_that_breaks_is_made_again_and_makes_one_response(
    breaks: list[Break], key: str | None
) -> None:
    async with wired() as (running, wire):
        wire.breaks = list(breaks)
        made = await running.create(*([key] if key else []))
        assert wire.carried == len(breaks) + 1
        assert {accepted.id for accepted in running.accepted()} == {made["id"]}
        assert json.loads((await running.get(made["id"])).body) == made


POINTS: tuple[Point, ...] = ("create taken", "append due", "append acknowledged")


@pytest.mark.parametrize("keyed", [False, True])
async def test_a_hop_that_breaks_at_any_point_of_a_create_makes_one_response(keyed: bool) -> None:
    async with wired() as (running, wire):
        for number, point in enumerate(POINTS):
            broken: list[object] = []

            def once(id: object, _: object, broken: list[object] = broken) -> None:
                if not broken:
                    broken.append(id)
                    wire.cut()

            with when(point, once):
                made = await running.create(*([f"Idempotency-Key: {point}"] if keyed else []))
            assert broken == [made["id"]], point
            assert wire.carried == 2 * (number + 1), point
            assert len({accepted.id for accepted in running.accepted()}) == number + 1, point
            assert json.loads((await running.get(made["id"])).body) == made, point


async def test_what_is_answered_is_the_object_of_the_attempt_that_counts() -> None:
    async with wired() as (running, wire):
        wire.breaks = ["answer lost"]
        made = await running.create()
        first = json.loads(running.records()[0].value or b"")["response"]
        assert len(running.accepted()) == 2
        assert made == first


async def test_where_the_attempt_that_counts_cannot_be_shown_the_post_is_not_to_be_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away(*_: Any) -> Any:
        raise unavailable("The log is away.")

    async with wired() as (running, wire):
        wire.breaks = ["answer lost"]
        monkeypatch.setattr(Replay, "view", away)
        answer = await running.post({"background": True})
        assert (answer.status, answer.headers["x-should-retry"]) == (503, "false")


async def test_what_is_shown_as_queued_says_when_to_ask_again_though_it_has_closed_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create = IngestClient.create

    async with ingesting() as running, executing(running):

        async def late(self: IngestClient, id: Any, *what: Any) -> Any:
            made = await create(self, id, *what)

            async def closed() -> bool:
                return bool(json.loads((await running.get(id)).body)["status"] == "completed")

            await eventually(closed)
            return made

        monkeypatch.setattr(IngestClient, "create", late)
        answer = await running.post({"background": True})
        assert json.loads(answer.body)["status"] == "queued"
        assert answer.headers["openai-poll-after-ms"] == "1000"


async def test_a_key_whose_partition_ingest_does_not_know_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    async def elsewhere(_: IngestClient, id: Any, *__: Any) -> Elsewhere:
        asked.append(id)
        return Elsewhere(None)

    monkeypatch.setattr(IngestClient, "create", elsewhere)
    async with ingesting() as running:
        answer = await running.post({"background": True}, KEY)
    assert (answer.status, "x-should-retry" in answer.headers, len(asked)) == (503, False, 1)


async def test_who_is_sent_back_to_where_it_came_from_is_refused_and_does_not_go_round_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As while partitions are added: replay may know of one before ingest does."""
    asked = []

    async def beyond(_: IngestClient, id: Any, *__: Any) -> Elsewhere:
        asked.append(partition_of(id))
        return Elsewhere(PARTITIONS)

    there_are = PARTITIONS

    async def partitions(*_: Any) -> int:
        return there_are

    monkeypatch.setattr(MemoryLog, "partitions", partitions)
    async with ingesting() as running, asyncio.timeout(10):
        monkeypatch.setattr(IngestClient, "create", beyond)
        there_are += 1
        previous = f"resp_{PARTITIONS:04x}" + "0" * 32
        answer = await running.post({"background": True, "previous_response_id": previous})
        assert (answer.status, answer.headers["x-should-retry"]) == (503, "true")
        assert "not read yet" in error_of(answer)["message"]
        assert asked[0] < PARTITIONS
        assert asked[1:] == [PARTITIONS]


async def test_a_client_that_waits_is_streamed_to_after_a_hop_that_broke() -> None:
    async with wired() as (running, wire), executing(running):
        wire.breaks = ["answer lost"]
        answer = await running.post({"stream": True})
        assert (answer.status, answer.whole) == (200, True)
        assert b"response.completed" in answer.body


async def test_a_hop_that_goes_on_breaking_is_settled_by_the_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "AGAIN_S", 0.2)
    async with wired() as (running, wire), executing(running):
        wire.breaks = ["answer lost"] * 9
        made = await running.create()
        assert {accepted.id for accepted in running.accepted()} == {made["id"]}
        wire.breaks = ["answer lost"] * 9
        waited = await running.post({"input": "a b"})
        assert json.loads(waited.body)["status"] == "completed"
        wire.breaks = ["answer lost"] * 9
        streamed = await running.post({"input": "a b", "stream": True})
        assert b"response.completed" in streamed.body


async def test_where_nothing_is_there_and_something_may_be_on_its_way_the_client_hears_that_nobody_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(door, "AGAIN_S", 0.2)
    async with wired() as (running, wire):
        wire.breaks = ["request lost"] * 9
        answer = await running.post({"background": True})
        assert (answer.status, answer.headers["x-should-retry"]) == (503, "false")
        wire.breaks = ["request lost"] * 9
        keyed = await running.post({"background": True}, KEY)
        assert (keyed.status, "x-should-retry" in keyed.headers) == (503, False)
        assert running.records() == []


async def test_with_ingest_away_the_client_may_try_again_within_five_seconds() -> None:
    async with ingesting() as running:
        await running.stop("ingest")
        began = steady()
        for ask_it in (
            running.post({}),
            running.cancel(UNKNOWN),
            running.delete(UNKNOWN),
        ):
            answer = await ask_it
            assert (answer.status, answer.headers["retry-after"]) == (503, "2")
            assert "x-should-retry" not in answer.headers
        assert steady() - began < 5


async def test_an_ingest_that_is_stopped_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is stopped takes requests all the same."""

    async def say_nothing(call: Call) -> None:
        await call.hung_up.wait()

    monkeypatch.setattr(pulse, "SILENCE_S", 0.01)
    monkeypatch.setattr(pulse, "LOOK_S", 0.01)
    monkeypatch.setattr(door, "AGAIN_S", 0.2)
    async with ingesting() as running, raw(say_nothing) as silent:
        await reached_at(running, int(silent.url.rpartition(":")[2]))
        with capture_logs() as logs:
            plain = await running.post({})
            keyed = await running.post({}, KEY)
            cancelled = await running.cancel(UNKNOWN)
        assert (plain.status, plain.headers["x-should-retry"]) == (503, "false")
        for repeatable in (keyed, cancelled):
            assert (repeatable.status, "x-should-retry" in repeatable.headers) == (503, False)
        assert "ingest cannot be asked, trying again" in {entry["event"] for entry in logs}


async def test_what_an_ingest_that_is_stopping_refuses_is_asked_of_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(door, "AGAIN_S", 15)
    async with ingesting() as running:
        await running.create()  # leaves a connection behind, for which a drain waits
        stopping = asyncio.create_task(running.stop("ingest"))
        port, shown = running.ingest_settings.internal_port, [f"authorization: Bearer {SECRET}"]

        async def draining() -> bool:
            answer = await ask(port, f"POST /internal/cancel/{UNKNOWN}", b"{}", shown)
            return answer.status == 503 and error_of(answer)["code"] == "draining"

        await eventually(draining)
        with capture_logs() as logs:
            posted = asyncio.create_task(running.post({"background": True}))
            await eventually(lambda: any(entry.get("why") == "it is stopping" for entry in logs))
            await stopping
            await running.start_ingest()
            assert (await posted).status == 200
        assert len(running.accepted()) == 2


@pytest.mark.parametrize("what", ["another secret", "its public port", "a stranger"])
async def test_what_is_not_ingest_has_heard_nothing_and_the_log_says_how_to_mend_it(what: str) -> None:
    async def stranger(call: Call) -> None:
        await call.answer(404, b"<html>not found</html>")

    async with ingesting() as running, raw(stranger) as server:
        ports = {"its public port": running.port, "a stranger": int(server.url.rpartition(":")[2])}
        port = ports.get(what, running.ingest_settings.internal_port)
        secret = "another-one-altogether" if what == "another secret" else SECRET
        await reached_at(running, port, internal_secret=secret)
        with capture_logs() as logs:
            answer = await running.post({"background": True})
        assert (answer.status, "x-should-retry" in answer.headers) == (503, False)
        (told,) = (entry for entry in logs if entry["event"] == "ingest cannot be asked, trying again")
        assert ("REJOINDER_INTERNAL_SECRET" in told["why"]) == (what == "another secret")
        assert "REJOINDER_INGEST_URL must be the URL of ingest's internal port" in told["mend"]
        assert running.records() == []


async def test_a_body_larger_than_a_piece_comes_whole() -> None:
    async with wired() as (running, _):
        text = "x" * (2 * PIECE_BYTES + 1)
        made = await running.create(input=text)
        (record,) = running.records()
        assert json.loads(record.value or b"")["request"]["input"] == text
        assert made["id"] == running.accepted()[0].id


async def test_a_turn_goes_to_its_predecessor_in_one_hop_and_where_the_hint_misleads_in_two() -> None:
    async with wired() as (running, wire):
        first = await running.create()
        there = partition_of(first["id"])
        for _ in range(8):
            before = wire.carried
            made = await running.create(previous_response_id=first["id"])
            assert (partition_of(made["id"]), wire.carried - before) == (there, 1)
        elsewhere = f"resp_{1 - there:04x}{'0' * 32}"
        misled = {"previous_response_id": first["id"], "metadata": {"previous_response_id": elsewhere}}
        before = wire.carried
        made = await running.create(**misled)
        assert (partition_of(made["id"]), wire.carried - before) == (there, 2)


async def test_a_body_that_looks_as_if_it_followed_something_goes_to_a_partition_that_is_there() -> None:
    async with ingesting() as running:
        made = await running.create(metadata={"previous_response_id": f"resp_ffff{'0' * 32}"})
        assert (await running.get(made["id"])).status == 200


async def test_a_client_that_goes_at_any_point_of_its_create_takes_its_response_with_it() -> None:
    """Its create is finished first (A-7)."""
    body = b'{"model": "echo", "input": "x"}'
    head = f"POST /v1/responses HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {len(body)}\r\n\r\n"
    async with ingesting() as running:
        for number, point in enumerate(("hop due", *POINTS, "hop over"), 1):
            _, writer = await asyncio.open_connection(HOST, running.public)
            with when(point, lambda *_, writer=writer: writer.transport.abort()):
                writer.write(head.encode() + body)
                await eventually(lambda number=number: len(running.entries("cancelled")) == number)  # type: ignore[misc]
            assert len(running.accepted()) == number, point
        ended = {one.id for one in running.entries("cancelled")}  # type: ignore[union-attr]
        assert ended == {accepted.id for accepted in running.accepted()}


async def test_a_client_that_goes_amid_the_create_leaves_no_half_of_it() -> None:
    """Its create is finished, and then abandoned."""
    async with ingesting() as running:
        asked, go_on = asyncio.Event(), asyncio.Event()
        append = type(running.log.writer()).append

        async def slow(*what: Any, **terms: Any) -> Any:
            if what[1] == "responses.events" and not asked.is_set():
                asked.set()
                await go_on.wait()
            return await append(*what, **terms)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(running.log.writer()), "append", slow)
            _, writer = await asyncio.open_connection(HOST, running.public)
            body = b'{"model": "echo", "input": "x"}'
            head = f"POST /v1/responses HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await asked.wait()
            writer.transport.abort()
            await asyncio.sleep(0.1)
            go_on.set()
            await eventually(lambda: running.entries("cancelled"))
        assert [entry.id for entry in running.accepted()] == [running.entries("cancelled")[0].id]  # type: ignore[union-attr]


@pytest.mark.parametrize("background", [False, True])
async def test_what_ingest_leaves_in_doubt_ends_with_a_client_that_goes_unless_it_is_in_the_background(
    monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    asked, go_on, over = asyncio.Event(), asyncio.Event(), asyncio.Event()
    view, abandon = ReplayClient.view, Visit.abandon

    async def cannot_tell_once(*what: Any, **terms: Any) -> Any:
        if not asked.is_set():
            asked.set()
            await go_on.wait()
            raise unavailable("The log is away.")
        return await view(*what, **terms)

    async def noted(self: Visit) -> None:
        await abandon(self)
        over.set()

    monkeypatch.setattr(ReplayClient, "view", cannot_tell_once)
    monkeypatch.setattr(Visit, "abandon", noted)
    async with ingesting() as running:
        running.log.fail_next("unknown-appended")
        _, writer = await asyncio.open_connection(HOST, running.public)
        body = json.dumps({"model": "echo", "input": "x", "background": background}).encode()
        head = f"POST /v1/responses HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await asked.wait()
        writer.transport.abort()
        await asyncio.sleep(0.1)
        go_on.set()
        async with asyncio.timeout(10):
            await over.wait()
        assert (len(running.accepted()), len(running.entries("cancelled"))) == (1, not background)


async def test_a_request_has_one_id_on_both_sides() -> None:
    seen: list[str] = []

    async def note(call: Call) -> None:
        seen.append(call.headers["x-request-id"])
        await call.answer(404, b"")

    async with ingesting() as running, raw(note) as server:
        await reached_at(running, int(server.url.rpartition(":")[2]))
        answer = await running.delete(UNKNOWN, "x-request-id: mine")
        assert (answer.headers["x-request-id"], seen) == ("mine", ["mine"])


async def test_ingest_s_internal_port_refuses_what_is_no_command() -> None:
    async with ingesting() as running:
        port = running.ingest_settings.internal_port
        shown = [f"authorization: Bearer {SECRET}"]
        for command in ("create", "cancel", "delete", "abandon"):
            answer = await ask(port, f"POST /internal/{command}/{UNKNOWN}", b"{}", shown)
            assert (answer.status, error_of(answer)["param"]) == (
                400,
                "x-rejoinder-order" if command == "create" else "x-rejoinder-for",
            )
            assert (await ask(port, f"POST /internal/{command}/{UNKNOWN}", b"{}")).status == 401
        assert running.records() == []
