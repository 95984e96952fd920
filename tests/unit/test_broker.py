"""The embedded broker's pure pieces: its settings, the probe's bytes, the data directory, the pinned jars."""

import struct
from pathlib import Path

import pytest

from services.broker.data import DataDir, new_cluster_id
from services.broker.errors import DataUnusable
from services.broker.jars import KAFKA_VERSION, LOCK, cache_dir, pinned
from services.broker.probe import cluster_id, metadata_request
from services.broker.properties import ClusterNode, render, server_properties


def string(text: str | None) -> bytes:
    return struct.pack(">h", -1) if text is None else struct.pack(">h", len(text)) + text.encode()


def answer(brokers: int, cluster: str | None, correlation: int = 7) -> bytes:
    nodes = b"".join(
        struct.pack(">i", node) + string("127.0.0.1") + struct.pack(">i", 9092) + string(None)
        for node in range(brokers)
    )
    return struct.pack(">ii", correlation, brokers) + nodes + string(cluster) + struct.pack(">ii", 1, 0)


def test_settings_listen_on_loopback_only_and_what_is_given_goes_over_them() -> None:
    settings = server_properties(
        Path("/data/kafka"), 19092, ClusterNode(1, "", {1: 19093}), {"num.partitions": "3", "node.id": "9"}
    )
    assert settings["listeners"] == "PLAINTEXT://127.0.0.1:19092,CONTROLLER://127.0.0.1:19093"
    assert settings["controller.quorum.voters"] == "1@127.0.0.1:19093"
    assert settings["auto.create.topics.enable"] == "false"
    assert (settings["num.partitions"], settings["node.id"]) == ("3", "9")


def test_properties_are_one_line_each_whatever_their_values_hold() -> None:
    assert render({"log.dirs": "C:\\new data", "x": "a\nb"}) == "log.dirs=C:\\\\new data\nx=a\\nb\n"


def test_the_probe_is_a_metadata_request_for_no_topics() -> None:
    request = metadata_request()
    assert struct.unpack_from(">ihhi", request) == (len(request) - 4, 3, 2, 7)
    assert request.endswith(b"rejoinder" + bytes(4))


@pytest.mark.parametrize(
    "bytes_, cluster",
    [
        (answer(1, "abc"), "abc"),
        (answer(3, "abc"), "abc"),
        (answer(1, None), None),
        (answer(0, "abc"), None),
        (answer(1, "abc", correlation=8), None),
    ],
)
def test_a_cluster_is_known_once_a_broker_has_joined_it(bytes_: bytes, cluster: str | None) -> None:
    assert cluster_id(bytes_) == cluster


@pytest.mark.parametrize("cut", [0, 7, 12, 20])
def test_a_cut_answer_is_an_error_not_a_guess(cut: int) -> None:
    with pytest.raises(struct.error):
        cluster_id(answer(1, "abc")[:cut])


def test_a_member_knows_the_controllers_of_its_cluster() -> None:
    settings = server_properties(Path("/data"), 19092, ClusterNode(2, "id", {1: 7001, 2: 7002, 3: 7003}), {})
    assert settings["node.id"] == "2"
    assert settings["controller.quorum.voters"] == "1@127.0.0.1:7001,2@127.0.0.1:7002,3@127.0.0.1:7003"
    assert settings["listeners"] == "PLAINTEXT://127.0.0.1:19092,CONTROLLER://127.0.0.1:7002"


def test_a_cluster_id_is_what_kafka_reads_as_one() -> None:
    ids = {new_cluster_id() for _ in range(200)}
    assert len(ids) == 200
    assert all(len(id) == 22 and not id.startswith("-") for id in ids)


@pytest.mark.parametrize("made_by, usable", [("4.0.2", True), (KAFKA_VERSION, True), ("4.4.0", False)])
def test_data_of_this_kafka_and_older_ones_can_be_used(tmp_path: Path, made_by: str, usable: bool) -> None:
    data = DataDir(tmp_path)
    data.open("4.3.1")
    assert not data.is_formatted
    data.mark_formatted(made_by)
    if usable:
        data.open("4.3.1")
    else:
        with pytest.raises(DataUnusable, match=r"was made by Kafka 4\.4\.0, this is 4\.3\.1"):
            data.open("4.3.1")


def test_each_start_keeps_the_log_of_the_one_before(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    for said in ("first", "second", "third"):
        data.open("4.3.1")
        data.log.write_text(said)
    assert data.log_tail() == "third"
    assert (tmp_path / "kafka.log.1").read_text() == "second"


def test_every_jar_is_pinned_by_its_sum_and_the_lock_names_no_host() -> None:
    text = LOCK.read_text()
    wanted = pinned(text)
    assert f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}" in map(str, wanted)
    assert all(len(bytes.fromhex(jar.sha256)) == 32 for jar in wanted)
    assert "://" not in text


def test_the_cache_is_where_the_environment_says() -> None:
    assert cache_dir({"REJOINDER_CACHE": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
    assert cache_dir({"XDG_CACHE_HOME": "/b"}) == Path("/b/rejoinder")
    assert cache_dir({}) == Path.home() / ".cache/rejoinder"
