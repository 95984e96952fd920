"""Backup and restore of a stopped broker's data: its bytes, and nothing less.

`back_up` writes one file, a tar packed with zstd. `restore` lays the directory anew, and checks every byte on
the way. What is restored has the same offsets and the same log times: records hold offsets of other records,
and log time decides what counts. What a producer copies into new topics has neither: each `accepted` there
would be later than its `not_after`, and void.

The directory is that of `rejoinder dev` (`--data`), or the log directory of any broker of Kafka. The broker
must be stopped; its lock is held meanwhile, so it cannot be started either. Of several brokers all must be
stopped before the first backup begins: then all partitions are as of one moment.

The file ends with what is in it: every path with its sum. A file that was cut off has no such end.
"""

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec
import zstandard
from msgspec import Struct

from services.broker.data import LOCK, cluster_in, held, logs_in
from services.broker.errors import BackupUnusable, DataUnusable

CONTENTS = "rejoinder-backup.json"
"""The last member of the file."""
LEFT_OUT = frozenset({LOCK, "kafka.log", "kafka.log.1", "kafka.properties"})
"""Names of files that each start makes anew."""
PIECE = 1 << 20
"""Bytes that are read at once."""
LEVEL = 3
"""Of zstd: fast."""


class Contents(Struct, frozen=True, kw_only=True):
    """What is in a backup: the cluster's id, how many bytes, and by path the sum (SHA-256, hex) of each."""

    cluster: str
    bytes: int
    sums: Mapping[str, str]
    format: int = 1


def back_up(directory: Path, file: Path) -> Contents:
    """Write all that is in `directory` to `file`, which only its owner may read.

    Raises DataUnusable if the directory is no broker's or its broker runs, BackupUnusable if the file exists
    or cannot be written. The file is there once it is whole.
    """
    logs = logs_in(directory)
    if file.exists():
        raise BackupUnusable(f"{file} exists: name another file, or remove it")
    unfinished = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        with held(logs):
            contents = _pack(directory, unfinished, cluster_in(logs))
        unfinished.replace(file)
    except OSError as error:
        raise BackupUnusable(f"cannot write {file}: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return contents


def _pack(directory: Path, file: Path, cluster: str) -> Contents:
    sums, total = dict[str, str](), 0
    packed = os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    with packed, compressor.stream_writer(packed) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        for path in sorted(directory.rglob("*")):
            if not path.is_file() or path.name in LEFT_OUT:
                continue
            name = path.relative_to(directory).as_posix()
            with path.open("rb") as source:
                member = tar.gettarinfo(arcname=name, fileobj=source)
                read = _Summed(source)
                tar.addfile(member, read)
            sums[name] = read.sum
            total += member.size
        contents = Contents(cluster=cluster, bytes=total, sums=sums)
        text = msgspec.json.encode(contents)
        end = tarfile.TarInfo(CONTENTS)
        end.size = len(text)
        tar.addfile(end, io.BytesIO(text))
    return contents


def restore(file: Path, directory: Path) -> Contents:
    """Lay `directory` as it was when `file` was made.

    Raises BackupUnusable if the file is not whole or was changed, DataUnusable if the directory cannot be
    written or something is in it. It is laid all at once, or stays as it was.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise DataUnusable(f"{directory} is not empty: name another directory, or remove it first")
    unfinished = directory.with_name(f"{directory.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        contents = _unpack(file, unfinished)
        if directory.exists():
            directory.rmdir()
        unfinished.replace(directory)
    except OSError as error:
        at = error.filename or directory
        raise DataUnusable(f"cannot restore {file} to {directory}: {at}: {error.strerror}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return contents


def _unpack(file: Path, directory: Path) -> Contents:
    sums, told = dict[str, str](), None
    try:
        with (
            file.open("rb") as packed,
            zstandard.ZstdDecompressor().stream_reader(packed) as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            for member in tar:
                source = tar.extractfile(member)
                if source is None or not _is_inside(member.name):
                    raise BackupUnusable(f"{file} is no backup: it has {member.name!r}")
                if member.name == CONTENTS:
                    told = msgspec.json.decode(source.read(), type=Contents)
                else:
                    sums[member.name] = _lay(source, directory / member.name, member)
    except (tarfile.TarError, zstandard.ZstdError, msgspec.DecodeError, EOFError) as error:
        raise BackupUnusable(f"{file} is no backup, or was cut off or changed: {error}") from error
    if told is None:
        raise BackupUnusable(f"{file} was cut off: its end, which says what is in it, is missing")
    if wrong := sorted(told.sums.items() ^ sums.items()):
        raise BackupUnusable(f"{file} was changed: {wrong[0][0]} is not what its end says")
    return told


def _lay(source: IO[bytes], path: Path, member: tarfile.TarInfo) -> str:
    """Write a file with its mode and time of change. Returns its sum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    read = _Summed(source)
    with path.open("xb") as target:
        shutil.copyfileobj(read, target, PIECE)
        target.flush()
        os.fsync(target.fileno())
    path.chmod(member.mode & 0o777)
    os.utime(path, (member.mtime, member.mtime))
    return read.sum


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


class _Summed:
    """A file that is read once, and the sum of what was read."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._sum = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes."""
        piece = self._source.read(size)
        self._sum.update(piece)
        return piece

    @property
    def sum(self) -> str:
        """SHA-256, in hex."""
        return self._sum.hexdigest()
