"""Balancers' configurations: each id leads to its shard, and what is committed is what is printed."""

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import response_id
from schemas.shards import Shard
from services.cli import run
from services.terminal.balancers import Balancer, NoSuchShards, balancer_text, hex_pattern, layout
from tests.chart import DEPLOY

FILES: dict[str, Balancer] = {
    "nginx.conf": "nginx",
    "haproxy.cfg": "haproxy",
    "envoy.yaml": "envoy",
    "gateway.yaml": "gateway",
}
REPLAY = "rejoinder-replay-{shard}:8000"


@given(st.integers(0, 0xFFFF), st.integers(1, 0x10000))
def test_a_pattern_has_the_partitions_of_its_block_alone(start: int, size: int) -> None:
    block = range(start, min(start + size, 0x10000))
    matches = re.compile(hex_pattern(block)).fullmatch
    edges = {block.start - 1, block.start, block.start + 1, block.stop - 2, block.stop - 1, block.stop}
    for partition in {*edges, *range(0, 0x10000, 997)} & set(range(0x10000)):
        assert bool(matches(f"{partition:04x}")) == (partition in block)


@pytest.mark.parametrize("shards, partitions", [(1, 1), (3, 8), (7, 64), (100, 1024)])
def test_each_response_has_one_way(shards: int, partitions: int) -> None:
    text = balancer_text("nginx", layout(shards, partitions, [REPLAY]))
    ways = re.findall(r'^ {4}"~(\^.*\$)" rejoinder_shard_(\d+);$', text, flags=re.MULTILINE)
    assert len(ways) == shards
    for partition in range(partitions):
        path = f"/v1/responses/{response_id(partition, bytes(16))}"
        for below in ("", "/cancel", "/input_items"):
            [found] = [int(shard) for pattern, shard in ways if re.search(pattern, path + below)]
            assert partition in Shard(found, shards).partitions(partitions)
        assert not any(re.search(pattern, f"{path}0") for pattern, _ in ways), "no id of ours"


@pytest.mark.parametrize("name", FILES)
def test_what_is_committed_is_what_the_command_prints(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["shards", FILES[name], "--shards", "3", "--partitions", "8"]) == 0
    assert (DEPLOY / "balancers" / name).read_text() == capsys.readouterr().out


@pytest.mark.parametrize("balancer", ["envoy", "gateway"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_what_is_not_run_here_is_well_formed(balancer: Balancer, replicas: int) -> None:
    named = [f"{'ab'[n]}-{REPLAY}" for n in range(replicas)]
    text = balancer_text(balancer, layout(3, 8, named))
    assert "Not run here" in text
    assert yaml.safe_load(text)
    assert text.count("a-rejoinder-replay-1:8000".partition(":")[0]) >= 2


def test_shards_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NoSuchShards, match="have 1 to 8"):
        layout(9, 8, [REPLAY])
    for partitions in (0, 65_537):
        with pytest.raises(NoSuchShards, match="a topic has 1 to 65536"):
            layout(1, partitions, [REPLAY])
    with pytest.raises(NoSuchShards, match=r"write \{shard\}"):
        layout(2, 8, ["replay:8000"])
    assert run(["shards", "nginx", "--shards", "9", "--partitions", "8"]) == 1
    assert "8 partitions cannot be 9 shards" in capsys.readouterr().err
