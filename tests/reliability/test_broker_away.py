"""The broker pauses, dies, fills its disk: no answer is false, nothing is lost, every service recovers."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from anyio.from_thread import BlockingPortal

from tests.api import request
from tests.long import SOAK
from tests.reliability import audit
from tests.reliability.conftest import Deploy
from tests.reliability.rig import Broker, Rig, until
from tests.reliability.upstream import Upstream
from tests.steady import steady
from tests.wire import Answer

PAUSED_S = 30.0 if SOAK else 9.0
"""Longer than the sessions of the groups (6 s)."""
ANSWER_S = 20.0
"""Seconds until a POST whose outcome is in doubt is answered (A-10)."""
MARGIN_S = 1.5
"""What a loaded machine may add to an answer's time."""


class Posted(NamedTuple):
    """What one POST was answered, and after how many seconds."""

    answer: Answer | None
    seconds: float


@pytest.fixture(scope="module")
def broker(portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker(portal, tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(scope="module")
def rig(broker: Broker, deploy: Deploy) -> Iterator[Rig]:
    """A deployment with two executors."""
    with deploy(broker.start(), partitions=8) as running:
        running.start_all("executor")
        yield running


def post_until(rig: Rig, stop: threading.Event, into: list[Posted]) -> None:
    """A client that goes on asking."""
    while not stop.wait(0.2):
        began = steady()
        try:
            answer = rig.api.ask("POST", "/v1/responses", request("posted meanwhile"))
        except OSError:
            answer = None
        into.append(Posted(answer, steady() - began))


def through(rig: Rig, upstream: Upstream, away: Callable[[], None]) -> None:
    """Runs, readers and clients while the broker is away; then everything is as if it had not been."""
    memory = {service.name: service.rss_mib for service in rig.alive}
    echoes = [rig.api.create("a b c", tokens=300, interval_ms=60) for _ in range(6)]
    waiting = rig.api.open("not in this test")
    fast = {"case": f"fast-{time.monotonic_ns()}", "words": "4000", "pause": "0.004"}
    fragile = rig.api.post({"model": "fragile", "input": "x", "background": True, "metadata": fast})
    ids = [*echoes, fragile.json["id"]]
    posted: list[Posted] = []
    stop = threading.Event()
    with ThreadPoolExecutor(20) as pool:
        readers: dict[str, Future[audit.Watched]] = {id: pool.submit(audit.watch, rig.api, id) for id in ids}
        open_reader = pool.submit(audit.watch, rig.api, waiting)
        for id in ids:
            rig.api.take(id, 10)
        clients = [pool.submit(post_until, rig, stop, posted) for _ in range(3)]
        away()
        until(lambda: all(service.ready() for service in rig.alive))
        until(lambda: posted and posted[-1].answer and posted[-1].answer.status == 200)
        stop.set()
        for client in clients:
            client.result()
        until(lambda: rig.api.cancel(waiting).status == 200)
        seen = {id: reader.result(timeout=60) for id, reader in readers.items()}
        assert open_reader.result(timeout=20).keep_alives >= 8, "the stream was not kept open"

    check_answers(rig, posted)
    found, known = audit.check(rig, ids)
    for id, was in seen.items():
        assert was.frames == found[id], "the live stream is not the replay"
        assert was.frames[-1].type == "response.completed"
        assert known[id].attempts == 1, f"{id} was taken over {known[id].attempts - 1} times"
    for service in rig.alive:
        grown = service.rss_mib - memory[service.name]
        print(f"{service.name}: {grown:+.0f} MiB")
        assert grown <= 100, f"{service.name} grew by {grown:.0f} MiB"


def check_answers(rig: Rig, posted: list[Posted]) -> None:
    """Check that each id that was given has a response, and that each refusal came in time and says when to
    try again.
    """
    told = [one.answer.json["id"] for one in posted if one.answer and one.answer.status == 200]
    refused = [one for one in posted if not one.answer or one.answer.status != 200]
    assert refused, "the broker was not away"
    for answer, seconds in refused:
        assert answer is not None, "a POST got no answer"
        assert answer.status == 503, answer
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert seconds <= ANSWER_S + MARGIN_S, f"answered after {seconds:.1f} s"
    _, known = audit.check(rig, told)
    unsure = [a for a, _ in refused if a is not None and a.headers.get("x-should-retry") == "false"]
    mine = {id for id, life in known.items() if b"posted meanwhile" in life.values.get(2, b"")}
    slowest = max(seconds for _, seconds in refused)
    print(
        f"{len(told)} accepted, {len(refused)} refused ({len(unsure)} unsure), the slowest in {slowest:.1f} s"
    )
    assert len(mine - set(told)) <= len(unsure), "a response exists that nobody was unsure of"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_pause_longer_than_every_session_starts_no_takeover(
    rig: Rig, broker: Broker, upstream: Upstream
) -> None:
    def pause() -> None:
        broker.pause()
        time.sleep(PAUSED_S)
        broker.resume()

    through(rig, upstream, pause)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_broker_that_is_killed_and_comes_back_loses_nothing(
    rig: Rig, broker: Broker, upstream: Upstream
) -> None:
    def kill() -> None:
        broker.kill()
        time.sleep(4)
        broker.start()

    through(rig, upstream, kill)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not SOAK, reason="three quarters of a minute: set REJOINDER_SOAK=1")
def test_a_full_disk_refuses_what_is_new_and_loses_nothing_of_what_was_accepted(
    portal: BlockingPortal, tmp_path: Path
) -> None:
    """On a file system of 96 MiB. Kafka stops itself when its only log directory fails."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with (
        small_disk(disk),
        Broker(portal, disk / "data") as broker,
        Rig(broker.start(), tmp_path, portal, partitions=2) as rig,
    ):
        rig.start_all()
        closed = rig.api.closed("before")
        running = rig.api.create("a b c", tokens=200, interval_ms=50)
        ballast = disk / "ballast"
        posted = fill(rig, ballast)
        ballast.unlink()
        broker.kill()
        broker.start()
        until(lambda: all(service.ready() for service in rig.alive))

        told = [one.answer.json["id"] for one in posted if one.answer and one.answer.status == 200]
        refused = [one for one in posted if one.answer and one.answer.status != 200]
        print(f"{len(told)} accepted on a disk that filled up, {len(refused)} refused")
        assert {one.answer.status for one in refused if one.answer} == {503}
        assert max(one.seconds for one in refused) <= ANSWER_S + MARGIN_S
        audit.check(rig, [closed, running, *told])


@contextmanager
def small_disk(at: Path) -> Iterator[None]:
    """A file system of its own, where the machine lets us mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(at)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def fill(rig: Rig, ballast: Path) -> list[Posted]:
    """Fill the disk to the last byte while a client goes on asking; what it was answered."""
    posted: list[Posted] = []
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
    deadline = steady() + 40
    while len([one for one in posted if one.answer and one.answer.status == 503]) < 5:
        assert steady() < deadline, "a full disk refuses nothing"
        began = steady()
        answer = rig.api.ask("POST", "/v1/responses", request("z" * 100_000))
        posted.append(Posted(answer, steady() - began))
    return posted
