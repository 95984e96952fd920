"""The store on its disk: what it keeps over a restart, and when it is made anew (P-137)."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from schemas.ids import Tenant, response_id
from schemas.records import Headers, NewRecord
from services.eventlog.port import Bounds
from services.eventlog.shelf import Shelved, Whereabouts
from services.eventlog.transcript import gone_record
from services.replay.app import store_directory
from services.replay.disk import FOLDER, Disk, RocksDisk, StoreFailed, StoreUnusable
from services.replay.store import ABSENT_MS, Store
from tests.stores import MemoryDisk

ID, OTHER, FAR = (response_id(partition, b"%016d" % n) for n, partition in enumerate((3, 3, 4)))
NOW = 1_000_000


class Stored(NamedTuple):
    """A record as the log would hand it out."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    offset: int = 0
    timestamp: int = NOW


def stored(record: NewRecord, offset: int = 0) -> Stored:
    return Stored(record.key, record.value, record.headers, offset)


def entry(request: int = 7) -> Shelved:
    return Shelved(
        tenant=Tenant("t"),
        status="completed",
        background=True,
        body_sha256="sha",
        accepted_offset=4,
        created_at=1,
        closed_offset=9,
        events=1,
        where=Whereabouts(request, (request + 1,), (0,)),
    )


@pytest.fixture(params=["rocksdb", "memory"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """Both kinds of disk, under the same tests."""
    one: Disk = RocksDisk(tmp_path) if request.param == "rocksdb" else MemoryDisk()
    yield one
    one.close()


def filled(kept: Disk) -> Store:
    """A store with two entries and a `gone`, up to offset 4 of partition 3."""
    store = Store(kept)
    store.belongs_to("topic-1")
    records = [entry().new(ID), entry().new(OTHER), gone_record(OTHER, Tenant("t"))]
    assert store.take(3, [stored(one, n) for n, one in enumerate(records)], 4, lambda _: None) == []
    return store


def test_what_was_taken_is_found_and_so_is_where_to_go_on(kept: Disk) -> None:
    store = filled(kept)
    assert store.entry(ID) == (entry(), 0)
    assert (store.gone(ID), store.gone(OTHER), store.entry(FAR)) == (None, 2, None)
    assert store.resume(3, Bounds(0, 9), NOW) == 4
    assert store.resume(4, Bounds(5, 9), NOW) == 5


def test_tombstones_erase_and_the_last_entry_holds(kept: Disk) -> None:
    store = filled(kept)
    later = [entry(20).new(ID), NewRecord(OTHER.encode(), None), NewRecord(f"{OTHER}/gone".encode(), None)]
    store.take(3, [stored(one, n) for n, one in enumerate(later, 4)], 7, lambda _: None)
    assert store.entry(ID) == (entry(20), 4)
    assert (store.entry(OTHER), store.gone(OTHER)) == (None, None)


@pytest.mark.parametrize(
    "bounds, now",
    [
        (Bounds(5, 9), NOW),  # retention has passed it
        (Bounds(0, 3), NOW),  # the topic is shorter than what was read of it
        (Bounds(0, 5), NOW + ABSENT_MS + 1),  # tombstones may have come and gone
    ],
)
def test_p137_a_partition_that_may_have_missed_anything_is_read_anew(
    kept: Disk, bounds: Bounds, now: int
) -> None:
    store = filled(kept)
    store.take(4, [stored(entry().new(FAR))], 1, lambda _: None)
    assert store.resume(3, bounds, now) == bounds.start
    assert (store.entry(ID), store.gone(OTHER)) == (None, None)
    assert store.entry(FAR) is not None


def test_nothing_is_missed_where_nothing_came(kept: Disk) -> None:
    store = filled(kept)
    assert store.resume(3, Bounds(0, 4), NOW + 10 * ABSENT_MS) == 4
    assert store.entry(ID) is not None


def test_p137_rows_of_another_topic_are_dropped(kept: Disk) -> None:
    store = filled(kept)
    store.belongs_to("topic-1")
    assert store.entry(ID) is not None
    store.belongs_to("topic-2")
    assert store.entry(ID) is None
    assert store.resume(3, Bounds(0, 9), NOW) == 0


def test_p137_rows_of_another_version_are_dropped(kept: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(kept)
    monkeypatch.setattr("services.replay.store.FORM", 2)
    store.belongs_to("topic-1")
    assert store.entry(ID) is None


def test_p137_a_process_that_is_started_again_finds_rows_and_standing(tmp_path: Path) -> None:
    filled(RocksDisk(tmp_path)).close()
    store = Store(RocksDisk(tmp_path))
    store.belongs_to("topic-1")
    assert store.entry(ID) == (entry(), 0)
    assert store.resume(3, Bounds(0, 9), NOW) == 4
    store.close()


@pytest.mark.parametrize("name", ["CURRENT", "MANIFEST-*", "*.sst"])
def test_a_store_that_is_broken_is_made_anew(tmp_path: Path, name: str) -> None:
    filled(RocksDisk(tmp_path)).close()
    filled(RocksDisk(tmp_path)).close()
    for path in (tmp_path / FOLDER).glob(name):
        path.write_bytes(b"\xff" * path.stat().st_size)
    one = RocksDisk(tmp_path)
    store = Store(one)
    try:
        store.belongs_to("topic-1")
        store.entry(ID)
    except StoreFailed:
        store.reopen()
        store.belongs_to("topic-1")
    assert store.entry(ID) is None
    assert store.resume(3, Bounds(0, 9), NOW) == 0
    store.close()


def test_a_store_that_another_process_uses_is_not_touched(tmp_path: Path) -> None:
    first = RocksDisk(tmp_path)
    first.write([(b"k", b"v")])
    with pytest.raises(StoreUnusable, match="REJOINDER_STORE_DIR of its own"):
        RocksDisk(tmp_path)
    assert first.get(b"k") == b"v"
    first.close()


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnusable, match="cannot be made"):
        RocksDisk(tmp_path / "file")


@pytest.mark.parametrize(
    "said, told",
    [
        ("IO error: No space left on device: While appending to file", "on a full disk"),
        ("IO error: While open a file for random read: Permission denied", "cannot be written"),
        ("Corruption: block checksum mismatch", "is broken"),
    ],
)
def test_a_failure_says_what_to_do(
    tmp_path: Path, said: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def __init__(self, *_: object) -> None:
            """Open."""

        def get(self, _: bytes) -> bytes:
            raise OSError(said)

        def close(self) -> None:
            pass

    monkeypatch.setattr("rocksdict.Rdict", Failing)
    with pytest.raises(StoreFailed, match=told):
        RocksDisk(tmp_path).get(b"k")


def test_without_a_setting_the_store_ends_with_its_process(tmp_path: Path) -> None:
    with store_directory("") as fresh:
        filled(RocksDisk(fresh)).close()
    assert not fresh.exists()
    with store_directory(str(tmp_path)) as chosen:
        assert chosen == tmp_path
    assert tmp_path.exists()
