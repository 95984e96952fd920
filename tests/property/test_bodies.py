"""No request holds up a process: every shape of the largest body costs every step little.

A step is what an event loop runs without a turn for another task. Measured is its CPU time, best of three: a
busy machine changes it little.
"""

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ApiError
from schemas.request import MAX_VALUES, parse, parsing
from schemas.values import Tally
from services.settings import Settings
from tests.bodies import FITTING, REFUSED, Shape, in_order, longest, sorted_members, uncollected

LONGEST_S = 0.1
LARGEST = Settings().max_body_bytes

ALL = [pytest.param(shape, id=name) for name, shape in {**FITTING, **REFUSED}.items()]
GOOD = [pytest.param(shape, id=name) for name, shape in FITTING.items()]


@pytest.mark.parametrize("shape", ALL)
def test_a_body_of_any_shape_is_taken_or_refused_in_short_steps(shape: Shape) -> None:
    raw = shape(LARGEST)
    assert len(raw) < LARGEST * 1.01
    with uncollected():
        assert longest(lambda: parsing(raw, MAX_VALUES), LONGEST_S) < LONGEST_S


@pytest.mark.parametrize("shape", GOOD)
def test_shapes_that_fit_are_taken(shape: Shape) -> None:
    assert parse(shape(LARGEST)).sha256


@pytest.mark.parametrize("name", REFUSED)
def test_shapes_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse(REFUSED[name](LARGEST))
    assert refused.value.status in (400, 413)


def test_what_is_left_of_a_refusal_names_the_field_that_holds_most() -> None:
    few, many = [0] * (MAX_VALUES // 3), [0] * (MAX_VALUES - 100)
    body = {"model": "m", "tools": few, "input": many, "text": "," * 1_000_000}
    with pytest.raises(ApiError, match=r"at most 50000 JSON values; 'input' holds most of them") as refused:
        parse(msgspec.json.encode(body))
    assert (refused.value.status, refused.value.param) == (413, "input")
    assert refused.value.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("element", [b'{"type":"x"}', b"[]", b"1", b'{"a":{"b":[{"":1}]}}'])
@pytest.mark.parametrize("field", ["input", "tools", "x", "metadata"])
def test_a_million_small_things_are_refused_by_the_name_of_their_field(field: str, element: bytes) -> None:
    elements = b",".join([element] * 300_000)
    with pytest.raises(ApiError) as refused:
        parse(b'{"model":"m","%b":[%b],"user":"a lot: of, words"}' % (field.encode(), elements))
    assert (refused.value.status, refused.value.param) == (413, field)


def test_a_million_members_are_refused_by_the_name_of_their_field() -> None:
    with pytest.raises(ApiError, match="'x' holds most of them"):
        parse(sorted_members(300_000))


_TEXT = st.text(st.sampled_from('ab"\\,:[]{}\n\x00é中\ud7ff\ue000\uffff\U00010000😀'), max_size=6)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e99, max_value=1e99).map(
    lambda number: 0.0 if abs(number) < 1e-99 else number  # exponents of three digits count as more
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | _FLOATS | _TEXT,
    lambda children: st.lists(children, max_size=5) | st.dictionaries(_TEXT, children, max_size=8),
    max_leaves=40,
)


@given(st.dictionaries(_TEXT, _JSON, max_size=8))
def test_the_hash_of_a_body_is_the_one_it_always_had(fields: dict[str, Any]) -> None:
    body = {"model": "m", "input": "x", "x": fields}
    raw = msgspec.json.encode(body)
    as_read = msgspec.json.decode(raw)
    assert parse(raw).sha256 == hashlib.sha256(in_order(as_read)).hexdigest()


@pytest.mark.parametrize(
    "name", ["shuffled members", "members of a schema", "small objects", "letters of any size"]
)
def test_the_hash_of_a_large_body_is_the_one_it_always_had(name: str) -> None:
    raw = FITTING[name](LARGEST)
    assert parse(raw).sha256 == hashlib.sha256(in_order(msgspec.json.decode(raw))).hexdigest()


@pytest.mark.parametrize("count", [500, 5_000])
def test_so_is_that_of_sorted_members_as_far_as_it_could_be_told(count: int) -> None:
    raw = sorted_members(count, nested=False)
    assert parse(raw).sha256 == hashlib.sha256(in_order(msgspec.json.decode(raw))).hexdigest()


@given(_JSON, st.data())
def test_the_order_of_members_does_not_matter(fields: Any, data: st.DataObject) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: shuffled(value[name]) for name in data.draw(st.permutations(list(value)))}
        return [shuffled(element) for element in value] if isinstance(value, list) else value

    bodies = [{"model": "m", "input": "x", "x": fields}, {"x": shuffled(fields), "input": "x", "model": "m"}]
    one, other = (parse(msgspec.json.encode(body)).sha256 for body in bodies)
    assert one == other


@given(_JSON, st.integers(1, 9), st.booleans())
def test_values_are_counted_exactly(value: Any, size: int, spaced: bool) -> None:
    raw = msgspec.json.encode(value)
    tally = Tally()
    text = msgspec.json.format(raw, indent=2) if spaced else raw
    for start in range(0, len(text), size):
        tally.feed(text[start : start + size])
    assert tally.values == _count(value)


def _count(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_count, children))
