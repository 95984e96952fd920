"""`rejoinder dev`: a whole system from one command, that mends itself and leaves nothing behind."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import psutil
import pytest

from tests.api import Api
from tests.process import REJOINDER, ServerProcess
from tests.steady import steady
from tests.system import LEAN, System
from tests.wire import ask

SERVICES = ["ingest", "replay", "executor", "projector"]


def eventually(condition: Callable[[], object], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s"
        time.sleep(0.05)


def completes(api: Api) -> bool:
    """Whether a response runs to its end now."""
    answer = api.post({"model": "echo", "input": "one two", "background": True})
    return answer.status == 200 and api.events(answer.json["id"])[-1].type == "response.completed"


@pytest.fixture(scope="module")
def own(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system that tests may harm, if it mends itself."""
    with System(kafka, tmp_path_factory.mktemp("own")) as system:
        yield system


def with_broker(folder: Path, flags: Sequence[str] = ()) -> ServerProcess:
    """A system with a broker of its own over `folder`/data, as `make dev` starts it; `flags` are more."""
    command = [REJOINDER, "dev", "--port", "0", "--data", str(folder / "data"), *flags]
    return ServerProcess(command, folder / "log")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Iterator[ServerProcess]:
    """The same with a broker of its own."""
    with with_broker(folder) as system:
        yield system


def test_a_page_cannot_reach_it_by_a_name_of_its_own(own: System) -> None:
    port = urlsplit(own.base_url).port
    for host, status in [("evil.example", 421), (f"localhost:{port}", 200), (f"127.0.0.1:{port}", 200)]:
        headers = {"host": host, "origin": f"http://{host}"}
        answer = ask(own.base_url, "POST", "/v1/responses", {"model": "echo", "input": "hi"}, headers)
        assert answer.status == status, answer


def test_it_says_ready_once_and_stops_with_status_0(kafka: str, tmp_path: Path) -> None:
    system = System(kafka, tmp_path)
    system.start()
    ready = [line for line in system.log.splitlines() if line.startswith("ready ")]
    assert ready == [f"ready {system.base_url}"]
    assert all(len(system.titled(f"rejoinder {name}")) == 1 for name in SERVICES)
    assert completes(Api(system.base_url))
    assert system.stop() == 0
    assert system.log.splitlines()[-1] == f"stopped; all responses are in Kafka at {kafka}"


def test_the_log_names_who_says_what(own: System) -> None:
    assert any(line.startswith("replay    | ") for line in own.log.splitlines())
    assert any(line.startswith("ingest    | ") for line in own.log.splitlines())


def test_the_log_says_where_the_metrics_are(system: System) -> None:
    [line] = [line for line in system.log.splitlines() if "] metrics " in line]
    for name in SERVICES:
        [url] = re.findall(rf"\b{name}=(\S+)", line)
        with urlopen(url) as answer:
            assert f"rejoinder_{name}_" in answer.read().decode()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_is_killed_is_started_again(own: System, name: str) -> None:
    api = Api(own.base_url)
    eventually(lambda: _safely(completes, api), timeout=100)
    [service] = own.titled(f"rejoinder {name}")
    service.kill()
    eventually(lambda: [p.pid for p in own.titled(f"rejoinder {name}")] not in ([], [service.pid]))
    eventually(lambda: _safely(completes, api))


def _safely(check: Callable[[Api], bool], api: Api) -> bool:
    try:
        return check(api)
    except (OSError, AssertionError):
        return False


@pytest.mark.slow
def test_a_broker_that_is_killed_is_started_again_and_nothing_is_lost(whole: ServerProcess) -> None:
    api = Api(whole.base_url)
    id = api.closed("one two")
    before = api.get(id).body
    [broker] = [process for process in whole.tree() if "java" in process.name()]
    broker.kill()
    eventually(lambda: _safely(completes, api), timeout=100)
    assert api.get(id).body == before


@pytest.mark.slow
def test_a_broker_that_comes_back_without_its_data_is_gone_on_with(
    whole: ServerProcess, folder: Path
) -> None:
    api = Api(whole.base_url)
    eventually(lambda: _safely(completes, api), timeout=100)
    [broker] = [process for process in whole.tree() if "java" in process.name()]
    (folder / "data").rename(folder / "removed")
    broker.kill()
    eventually(lambda: _safely(completes, api), timeout=100)
    assert "Kafka came back without topics" in whole.log


@pytest.mark.slow
def test_a_supervisor_that_is_killed_leaves_nobody_behind(tmp_path: Path) -> None:
    with with_broker(tmp_path, LEAN) as system:
        tree = system.tree()
        assert len(tree) >= 7  # itself, four services, the broker and its guard
        os.kill(tree[0].pid, signal.SIGKILL)
        _, left = psutil.wait_procs(tree, timeout=60)
        assert not left


def test_a_second_signal_ends_everything_at_once(kafka: str, tmp_path: Path) -> None:
    system = System(kafka, tmp_path, grace_s=300)
    system.start()
    id = Api(system.base_url).open()
    tree = system.tree()
    [executor] = system.titled("rejoinder executor")
    executor.suspend()  # it cannot drain
    try:
        tree[0].send_signal(signal.SIGINT)
        eventually(lambda: "stopping" in system.log)
        began = steady()
        tree[0].send_signal(signal.SIGINT)
        _, left = psutil.wait_procs(tree, timeout=30)
        assert not left, id
        assert steady() - began < 3
    finally:
        for process in tree:
            if process.is_running():
                process.kill()
        system.kill()
        System.running.discard(system)
