"""Fixtures for all tests. The session shares a real broker; each test has its own topics and groups.

An `async def test_…` runs on asyncio through anyio's plugin, without a decoration. All of them share one
event loop, which the session's broker fixture keeps.

Hypothesis tries the same examples in every run, without a deadline, so no test fails by chance or because the
machine is busy. `--hypothesis-profile=fresh` tries others each time.
"""

import gc
import inspect
import secrets
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import wraps
from typing import TypeVar, overload

import anyio
import psutil
import pytest
import structlog
from blockbuster import blockbuster_ctx
from hypothesis import settings

from services import logs
from tests.brokers import broker, chosen

pytest_plugins = ["tests.system"]
settings.register_profile("fresh", settings.get_profile("ci"), derandomize=False)
settings.load_profile("ci")

T = TypeVar("T")
FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.25
"""Seconds between two looks at a condition; each pause is half as long again as the one before."""
PATIENCE = 30.0
"""Seconds until a test gives up waiting. It guards against a hang; bounds are measured by `tests.steady`."""
MAY_BLOCK = (
    ("structlog/_native.py", "meth"),  # an unforeseen error's traceback, with its lines of source
    ("linecache.py", "updatecache"),  # the same, from libraries that log by themselves
    ("prometheus_client/process_collector.py", "collect"),  # reads /proc, which waits for no disk
)


LONGEST = ("simulation", "reliability", "integration")
"""Suites whose files take minutes. They begin first, so that no worker is left alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the longest suites first, each in its own order."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: min((order[part] for part in item.path.parts if part in order), default=9))


def pytest_itemcollected(item: pytest.Item) -> None:
    """Bound an async test as others are: what pytest-timeout's signal raises, the event loop only logs."""
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        marked = item.get_closest_marker("timeout")
        seconds = marked.args[0] if marked is not None else item.config.getini("timeout")
        item.obj = bounded(item.obj, float(seconds))


def bounded(test: Callable[..., Awaitable[T]], seconds: float) -> Callable[..., Awaitable[T]]:
    """`test`, which fails with TimeoutError after so many seconds."""

    @wraps(test)
    async def within(*given: object, **named: object) -> T:
        with anyio.fail_after(seconds):
            return await test(*given, **named)

    return within


def pytest_collection_finish() -> None:
    """Keep the garbage collector from what was imported and collected, millions of objects that stay.

    A pass over them takes seconds on a busy machine; servers drop a client that takes nothing for so long.
    """
    gc.collect()
    gc.freeze()


@overload
async def eventually(condition: Callable[[], Awaitable[T]], timeout: float = PATIENCE) -> T: ...
@overload
async def eventually(condition: Callable[[], T], timeout: float = PATIENCE) -> T: ...
async def eventually(condition: Callable[[], object], timeout: float = PATIENCE) -> object:
    """Awaits that `condition`, plain or async, returns something true, and returns that.

    An AssertionError of the condition counts as "not yet". After `timeout` seconds it is raised, or one that
    shows what the condition returned last. The one place in the tests that sleeps.
    """
    pause, deadline = FIRST_PAUSE, anyio.current_time() + timeout
    while True:
        last, failed = await _look(condition)
        if failed is None and last:
            return last
        if anyio.current_time() >= deadline:
            raise failed or AssertionError(f"not within {timeout:g} s, at last {last!r}")
        await anyio.sleep(min(pause, max(0.0, deadline - anyio.current_time())))
        pause = min(pause * 1.5, LONGEST_PAUSE)


async def _look(condition: Callable[[], object]) -> tuple[object, AssertionError | None]:
    try:
        found = condition()
        return (await found if inspect.isawaitable(found) else found), None
    except AssertionError as error:
        return None, error


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """uvloop, on which the services run: its timers may fire a moment early, asyncio's do not."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail if a test's process outlives the session. This fixture begins first, so it ends last."""
    yield
    _, left = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=PATIENCE)
    commands = [" ".join(process.cmdline())[:200] for process in left if process.is_running()]
    for process in left:
        process.kill()
    assert not commands, f"left behind: {commands}"


@pytest.fixture(scope="session", autouse=True)
def nothing_blocks() -> Iterator[None]:
    """Make a blocking call of a service within the event loop an error: it would stall every stream there.

    The embedded broker may block: it reads and writes small files while nothing else runs.
    """
    with blockbuster_ctx("services", excluded_modules=["services.broker"]) as detector:
        for call in detector.functions.values():
            for file, function in MAY_BLOCK:
                call.can_block_in(file, function)
        yield


_FACTORIES: list[object] = [None]
"""What made the loggers, as of each set-up."""


@pytest.fixture(autouse=True)
def plain_logs() -> None:
    """Log for people. structlog's default would read files in the loop to show a traceback.

    Again behind a test that ran a command: that set the logs up for an output that is closed by now.
    """
    logs.KEEP = False
    if structlog.get_config()["logger_factory"] is not _FACTORIES[-1]:
        logs.setup("debug", "console")
        _FACTORIES.append(structlog.get_config()["logger_factory"])


@pytest.fixture(scope="session")
async def kafka(anyio_backend: object, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """HOST:PORT of the session's broker."""
    async with broker(chosen(), tmp_path_factory.mktemp("kafka")) as bootstrap:
        yield bootstrap


@pytest.fixture
def forgotten_connections() -> Iterator[None]:
    """For tests that take a broker away: collect garbage only at the end, and connections without a warning.

    aiokafka's bootstrap forgets its connection when it is cancelled between its two requests. The collector
    closes it, and would warn in any other test.
    """
    gc.disable()
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    gc.enable()


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for every topic of one test, so that tests do not share any."""
    return f"t{secrets.token_hex(6)}."


@pytest.fixture
def fresh(topic_prefix: str) -> Callable[[str], str]:
    """Names a topic or group of this test only: `fresh("events")`, twice the same."""
    return lambda name: f"{topic_prefix}{name}"
