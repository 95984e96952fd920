"""The broker's data directory: its files, whether it can be used, and whether another broker uses it.

kafka/               Kafka's own logs; formatted once
kafka-version        which Kafka formatted it; written last, so an interrupted format is repeated
kafka.properties     the settings of the last start
kafka.log            what the broker said since the last start, kafka.log.1 before that
"""

import asyncio
import base64
import fcntl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.broker.errors import DataUnusable

RELEASE_TIMEOUT = 7.0
"""Seconds in which a broker whose starter died must let go of its data: the guard's grace, and a bit."""
LOG_TAIL = 64 * 1024
META = "meta.properties"
"""What every log directory of a Kafka has: whose it is."""
LOCK = ".lock"
"""What a running broker locks in it."""


class DataDir:
    """The paths of one data directory and the questions about it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.logs = root / "kafka"
        self.log = root / "kafka.log"
        self.properties = root / "kafka.properties"
        self._version = root / "kafka-version"

    def __repr__(self) -> str:
        return f"DataDir({self.root})"

    def open(self, kafka_version: str) -> None:
        """Makes the directories. Raises `DataUnusable`: not writable, or made by a newer Kafka than ours."""
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            if self.log.exists():
                self.log.replace(self.log.with_suffix(".log.1"))
            self.log.touch()
        except OSError as error:
            raise DataUnusable(
                f"cannot write the data directory {self.root}: {error.strerror}; "
                "name a writable one with --data"
            ) from error
        made_by = self._version.read_text().strip() if self.is_formatted else kafka_version
        if _release(made_by) > _release(kafka_version):
            raise DataUnusable(
                f"{self.root} was made by Kafka {made_by}, this is {kafka_version}: name another directory "
                f"with --data, or remove {self.logs} and {self._version} and lose what they hold"
            )

    @property
    def is_formatted(self) -> bool:
        """Whether a format of this directory was completed."""
        return self._version.exists()

    def mark_formatted(self, kafka_version: str) -> None:
        """Note that `kafka_version` formatted the directory. Call it when the format is complete."""
        self._version.write_text(f"{kafka_version}\n")

    @property
    def cluster_id(self) -> str:
        """The id that the format gave the cluster."""
        return cluster_in(self.logs)

    async def released(self) -> None:
        """Waits until no broker holds the directory. Raises `DataUnusable` if one still does after a while.

        Kafka locks `.lock` in it with a POSIX lock, which can be tried from here.
        """
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT):
                while _is_locked(self.logs / LOCK):  # noqa: ASYNC110  # no event tells
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise DataUnusable(
                f"another broker uses {self.root}: stop it, or name another directory with --data"
            ) from None

    def log_tail(self) -> str:
        """The end of what the broker said."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - LOG_TAIL))
            return file.read().decode(errors="replace")


def logs_in(directory: Path) -> Path:
    """Kafka's logs in a data directory of ours, or `directory` itself if it is a log directory of any Kafka.

    Raises `DataUnusable` if it is neither.
    """
    for logs in (directory, directory / "kafka"):
        if (logs / META).exists():
            return logs
    raise DataUnusable(f"{directory} is no data of a Kafka: neither it nor a folder kafka in it has {META}")


def cluster_in(logs: Path) -> str:
    """The id of the cluster to which a log directory belongs."""
    lines = (logs / META).read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith("cluster.id="))


@contextmanager
def held(logs: Path) -> Iterator[None]:
    """Keep every broker from a log directory during the block. Raises `DataUnusable` if one runs on it.

    Kafka locks `.lock` in it with a POSIX lock, as this does.
    """
    try:
        with (logs / LOCK).open("w") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError as error:
        raise DataUnusable(f"a broker runs on {logs}: stop it first") from error


def new_cluster_id() -> str:
    """128 random bits as Kafka writes them; never with a dash in front, which would read as an option."""
    while (name := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return name


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _is_locked(path: Path) -> bool:
    try:
        file = path.open("r+")
    except OSError:
        return False  # never used, or not writable: `open` says which
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
