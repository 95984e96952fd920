"""The requests packed by hand are, byte for byte, what aiokafka's schemas make of them."""

from base64 import urlsafe_b64decode
from io import BytesIO

import pytest
from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol import fetch, produce, types
from hypothesis import given
from hypothesis import strategies as st

from services.eventlog import kafka_wire as wire

names = st.text("abcdefgh.-_", min_size=1, max_size=20)
int32 = st.integers(0, 2**31 - 1)
int64 = st.integers(-1, 2**63 - 1)
data = st.binary(max_size=50)
error = st.integers(-1, 120)


def by_topic(
    partition: st.SearchStrategy[tuple[object, ...]],
) -> st.SearchStrategy[list[tuple[str, list[object]]]]:
    return st.lists(st.tuples(names, st.lists(partition, max_size=4)), max_size=3)


@given(int32, by_topic(st.tuples(int32, data)))
def test_a_produce_request(timeout: int, topics: list[tuple[str, list[tuple[int, bytes]]]]) -> None:
    theirs = produce.ProduceRequest(None, -1, timeout, topics).prepare({0: (3, 7)})
    ours = wire.ProduceRequest(timeout, topics).prepare({0: (3, 13)})
    assert ours.encode() == theirs.encode()
    assert ours.build_request_header(7, "me").encode() == theirs.build_request_header(7, "me").encode()


@given(int32, int32, by_topic(st.tuples(int32, int64, int32)))
def test_a_fetch_request(wait: int, size: int, topics: list[tuple[str, list[tuple[int, int, int]]]]) -> None:
    theirs = fetch.FetchRequest(wait, 1, size, 0, topics).prepare({1: (4, 11)})
    ours = wire.FetchRequest(wait, size, topics).prepare({1: (4, 17)})
    assert ours.encode() == theirs.encode()


@given(by_topic(st.tuples(int32, error, int64, int64, int64)))
def test_a_produce_response(topics: list[tuple[str, list[tuple[int, ...]]]]) -> None:
    response = produce.ProduceResponse_v7(topics, 0)
    found = wire.ProduceRequest.RESPONSE_TYPE.decode(BytesIO(response.encode()))
    assert found == [(topic, *fields[:4]) for topic, partitions in topics for fields in partitions]


aborted = st.none() | st.lists(st.tuples(int64, int64), max_size=2)


@given(by_topic(st.tuples(int32, error, int64, int64, int64, aborted, int32, data)))
def test_a_fetch_response(
    topics: list[tuple[str, list[tuple[int, int, int, int, int, object, int, bytes]]]],
) -> None:
    response = fetch.FetchResponse_v11(0, 0, 0, topics)
    found = wire.FetchRequest.RESPONSE_TYPE.decode(BytesIO(response.encode()))
    wanted = [
        (topic, partition, code, end, records)
        for topic, partitions in topics
        for partition, code, end, _, _, _, _, records in partitions
    ]
    assert found == wanted


TAGS = types.TaggedFields
BROKERS = types.CompactArray(
    ("node", types.Int32), ("host", types.CompactString()), ("port", types.Int32),
    ("rack", types.CompactString()), ("tags", TAGS),
)  # fmt: skip
HEAD = types.Schema(
    ("throttle", types.Int32), ("brokers", BROKERS), ("cluster", types.CompactString()),
    ("controller", types.Int32),
)  # fmt: skip
ASKED = types.Schema(
    ("count", types.Int8), ("id", types.Int64), ("rest", types.Int64), ("name", types.CompactString()),
    ("tags", TAGS), ("create", types.Int8), ("cluster_acls", types.Int8), ("acls", types.Int8), ("end", TAGS),
)  # fmt: skip
LED = types.CompactArray(
    ("error", types.Int16), ("number", types.Int32), ("leader", types.Int32), ("epoch", types.Int32),
    ("replicas", types.CompactArray(types.Int32)), ("in_sync", types.CompactArray(types.Int32)),
    ("offline", types.CompactArray(types.Int32)), ("tags", TAGS),
)  # fmt: skip
hosts: st.SearchStrategy[list[tuple[object, ...]]] = st.lists(
    st.tuples(int32, st.text(min_size=1, max_size=200), int32, st.none() | names, st.just({}))
)


@given(st.text(min_size=1, max_size=200))
def test_a_describe_request_makes_no_topic(topic: str) -> None:
    ours = wire.DescribeRequest(topic).prepare({3: (0, 13)})
    assert ours.encode() == ASKED.encode((2, 0, 0, topic, {}, 0, 0, 0, {}))
    plain = wire.ProbeRequest().build_request_header(7, "me").encode()
    assert ours.build_request_header(7, "me").encode()[4:] == plain[4:] + b"\x00"


@given(hosts, st.none() | names, names, st.binary(min_size=16, max_size=16), error, st.integers(0, 300))
def test_a_describe_response(
    brokers: list[tuple[object, ...]], cluster: str | None, topic: str, id: bytes, code: int, partitions: int
) -> None:
    response = HEAD.encode((0, brokers, cluster, 1)) + b"\x02" + types.Int16.encode(code)
    response += types.CompactString().encode(topic) + id + b"\x00"
    response += LED.encode([(0, number, 1, 0, [1, 2], [1], [], {}) for number in range(partitions)])
    found = wire.DescribeRequest.RESPONSE_TYPE.decode(BytesIO(response + bytes(5)))
    assert (found.error, found.partitions) == (code, partitions)
    assert urlsafe_b64decode(found.id + "==") == (id if any(id) else b"")


def test_the_tags_of_a_header_are_passed_over() -> None:
    buffer = BytesIO(types.Int32.encode(7) + b"\x02\x00\x01a\x81\x01\x02bc" + b"rest")
    assert wire.DescribeRequest("x").parse_response_header(buffer) == (7,)
    assert buffer.read() == b"rest"


def test_an_error_of_the_whole_fetch_is_every_partitions_error() -> None:
    response = fetch.FetchResponse_v11(0, 70, 0, [("t", [(0, 0, 9, 9, 0, None, -1, None)])])
    [found] = wire.FetchRequest.RESPONSE_TYPE.decode(BytesIO(response.encode()))
    assert (found.error, found.data) == (70, b"")


def test_the_response_header_comes_first() -> None:
    buffer = BytesIO(b"\0\0\0\7" + produce.ProduceResponse_v7([], 0).encode())
    request = wire.ProduceRequest(1, [])
    assert request.parse_response_header(buffer).correlation_id == 7
    assert request.RESPONSE_TYPE.decode(buffer) == []


def test_a_broker_that_is_too_old_is_told() -> None:
    with pytest.raises(IncompatibleBrokerVersion, match="FetchRequest version 11"):
        wire.FetchRequest(1, 1, []).prepare({1: (0, 10)})
