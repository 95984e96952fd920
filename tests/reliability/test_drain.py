"""SIGTERM with a thousand streams open: new work refused, every stream cut and none ended, gone in time."""

import asyncio
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse

import pytest
from anyio.from_thread import BlockingPortal

from tests.api import SLOW_MS, request
from tests.reliability import audit
from tests.reliability.rig import Rig
from tests.wire import ask

STREAMS = 1_000
EXIT_S = 10.0
LAST_CHUNK = b"0\r\n\r\n"


@pytest.fixture(scope="module")
def rig(kafka: str, portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(kafka, tmp_path_factory.mktemp("drain"), portal, grace_s=20) as running:
        running.start_all()
        yield running


class Readers:
    """Many open answers of one service, on the rig's loop."""

    def __init__(self, rig: Rig, port: int, raw: bytes, count: int) -> None:
        self._rig = rig
        self._streams = rig.run(lambda: self._open(port, raw, count))

    async def _open(
        self, port: int, raw: bytes, count: int
    ) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        gate = asyncio.Semaphore(50)

        async def one() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            async with gate:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(raw)
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200"), head
                await reader.readuntil(b"\n\n")
                return reader, writer

        return list(await asyncio.gather(*(one() for _ in range(count))))

    def ends(self) -> list[bytes]:
        """The last bytes of each, once all have ended."""

        async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
            last = b""
            try:
                while data := await reader.read(1 << 16):
                    last = (last + data)[-20:]
            except ConnectionError:
                pass
            writer.close()
            return last

        async def all_of_them() -> list[bytes]:
            async with asyncio.timeout(60):
                return list(await asyncio.gather(*(end(*stream) for stream in self._streams)))

        return self._rig.run(all_of_them)


class Kept:
    """A connection that is kept open, on which one request is made again and again."""

    def __init__(self, port: int, method: str, path: str, body: str | None = None) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=10)
        self._connection.auto_open = 0
        self._asked = (method, path, body)
        self._connection.connect()

    def ask(self) -> HTTPResponse:
        """Fails when the connection was closed without an answer."""
        self._connection.request(*self._asked)
        answer = self._connection.getresponse()
        answer.read()
        return answer

    def until(self, status: int, instead_of: int) -> HTTPResponse:
        """The first answer of `status`; all before it are `instead_of`.

        What was under way when the drain began is answered, and its connection closed after it.
        """
        while (answer := self.ask()).status == instead_of:
            if answer.will_close:
                self._connection.connect()
        assert answer.status == status
        return answer

    def close(self) -> None:
        self._connection.close()


def raw_get(id: str) -> bytes:
    return f"GET /v1/responses/{id}?stream=true HTTP/1.1\r\nhost: x\r\n\r\n".encode()


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_replay_cuts_a_thousand_streams_and_is_gone_within_ten_seconds(rig: Rig) -> None:
    ids = [rig.api.create("a b c", tokens=250, interval_ms=100) for _ in range(20)]
    [replay] = rig.named("replay")
    port = rig.ports["replay"]
    groups = [Readers(rig, port, raw_get(id), STREAMS // len(ids)) for id in ids]
    kept = Kept(port, "GET", "/v1/responses/resp_0")
    assert kept.ask().status == 404
    began = time.monotonic()
    replay.terminate()
    _check_refusal(kept.until(503, instead_of=404))
    kept.close()
    refused = _refused(rig.api.base_url)
    ends = [end for group in groups for end in group.ends()]
    assert replay.wait() == 0
    took = time.monotonic() - began

    print(f"{len(ends)} streams cut, gone after {took:.1f} s, meanwhile {refused}")
    assert len(ends) == STREAMS
    assert not [end for end in ends if end.endswith(LAST_CHUNK)], "a stream ended cleanly"
    assert took <= EXIT_S
    assert refused <= {"503", "closed"}
    rig.ready([rig.start("replay")])
    _, known = audit.check(rig, ids)
    assert {known[id].attempts for id in ids} == {1}
    assert {known[id].status for id in ids} == {"completed"}


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("name", ["replay", "ingest"])
def test_streams_of_posts_are_cut_nothing_is_cancelled_and_it_is_gone_within_ten_seconds(
    rig: Rig, name: str
) -> None:
    """The front door, and ingest, which for one release takes POSTs of clients as well."""
    [service] = rig.named(name)
    before = audit.lives(rig)
    steering = b'{"echo.tokens":"60","echo.interval_ms":"300"}'
    body = b'{"model":"echo","input":"a b","stream":true,"metadata":%b}' % steering
    head = f"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    readers = Readers(rig, rig.ports[name], head + body, 200)
    waiting = rig.api.post(request("in the background", interval_ms=SLOW_MS)).json["id"]
    kept = Kept(rig.ports[name], "POST", "/v1/responses/resp_0/cancel", "{}")
    assert kept.ask().status == 404
    began = time.monotonic()
    service.terminate()
    _check_refusal(kept.until(503, instead_of=404))
    kept.close()
    refused = _refused(f"http://127.0.0.1:{rig.ports[name]}")
    ends = readers.ends()
    assert service.wait() == 0
    took = time.monotonic() - began

    print(f"{len(ends)} streams of POSTs cut, gone after {took:.1f} s, meanwhile {refused}")
    assert not [end for end in ends if end.endswith(LAST_CHUNK)], "a stream ended cleanly"
    assert took <= EXIT_S
    assert refused <= {"503", "closed"}
    rig.ready([rig.start(name)])
    assert rig.api.response(waiting)["status"] in ("queued", "in_progress")
    known = audit.lives(rig)
    cancelled = [id for id, life in known.items() if life.status == "cancelled" and id not in before]
    assert not cancelled, "shutdown is no cancellation"
    rig.api.cancel(waiting)


def _check_refusal(answer: HTTPResponse) -> None:
    """Nothing was begun, so it may be sent again, on another connection."""
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert "x-should-retry" not in answer.headers
    assert answer.headers["connection"] == "close"


def _refused(base_url: str) -> set[str]:
    """What readiness and new work are answered while a service drains, until it is gone."""
    seen: set[str] = set()
    deadline = time.monotonic() + 0.5
    time.sleep(0.05)  # the signal's way
    while time.monotonic() < deadline:
        for method, path, body in (("GET", "/readyz", None), ("POST", "/v1/responses", request())):
            try:
                answer = ask(base_url, method, path, body, timeout=5)
                seen.add(str(answer.status))
            except (OSError, AssertionError):
                seen.add("closed")
    return seen
