"""The whole system as a newcomer starts it: `rejoinder dev` on a broker, and the fixtures around it.

With `--base-url` the fixtures use a server that runs already, and start nothing.
"""

import secrets
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from services.settings import environment
from tests.process import REJOINDER, ServerProcess

ORIGIN = "http://app.example"
QUICK: dict[str, object] = {"keepalive_s": 0.5, "stall_s": 5, "cors_origins": (ORIGIN,)}
"""Settings of the systems that tests start: waits of half a minute take seconds."""

LEAN = ("--without", "analytics", "--without", "webhooks")
"""Flags of `rejoinder dev` with which it runs only what every response needs."""

LOG_SHOWN = 20_000
"""Characters of a system's log beside a failed test."""


class System(ServerProcess):
    """`rejoinder dev` on the broker at `kafka` (HOST:PORT), under topics of its own, with more `flags`."""

    running: ClassVar[set["System"]] = set()

    def __init__(self, kafka: str, folder: Path, *, flags: Sequence[str] = LEAN, **settings: object) -> None:
        self.kafka = kafka
        self.prefix = f"t{secrets.token_hex(4)}."
        own = {"topic_prefix": self.prefix, "internal_secret": secrets.token_hex(16)}
        self.environ = environment({**QUICK, **own, **settings})
        command = [REJOINDER, "dev", "--kafka", kafka, "--port", "0", *flags]
        super().__init__(command, folder / f"{self.prefix}log", self.environ)

    def start(self) -> None:
        """Start it and wait until it is ready."""
        super().start()
        System.running.add(self)

    def stop(self) -> int:
        """End it as a terminal would, and return its exit status."""
        System.running.discard(self)
        return super().stop()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rejoinder")
    group.addoption("--base-url", help="test the server at this URL instead of starting one")
    group.addoption("--tenant-header", default="x-rejoinder-tenant", help="the header that names the tenant")
    group.addoption("--cors-origin", help="an origin that the server at --base-url allows; none: not tested")
    group.addoption(
        "--keepalive", type=float, default=15, help="seconds between the keep-alives of --base-url"
    )
    group.addoption("--stall", type=float, default=30, help="seconds until --base-url drops a stalled reader")


@pytest.fixture(scope="session")
def base_url(request: pytest.FixtureRequest) -> str:
    """Where the system under test is, without a slash at the end."""
    given: str | None = request.config.getoption("--base-url")
    if given:
        return given.rstrip("/")
    system: System = request.getfixturevalue("system")
    return system.base_url


@pytest.fixture(scope="session")
def system(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One system for all tests that do not harm it."""
    with System(kafka, tmp_path_factory.mktemp("system")) as running:
        yield running


@pytest.fixture(scope="session")
def tenant_header(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--tenant-header"))


@pytest.fixture(scope="session")
def cors_origin(request: pytest.FixtureRequest) -> str:
    given = request.config.getoption("--cors-origin")
    if request.config.getoption("--base-url") and not given:
        pytest.skip("no --cors-origin: which origin does the server allow?")
    return str(given or ORIGIN)


@pytest.fixture(scope="session")
def keepalive_s(request: pytest.FixtureRequest) -> float:
    """Seconds of silence after which a keep-alive comes."""
    return _seconds(request, "keepalive")


@pytest.fixture(scope="session")
def stall_s(request: pytest.FixtureRequest) -> float:
    """Seconds after which a reader that takes nothing is dropped."""
    return _seconds(request, "stall")


def _seconds(request: pytest.FixtureRequest, name: str) -> float:
    given = (
        request.config.getoption(f"--{name}")
        if request.config.getoption("--base-url")
        else QUICK[f"{name}_s"]
    )
    return float(str(given))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the last output of the systems under test to the report of a failed test."""
    report = yield
    if report.failed:
        report.sections.extend((f"log of {system!r}", system.log[-LOG_SHOWN:]) for system in System.running)
    return report
