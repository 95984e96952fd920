"""Fetching Kafka's jars, from a Maven repository on loopback with what this machine has fetched already."""

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.broker import jars as module
from services.broker.errors import JarsUnavailable
from services.broker.jars import LOCK, jars, pinned

SMALL = "net.sf.jopt-simple:jopt-simple:5.0.4"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository with one pinned jar, which alone is wanted; jgo is told of it by its configuration."""
    text = LOCK.read_text()
    (jar,) = (jar for jar in pinned(text) if str(jar) == SMALL)
    files = tmp_path / "mirror"
    whole = next(path for path in jars() if path.name == jar.path(files).name)
    jar.path(files).parent.mkdir(parents=True)
    shutil.copy(whole, jar.path(files))
    monkeypatch.setattr(module, "pinned", lambda _: [jar])

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=files))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    configuration = tmp_path / "jgo.conf"
    configuration.write_text(f"[repositories]\nhere = http://127.0.0.1:{server.server_port}\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(configuration))
    yield jar.path(files)
    server.shutdown()
    thread.join()
    server.server_close()


def test_jars_are_fetched_once(mirror: Path, tmp_path: Path) -> None:
    (path,) = jars(tmp_path / "cache")
    assert path.read_bytes() == mirror.read_bytes()
    mirror.unlink()
    assert jars(tmp_path / "cache") == [path]


def test_what_an_interrupted_download_left_is_fetched_again(mirror: Path, tmp_path: Path) -> None:
    path = tmp_path.joinpath("cache/maven", *mirror.relative_to(tmp_path / "mirror").parts)
    path.parent.mkdir(parents=True)
    path.write_bytes(mirror.read_bytes()[:1000])
    assert jars(tmp_path / "cache") == [path]
    assert path.read_bytes() == mirror.read_bytes()


def test_a_jar_that_is_not_the_pinned_one_is_refused_and_removed(mirror: Path, tmp_path: Path) -> None:
    mirror.write_bytes(b"something else")
    with pytest.raises(JarsUnavailable, match=rf"{SMALL} has another sha256 than jgo\.lock\.toml pins"):
        jars(tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.jar"))


def test_a_jar_that_cannot_be_had_is_named(mirror: Path, tmp_path: Path) -> None:
    mirror.unlink()
    with pytest.raises(JarsUnavailable, match=rf"cannot download {SMALL}: .*needs the network"):
        jars(tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JarsUnavailable, match="set REJOINDER_CACHE to a writable folder"):
        jars(tmp_path / "file")
