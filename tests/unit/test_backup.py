"""A backup of what a stopped broker holds: whole or not there, restored as it was or not at all."""

import io
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import zstandard

from services.broker.backup import CONTENTS, back_up, restore
from services.broker.errors import BackupUnusable, DataUnusable
from services.cli import run

FILES: Mapping[str, bytes] = {
    "kafka/meta.properties": b"version=1\ncluster.id=abc\nnode.id=1\n",
    "kafka/topic-0/00000000000000000000.log": os.urandom(300_000),
    "kafka/topic-0/00000000000000000000.index": bytes(1 << 20),
    "kafka/empty": b"",
    "kafka-version": b"4.3.1\n",
    "webhooks.key": b"dev=key\n",
}
LOCKING = "import fcntl, sys\nfile = open(sys.argv[1], 'w')\nfcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)"
"""What a broker does at its start."""
MADE_ANEW = ("kafka.log", "kafka.properties", "kafka/.lock")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory, as `rejoinder dev` leaves it."""
    for name, content in FILES.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name in MADE_ANEW:
        (tmp_path / "data" / name).write_text("of this start")
    (tmp_path / "data" / "webhooks.key").chmod(0o600)
    return tmp_path / "data"


@pytest.fixture
def made(data: Path, tmp_path: Path) -> Path:
    """A backup of it."""
    back_up(data, tmp_path / "backup")
    return tmp_path / "backup"


def held_in(directory: Path) -> Mapping[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_what_is_restored_is_what_was_backed_up(data: Path, tmp_path: Path) -> None:
    os.utime(data / "kafka-version", (1_700_000_000, 1_700_000_000))
    wrote = back_up(data, tmp_path / "backup")
    assert wrote.cluster == "abc"
    assert wrote.bytes == sum(map(len, FILES.values()))
    target = tmp_path / "not" / "there" / "yet"
    assert restore(tmp_path / "backup", target) == wrote
    assert held_in(target) == FILES
    assert stat.S_IMODE((target / "webhooks.key").stat().st_mode) == 0o600
    assert (target / "kafka-version").stat().st_mtime == 1_700_000_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "data", "not"]


def test_a_log_directory_of_any_kafka_is_backed_up_as_well(data: Path, tmp_path: Path) -> None:
    assert back_up(data / "kafka", tmp_path / "backup").cluster == "abc"
    restore(tmp_path / "backup", tmp_path / "logs")
    inside = {
        name.removeprefix("kafka/"): content for name, content in FILES.items() if name.startswith("kafka/")
    }
    assert held_in(tmp_path / "logs") == inside


def test_only_its_owner_reads_it(made: Path) -> None:
    assert stat.S_IMODE(made.stat().st_mode) == 0o600


def test_a_running_broker_is_not_backed_up(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"{LOCKING}\nprint(flush=True)\ninput()", str(data / "kafka" / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as broker:
        assert broker.stdout is not None
        broker.stdout.readline()
        with pytest.raises(DataUnusable, match=r"a broker runs on .*kafka: stop it first"):
            back_up(data, tmp_path / "backup")
        broker.communicate(b"\n")
    assert not (tmp_path / "backup").exists()
    back_up(data, tmp_path / "backup")


def test_no_broker_starts_amid_a_backup(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is held in another process's eyes for as long as files are read."""
    tried = [sys.executable, "-c", LOCKING, str(data / "kafka" / ".lock")]
    seen: list[int] = []
    add = tarfile.TarFile.addfile

    def watched(*arguments: object) -> None:
        seen.append(subprocess.run(tried, capture_output=True, check=False).returncode)
        add(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(tarfile.TarFile, "addfile", watched)
    back_up(data, tmp_path / "backup")
    assert len(seen) == len(FILES) + 1
    assert all(seen)


def test_no_file_is_written_over(data: Path, made: Path) -> None:
    before = made.read_bytes()
    with pytest.raises(BackupUnusable, match="backup exists: name another file"):
        back_up(data, made)
    assert made.read_bytes() == before


def test_a_directory_that_holds_something_is_left_alone(made: Path, data: Path) -> None:
    before = held_in(data)
    with pytest.raises(DataUnusable, match="is not empty"):
        restore(made, data)
    assert held_in(data) == before


def test_an_empty_directory_is_filled(made: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    restore(made, tmp_path / "empty")
    assert held_in(tmp_path / "empty") == FILES


def test_what_is_no_kafka_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataUnusable, match="is no data of a Kafka"):
        back_up(tmp_path, tmp_path / "backup")


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off_restores_nothing(made: Path, tmp_path: Path, part: float) -> None:
    whole = made.read_bytes()
    made.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(BackupUnusable, match=r"cut off|no backup"):
        restore(made, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "data"]


@pytest.mark.parametrize("place", [0.05, 0.3, 0.6, 0.95])
def test_a_changed_file_restores_nothing(made: Path, tmp_path: Path, place: float) -> None:
    changed = bytearray(made.read_bytes())
    changed[int(len(changed) * place)] ^= 1
    made.write_bytes(changed)
    with pytest.raises(BackupUnusable, match=r"changed|no backup"):
        restore(made, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def rewritten(made: Path, members: Mapping[str, bytes]) -> Path:
    """The backup with more members, or others, before its end."""
    packed = io.BytesIO(zstandard.ZstdDecompressor().stream_reader(made.read_bytes()).read())
    out = io.BytesIO()
    with tarfile.open(fileobj=packed) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old:
            source = old.extractfile(member)
            assert source is not None
            if member.name == CONTENTS:
                for name, content in members.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    new.addfile(info, io.BytesIO(content))
            new.addfile(member, source)
    made.write_bytes(zstandard.compress(out.getvalue()))
    return made


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "kafka/../../outside"])
def test_nothing_is_laid_outside(made: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(BackupUnusable, match="is no backup: it has"):
        restore(rewritten(made, {name: b"x"}), tmp_path / "target")
    assert not (tmp_path / "outside").exists()


def test_a_member_that_its_end_does_not_name_is_a_change(made: Path, tmp_path: Path) -> None:
    with pytest.raises(BackupUnusable, match="kafka/more is not what its end says"):
        restore(rewritten(made, {"kafka/more": b"x"}), tmp_path / "target")


def test_the_commands_say_what_they_did(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, target = str(tmp_path / "backup"), str(tmp_path / "target")
    assert run(["backup", file, "--data", str(data)]) == 0
    assert run(["restore", file, "--data", target]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == ["backed up cluster abc", "restored cluster abc"]
    assert run(["restore", file, "--data", target]) == 1
    assert capsys.readouterr().err.startswith(f"rejoinder: {target} is not empty")
