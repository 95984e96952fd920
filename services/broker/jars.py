"""Kafka's jars: pinned by `jgo.lock.toml` (coordinates and sha256), fetched once by `jgo`, kept in the user's
cache.

The cache is `$REJOINDER_CACHE`, else `$XDG_CACHE_HOME/rejoinder`, else `~/.cache/rejoinder`; the jars (45 MB)
lie under `maven/` in it. The first start on a machine downloads them (12 s on a fast line), checks every sum
and leaves a stamp named by the lock's own sum; later starts only look for the stamp. A lock on the cache lets
two first starts wait for each other. A mirror is set as everywhere with jgo: `[repositories]` in its
configuration file.

`jars` is all of it: from the lock to a list of paths. `write_lock` makes a new lock (`make lock`).
"""

import fcntl
import hashlib
import os
import tomllib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from services.broker.errors import JarsUnavailable

if TYPE_CHECKING:
    from jgo.maven import MavenContext

KAFKA_VERSION = "4.3.1"
COORDINATES = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.slf4j:slf4j-simple:1.7.36")
LOCK = Path(__file__).with_name("jgo.lock.toml")
DOWNLOADS_AT_ONCE = 6
REQUEST_TIMEOUT = 60
"""Seconds without a byte before a download counts as failed."""

log = structlog.get_logger(__name__)


class Jar(msgspec.Struct, frozen=True, rename="camel"):
    """One pinned file: Maven coordinates and the sum that its bytes must have."""

    group_id: str
    artifact_id: str
    version: str
    sha256: str

    def path(self, repository: Path) -> Path:
        """Where Maven's layout puts it under `repository`."""
        name = f"{self.artifact_id}-{self.version}.jar"
        return repository.joinpath(*self.group_id.split("."), self.artifact_id, self.version, name)

    def __str__(self) -> str:
        return f"{self.group_id}:{self.artifact_id}:{self.version}"


def pinned(lock: str) -> list[Jar]:
    """The jars that a lock file's text names."""
    return msgspec.convert(tomllib.loads(lock)["dependencies"], list[Jar])


def cache_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder in which Rejoinder keeps what can be fetched again."""
    if own := environment.get("REJOINDER_CACHE"):
        return Path(own).expanduser()
    if common := environment.get("XDG_CACHE_HOME"):
        return Path(common) / "rejoinder"
    return Path.home() / ".cache" / "rejoinder"


def jars(cache: Path | None = None) -> list[Path]:
    """Every jar of the broker's class path, downloaded first where needed. Blocks: call it in a thread.

    Raises `JarsUnavailable` when one cannot be fetched or has another sum than the lock says.
    """
    repository = (cache or cache_dir()) / "maven"
    text = LOCK.read_text()
    wanted = pinned(text)
    paths = [jar.path(repository) for jar in wanted]
    stamp = repository / f"complete-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if stamp.exists() and all(path.exists() for path in paths):
        return paths
    with _only_one(repository):
        _fetch_missing(wanted, repository)
        stamp.touch()
    return paths


@contextmanager
def _only_one(repository: Path) -> Iterator[None]:
    try:
        repository.mkdir(parents=True, exist_ok=True)
        handle = (repository / ".lock").open("w")
    except OSError as error:
        raise JarsUnavailable(
            f"cannot write the cache {repository}: {error.strerror}; set REJOINDER_CACHE to a writable folder"
        ) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fetch_missing(wanted: list[Jar], repository: Path) -> None:
    missing = [jar for jar in wanted if not _is_whole(jar, repository)]
    if not missing:
        return
    log.info("fetching Kafka, once", version=KAFKA_VERSION, jars=len(missing), into=str(repository))
    maven = _maven(repository)
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        for _ in pool.map(lambda jar: _fetch(jar, repository, maven), missing):
            pass


def _is_whole(jar: Jar, repository: Path) -> bool:
    path = jar.path(repository)
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == jar.sha256


def _fetch(jar: Jar, repository: Path, maven: "MavenContext") -> None:
    path = jar.path(repository)
    path.unlink(missing_ok=True)  # an interrupted download left it; jgo would take it for whole
    try:
        maven.project(jar.group_id, jar.artifact_id).at_version(jar.version).artifact().resolve()
    except (OSError, RuntimeError) as error:
        path.unlink(missing_ok=True)
        raise JarsUnavailable(
            f"cannot download {jar}: {error}; a machine's first start needs the network, "
            "a cluster of your own (--kafka HOST:PORT) does not"
        ) from error
    if not _is_whole(jar, repository):
        path.unlink(missing_ok=True)
        raise JarsUnavailable(f"{jar} has another sha256 than {LOCK.name} pins; what was fetched is removed")


def _maven(repository: Path) -> "MavenContext":
    from jgo.config import GlobalSettings  # imported late: 0.2 s that only a download is worth
    from jgo.maven import MavenContext

    mirrors = GlobalSettings.load().repositories
    return MavenContext(repo_cache=repository, remote_repos=mirrors or None, timeout=REQUEST_TIMEOUT)


def write_lock() -> None:
    """Resolves `COORDINATES` anew and pins what they come to."""
    from jgo.env import LockFile

    maven = _maven(cache_dir() / "maven")
    direct, others = maven.resolver.resolve([maven.create_dependency(name) for name in COORDINATES])
    needed = [*direct, *(jar for jar in others if jar.scope in {"compile", "runtime"})]
    LockFile.from_resolved_dependencies(needed, environment_name="rejoinder-kafka").save(LOCK)
