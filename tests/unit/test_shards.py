"""Shards: contiguous blocks of partitions, and what settings name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import SettingsError
from schemas.shards import Shard, parse_shard, partitions_of
from services.fits import between_commas
from services.replay.app import served_by
from services.settings import load


@given(st.data(), st.integers(1, 300))
def test_every_partition_belongs_to_one_shard_and_each_shard_is_a_block(
    data: st.DataObject, count: int
) -> None:
    shards = data.draw(st.integers(1, count))
    blocks = [Shard(index, shards).partitions(count) for index in range(shards)]
    assert [partition for block in blocks for partition in block] == list(range(count))
    assert all(p * shards // count == index for index, block in enumerate(blocks) for p in block)
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1
    assert all(blocks)


@pytest.mark.parametrize("text", ["", "3", "3/3", "1/0", "-1/3", "1/3/4", "a/b", "01/3", "1 / 3", "0/100000"])
def test_what_names_no_shard(text: str) -> None:
    assert parse_shard(text) is None


def test_a_replay_may_serve_several_shards_of_two_counts_while_the_count_changes() -> None:
    assert partitions_of([Shard(0, 2), Shard(0, 3)], 8) == {0, 1, 2, 3}
    assert partitions_of([Shard(1, 2), Shard(1, 3)], 8) == {3, 4, 5, 6, 7}
    assert partitions_of([], 8) == set(range(8))


def test_settings_name_shards() -> None:
    given = {"REJOINDER_SHARD": "0/2, 0/3", "REJOINDER_REPLAY_URL": "http://localhost:1, http://localhost:2"}
    chosen = load(given)
    assert chosen.shards == (Shard(0, 2), Shard(0, 3))
    assert between_commas(chosen.replay_url) == ("http://localhost:1", "http://localhost:2")
    assert served_by(chosen, 6) == {0, 1, 2}
    assert served_by(load({}), 2) == {0, 1}


def test_more_shards_than_partitions_cannot_be() -> None:
    chosen = load({"REJOINDER_SHARD": "8/9", "REJOINDER_REPLAY_URL": "http://localhost:1"})
    with pytest.raises(SettingsError, match=r"^REJOINDER_SHARD: 8/9 .*8 partitions.*topics --partitions"):
        served_by(chosen, 8)


def test_a_shard_must_say_where_the_others_are() -> None:
    with pytest.raises(SettingsError, match=r"^REJOINDER_REPLAY_URL: needed with REJOINDER_SHARD"):
        load({"REJOINDER_SHARD": "0/2"})
