"""A server under measurement, with everything that it starts, and the CPU that all of it has used.

Each target is started fresh, with an empty data directory on disk, and ended afterwards.
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import psutil

from bench.load import Load
from services.broker.tcp import free_port
from tests.process import REJOINDER, ServerProcess

BROKER = "broker"


def by_process(each: Mapping[str, float], digits: int = 0) -> str:
    """What each process has, such as `executor 54, broker 63`, but for what rounds to little."""
    shown = (f"{name} {used:,.{digits}f}" for name, used in each.items() if used >= 10**-digits)
    return ", ".join(shown)


class Running(Protocol):
    """A server that runs, and everything that it started."""

    @property
    def base_url(self) -> str:
        """Where its API is."""
        ...

    def tree(self) -> list[psutil.Process]:
        """Its processes that live."""
        ...


class Target:
    """A running server under measurement."""

    def __init__(self, name: str, process: Running, path: str = Load.path) -> None:
        self.name = name
        self.path = path
        """Where its responses are."""
        self._process = process

    @property
    def base_url(self) -> str:
        """Where its API is."""
        return self._process.base_url

    def process(self, title: str) -> psutil.Process:
        """Its one process with this title, such as `replay`."""
        [found] = [process for process in self._process.tree() if _title(process) == title]
        return found

    def cpu(self) -> dict[str, float]:
        """CPU seconds (user and system) used so far, by the title of the process."""
        used: dict[str, float] = {}
        for process in self._process.tree():
            title = _title(process)
            times = process.cpu_times()
            used[title] = used.get(title, 0.0) + times.user + times.system
        return used

    def rss(self) -> dict[str, float]:
        """Resident memory, MiB, by the title of the process."""
        held: dict[str, float] = {}
        for process in self._process.tree():
            title = _title(process)
            held[title] = held.get(title, 0.0) + process.memory_info().rss / (1 << 20)
        return held

    def ports(self, title: str) -> list[int]:
        """The ports on which a process listens, by its title."""
        tree = [process for process in self._process.tree() if _title(process) == title]
        sockets = [found for process in tree for found in process.net_connections("tcp")]
        return [found.laddr.port for found in sockets if found.status == psutil.CONN_LISTEN]


@contextmanager
def rejoinder(*flags: str) -> Iterator[Target]:
    """The whole system of `rejoinder dev` with these flags, its embedded broker included."""
    with tempfile.TemporaryDirectory(prefix="rejoinder-bench-") as folder:
        data = Path(folder)
        command = [REJOINDER, "dev", "--port", "0", "--data", str(data / "data"), "--log-level", "warning"]
        command += flags
        with ServerProcess(command, data / "log") as process:
            yield Target("rejoinder", process)


@contextmanager
def rival() -> Iterator[Target]:
    """The read-modify-write server (bench/rival.py), killed at the end: at its limit it hears no signal."""
    with tempfile.TemporaryDirectory(prefix="rejoinder-bench-") as folder:
        database = Path(folder) / "rival.db"
        command = [sys.executable, "-m", "bench.rival", "--port", "0", "--database", str(database)]
        process = ServerProcess(command, Path(folder) / "log")
        process.start()
        try:
            yield Target("rival", process)
        finally:
            process.kill()


@contextmanager
def agentserver() -> Iterator[Target]:
    """The server in memory (bench/agentserver.py)."""
    with tempfile.TemporaryDirectory(prefix="rejoinder-bench-") as folder:
        command = [sys.executable, "-m", "bench.agentserver", "--port", str(free_port())]
        with ServerProcess(command, Path(folder) / "log") as process:
            yield Target("agentserver", process, "/responses")


def _title(process: psutil.Process) -> str:
    """`rejoinder executor` and the like; Java is the broker."""
    command = process.cmdline()
    if command and Path(command[0]).name == "java":
        return BROKER
    words = " ".join(command).split()
    return words[1] if words[:1] == ["rejoinder"] and len(words) > 1 else process.name()
