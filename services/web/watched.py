"""Files that an operator changes while we run: looked at every second, and read again when they have changed.

    changed → stood still for one look → read → taken, or said to be broken while the last good one holds

An editor or a copy writes in several steps. So a file is read only when two looks in a row have found it the
same, and when it has not changed while it was read. Links are followed at each look: Kubernetes changes a
mounted Secret by a link.
"""

import asyncio
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog
from prometheus_client import Gauge

from schemas.errors import RejoinderError

LOOK_S = 1.0
"""Seconds between two looks."""
Signature = tuple[tuple[int, ...] | None, ...]
"""What tells a file from a changed one, for each of some files; None: it cannot be seen."""

T = TypeVar("T")
log = structlog.get_logger(__name__)


class FileBroken(RejoinderError):
    """A file cannot be used. The message says which and why, and nothing of what it holds."""


def read_plain(path: Path, most: int) -> bytes:
    """The content of a file of `most` bytes at most. Raises FileBroken, also for one that anybody may write.

    A pipe or a device is never waited for.
    """
    try:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(opened, "rb") as file:
            found = os.fstat(opened)
            if not stat.S_ISREG(found.st_mode):
                raise FileBroken(f"{path} is no file")
            if found.st_mode & stat.S_IWOTH:
                raise FileBroken(f"{path} may be written by anybody: chmod o-w")
            raw = file.read(most + 1)
    except OSError as error:
        raise FileBroken(f"cannot read {path}: {error.strerror}") from error
    if len(raw) > most:
        raise FileBroken(f"{path} is over {most} bytes")
    return raw


def signature(paths: Sequence[Path]) -> Signature:
    """How the files are now."""
    return tuple(map(_signature, paths))


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Watched(Generic[T]):
    """Files that are read together. `what` names them in logs.

    `read` returns what they hold, or raises FileBroken; it runs in a thread. `take` gets that, on the loop.
    `broken` shows 1 while the files cannot be used and what was taken before holds.
    """

    def __init__(
        self,
        what: str,
        paths: Sequence[Path],
        read: Callable[[], T],
        take: Callable[[T], None],
        broken: Gauge,
        look_s: float = LOOK_S,
    ) -> None:
        self._what = what
        self._paths = paths
        self._read = read
        self._take = take
        self._broken = broken
        self._look_s = look_s
        self._taken: Signature | None = None

    def __repr__(self) -> str:
        return f"<Watched {', '.join(map(str, self._paths))}>"

    async def first(self) -> None:
        """Read the files now. Raises FileBroken."""
        self._taken = await asyncio.to_thread(signature, self._paths)
        self._take(await asyncio.to_thread(self._read))
        self._broken.set(0)

    async def run(self) -> None:
        """Read the files again whenever they have changed, for ever. Call `first` before."""
        before = self._taken
        while True:
            await asyncio.sleep(self._look_s)
            now = await asyncio.to_thread(signature, self._paths)
            if now == before != self._taken:
                await self._again(now)
            before = now

    async def _again(self, now: Signature) -> None:
        failed: FileBroken | None = None
        found: T | None = None
        try:
            found = await asyncio.to_thread(self._read)
        except FileBroken as error:
            failed = error
        if now != await asyncio.to_thread(signature, self._paths):
            return  # it changed meanwhile: the next look reads it
        self._taken = now
        if failed is None and found is not None:
            failed = self._used(found)
        self._broken.set(failed is not None)
        if failed is None:
            log.info(f"{self._what} read again")
        else:
            log.error(f"{self._what} cannot be read again, what was read before holds", why=str(failed))

    def _used(self, found: T) -> FileBroken | None:
        try:
            self._take(found)
        except FileBroken as error:
            return error
        return None
