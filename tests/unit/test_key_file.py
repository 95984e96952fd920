"""The file of keys while a service runs: taken when it has changed, kept when it is broken."""

import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from services.web.key_file import KeyFile
from services.web.watched import FileBroken, read_plain
from tests.conftest import eventually
from tests.unit.test_api_keys import content, line

LOOK_S = 0.01
Write = Callable[[bytes], None]


@asynccontextmanager
async def watching(path: Path) -> AsyncIterator[KeyFile]:
    """The keys of a file that is watched closely."""
    file = KeyFile(path, LOOK_S)
    await file.first()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(file.run)
        yield file
        tasks.cancel_scope.cancel()


def broken() -> float | None:
    return REGISTRY.get_sample_value("rejoinder_api_keys_broken")


def tenant_of(file: KeyFile, key: str) -> str | None:
    found = file.find(key)
    return None if found is None else found.tenant


async def test_a_key_that_is_added_is_taken_and_one_that_is_gone_is_not(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content(line("one")))
    async with watching(path) as file:
        assert (tenant_of(file, "one"), tenant_of(file, "two")) == ("acme", None)
        path.write_bytes(content(line("two", tenant="blue")))
        await eventually(lambda: tenant_of(file, "two") == "blue")
        assert tenant_of(file, "one") is None
        path.write_bytes(b"")
        await eventually(lambda: file.find("two") is None)


BREAKING: dict[str, Callable[[Path], object]] = {
    "half a line": lambda path: path.write_bytes(content(line("two"))[:-5]),
    "gone": lambda path: path.unlink(),
    "anybody's": lambda path: path.chmod(0o666),
    "a folder": lambda path: _instead(path, path.mkdir),
    "a pipe": lambda path: _instead(path, lambda: os.mkfifo(path)),
}


def _instead(path: Path, make: Callable[[], None]) -> None:
    path.unlink()
    make()


@pytest.mark.parametrize("breaks", BREAKING.values(), ids=BREAKING)
async def test_a_broken_file_keeps_the_last_good_one_and_says_so_once(
    tmp_path: Path, breaks: Callable[[Path], object]
) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content(line("one")))
    with capture_logs() as logs:
        async with watching(path) as file:
            assert broken() == 0
            breaks(path)
            await eventually(lambda: broken() == 1)
            assert tenant_of(file, "one") == "acme"
            made = tmp_path / "made"
            made.write_bytes(content(line("two")))
            if path.is_dir():
                path.rmdir()
            made.replace(path)
            await eventually(lambda: tenant_of(file, "two"))
            assert broken() == 0
    told = [entry for entry in logs if entry["log_level"] == "error"]
    assert len(told) == 1
    assert str(path) in told[0]["why"]


async def test_a_link_that_leads_to_another_file_is_a_change(tmp_path: Path) -> None:
    """Kubernetes mounts a Secret as links to a folder, and changes the link to that."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys").write_bytes(content(line(name)))
    (tmp_path / "data").symlink_to("old")
    (tmp_path / "keys").symlink_to("data/keys")
    async with watching(tmp_path / "keys") as file:
        assert file.find("old")
        (tmp_path / "next").symlink_to("new")
        (tmp_path / "next").replace(tmp_path / "data")
        await eventually(lambda: file.find("new"))
        assert file.find("old") is None


async def test_a_file_that_is_being_written_is_not_read_before_it_stands_still(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content(line("one")))
    with capture_logs() as logs:
        async with watching(path) as file:
            with path.open("wb") as writing:
                for part in (
                    content(line("one"))[:30],
                    content(line("one"))[30:],
                    content(line("two", name="2")),
                ):
                    writing.write(part)
                    writing.flush()
            await eventually(lambda: file.find("two"))
            assert file.find("one")
    assert [entry["event"] for entry in logs] == ["the API keys read again"]


def test_a_file_over_the_bound_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"#" * 101)
    assert read_plain(path, 101)
    with pytest.raises(FileBroken, match="over 100 bytes"):
        read_plain(path, 100)


async def test_at_the_start_a_broken_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(FileBroken, match=f"cannot read {path}"):
        await KeyFile(path).first()
    path.write_bytes(b"{")
    path.chmod(stat.S_IRUSR)
    with pytest.raises(FileBroken, match=f"{path}: line 1: "):
        await KeyFile(path).first()
