"""Whatever way a server cuts its tool calls into pieces, they come out as the calls that they were."""

import json
from collections.abc import Callable
from itertools import groupby, pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.executor.backends.chat.calls import Call, Calls
from services.executor.backends.chat.turns import CallTurns
from tests.long import examples

Piece = dict[str, Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]
Deltas = list[list[Piece]]

TOOLS = ["get_weather", "get_time", "get", "search", "search_web", "f", "roll_dice"]
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99) | st.text('ab"{}[]\\:, é\n', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2)
    ),
    max_leaves=5,
)
arguments = st.dictionaries(st.sampled_from(["a", "city"]), values, max_size=2)
calls = st.lists(st.tuples(st.sampled_from(TOOLS), arguments), min_size=1, max_size=4)


def piece(index: int | None = None, id: str | None = None, name: str | None = None, said: Any = "") -> Piece:
    made: Piece = {"type": "function", "function": {"name": name, "arguments": said}}
    return made | ({} if index is None else {"index": index}) | ({} if id is None else {"id": id})


def cut(draw: Draw, text: str, most: int = 3) -> list[str]:
    """`text` in up to `most` + 1 pieces, none of them empty."""
    marks = st.integers(1, max(len(text) - 1, 1))
    at = sorted({0, len(text), *draw(st.lists(marks, max_size=most))})
    return [text[start:end] for start, end in pairwise(at) if start < end]


def interleaved(draw: Draw, lanes: list[list[Piece]]) -> Deltas:
    """The pieces of each lane in their order, the lanes mixed; no lane begins before the one ahead of it."""
    deltas: Deltas = []
    waiting = [list(lane) for lane in lanes]
    begun = 0
    while any(waiting):
        open_lanes = [at for at, lane in enumerate(waiting) if lane and at <= begun]
        at = draw(st.sampled_from(open_lanes))
        begun = max(begun, at + 1)
        one = waiting[at].pop(0)
        if deltas and draw(st.booleans()) and one.get("index") is not None:
            deltas[-1].append(one)
        else:
            deltas.append([one])
    return deltas


def heads(draw: Draw, said: list[tuple[str, str]]) -> Deltas:
    """As OpenAI does: an index each, id and name first."""
    lanes = [
        [piece(at, f"c{at}", name, ""), *(piece(at, said=part) for part in cut(draw, text))]
        for at, (name, text) in enumerate(said)
    ]
    return interleaved(draw, lanes)


def all_repeated(draw: Draw, said: list[tuple[str, str]]) -> Deltas:
    """Id and name on each piece."""
    lanes = [
        [piece(at, f"c{at}", name, part) for part in cut(draw, text)] for at, (name, text) in enumerate(said)
    ]
    return interleaved(draw, lanes)


def named_again(draw: Draw, said: list[tuple[str, str]]) -> Deltas:
    """The name on each piece, no id."""
    lanes = [[piece(at, "", name, part) for part in cut(draw, text)] for at, (name, text) in enumerate(said)]
    return interleaved(draw, lanes)


def fresh_ids(draw: Draw, said: list[tuple[str, str]]) -> Deltas:
    """Another id on each piece."""
    lanes = [
        [
            piece(at, f"c{at}", name, ""),
            *(piece(at, f"x{at}-{n}", None, part) for n, part in enumerate(cut(draw, text))),
        ]
        for at, (name, text) in enumerate(said)
    ]
    return interleaved(draw, lanes)


def shared_index(draw: Draw, said: list[tuple[str, str]]) -> Deltas:
    """Index 0 for all, no ids, each call whole."""
    pieces = [piece(0, draw(st.sampled_from(["", None])), name, text) for name, text in said]
    return [pieces] if draw(st.booleans()) else [[one] for one in pieces]


def shared_index_in_pieces(draw: Draw, said: list[tuple[str, str]]) -> Deltas:
    """Index 0 for all, one after the other, cut."""
    return [
        [one]
        for at, (name, text) in enumerate(said)
        for one in (piece(0, f"c{at}", name, ""), *(piece(0, said=part) for part in cut(draw, text)))
    ]


def no_index(draw: Draw, said: list[tuple[str, str]]) -> Deltas:
    """Ids on the heads, no index at all, one after the other."""
    return [
        [one]
        for at, (name, text) in enumerate(said)
        for one in (piece(None, f"c{at}", name, ""), *(piece(said=part) for part in cut(draw, text)))
    ]


def no_index_no_id(draw: Draw, said: list[tuple[str, str]]) -> Deltas:
    """Nothing but a name at the head."""
    return [
        [one]
        for name, text in said
        for one in (piece(name=name, said=""), *(piece(said=part) for part in cut(draw, text)))
    ]


def by_position(draw: Draw, said: list[tuple[str, str]]) -> Deltas:
    """Every delta has all calls, at their places."""
    lanes = [cut(draw, text) for _, text in said]
    longest = max(map(len, lanes))
    heads = [piece(None, f"c{at}", name, "") for at, (name, _) in enumerate(said)]
    rest = [[piece(said=lane[at] if at < len(lane) else None) for lane in lanes] for at in range(longest)]
    return [heads, *rest] if len(said) > 1 else [[one[0]] for one in [heads, *rest]]


def name_late(draw: Draw, said: list[tuple[str, str]]) -> Deltas:
    """The name behind some of the arguments, or all of them."""
    lanes = []
    for at, (name, text) in enumerate(said):
        parts = [piece(at, f"c{at}", None, part) for part in cut(draw, text)]
        parts.insert(draw(st.integers(0, len(parts))), piece(at, None, name, ""))
        lanes.append(parts)
    return interleaved(draw, lanes)


def name_in_fragments(draw: Draw, said: list[tuple[str, str]]) -> Deltas:
    lanes = [
        [
            piece(at, f"c{at}"),
            *(piece(at, name=part, said=None) for part in cut(draw, name)),
            *(piece(at, said=part) for part in cut(draw, text)),
        ]
        for at, (name, text) in enumerate(said)
    ]
    return interleaved(draw, lanes)


def objects(draw: Draw, said: list[tuple[str, str]]) -> Deltas:
    """Arguments as objects, whole."""
    pieces = [piece(at, f"c{at}", name, json.loads(text)) for at, (name, text) in enumerate(said)]
    return [pieces] if draw(st.booleans()) else [[one] for one in pieces]


def growing(draw: Draw, said: list[tuple[str, str]]) -> Deltas:
    """All of a call so far in each piece, the last of them once more."""
    deltas = []
    for at, (name, text) in enumerate(said):
        ends = sorted(draw(st.sets(st.integers(1, len(text)), max_size=3)) | {len(text)})
        deltas += [[piece(at, f"c{at}", name, text[:end])] for end in [*ends, ends[-1]]]
    return deltas


def emptied_head(draw: Draw, said: list[tuple[str, str]]) -> Deltas:
    """An empty object ahead of the arguments."""
    lanes = [
        [piece(at, f"c{at}", name, "{}"), *(piece(at, said=part) for part in cut(draw, text))]
        for at, (name, text) in enumerate(said)
    ]
    return interleaved(draw, lanes)


STYLES = [
    heads,
    all_repeated,
    named_again,
    fresh_ids,
    shared_index,
    shared_index_in_pieces,
    no_index,
    no_index_no_id,
    by_position,
    name_late,
    name_in_fragments,
    objects,
    growing,
    emptied_head,
]
NOTHING: list[Piece] = [
    {"index": 0},
    {"index": 0, "function": None},
    {"function": {}},
    {"index": 0, "id": None, "type": None, "function": {"name": None, "arguments": None}},
    {"index": 0, "function": {"name": "", "arguments": ""}},
]


def told(deltas: Deltas, tools: list[str], *, last: Deltas = (), whole: Deltas = ()) -> list[tuple[str, str]]:  # type: ignore[assignment]
    """Name and arguments of the calls that a client is told of."""
    assembly = Calls(tools)
    steps = [step for delta in deltas for step in assembly.take(delta)]
    steps += [step for delta in last for step in assembly.take(delta, last=True)]
    steps += [step for message in whole for step in assembly.snapshot(message)]
    rest, bad = assembly.end(cut=False)
    assert not bad
    said: dict[Call, str] = {}
    for call, more in [*steps, *rest]:
        if more is None:
            assert call not in said
            said[call] = ""
        else:
            said[call] += more
    return [(call.name, text) for call, text in said.items()]


@settings(max_examples=100, deadline=None)
@given(st.data(), calls, st.sampled_from([heads, all_repeated, fresh_ids, by_position, name_late, growing]))
def test_calls_are_told_one_after_the_other(
    data: st.DataObject, made: list[tuple[str, Any]], style: Any
) -> None:
    deltas = style(data.draw, [(name, json.dumps(given)) for name, given in made])
    assembly, turns = Calls(TOOLS), CallTurns()
    live = [step for delta in deltas for step in turns.take(assembly.take(delta))]
    rest, _ = assembly.end(cut=False)
    steps = [*live, *turns.take(rest), *turns.end()]

    assert [call for call, _ in groupby(step.call for step in steps)] == list(dict(steps))
    by_call = [
        json.loads("".join(more for call, more in steps if call is one if more)) for one in dict(steps)
    ]
    assert sorted(map(str, by_call)) == sorted(str(given) for _, given in made)


def expected(said: list[tuple[str, str]]) -> list[str]:
    return sorted(f"{name}({text})" for name, text in said)


@settings(max_examples=examples(400), deadline=None)
@given(st.data(), calls, st.sampled_from(STYLES))
def test_calls_come_out_as_they_were(data: st.DataObject, made: list[tuple[str, Any]], style: Any) -> None:
    said = [(name, json.dumps(given)) for name, given in made]
    deltas = style(data.draw, said)
    if style in (heads, all_repeated, fresh_ids, name_in_fragments, emptied_head) and data.draw(
        st.booleans()
    ):
        at = data.draw(st.integers(1, len(deltas)))
        deltas = [*deltas[:at], [data.draw(st.sampled_from(NOTHING))], *deltas[at:]]
    if style is objects:
        said = [
            (name, json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False))
            for name, text in said
        ]
    assert expected(told(deltas, TOOLS)) == expected(said)


@settings(max_examples=100, deadline=None)
@given(st.data(), calls, st.sampled_from([heads, all_repeated, fresh_ids, shared_index, no_index]))
def test_a_message_that_repeats_the_calls_adds_nothing(
    data: st.DataObject, made: list[tuple[str, Any]], style: Any
) -> None:
    said = [(name, json.dumps(given)) for name, given in made]
    deltas = style(data.draw, said)
    kept = [piece(None, f"c{at}", name, text) for at, (name, text) in enumerate(said)]
    anew = [piece(None, f"new{at}", name, text) for at, (name, text) in enumerate(said)]
    bare = [piece(None, None, name, text) for name, text in said]
    whole = data.draw(st.sampled_from([kept, anew, bare]))
    assert expected(told(deltas, TOOLS, whole=[whole])) == expected(said)


@settings(max_examples=100, deadline=None)
@given(st.data(), calls, st.sampled_from([heads, all_repeated]))
def test_a_last_delta_that_repeats_the_calls_adds_nothing(
    data: st.DataObject, made: list[tuple[str, Any]], style: Any
) -> None:
    said = [(name, json.dumps(given)) for name, given in made]
    ids = data.draw(st.booleans())
    whole = [piece(at, f"c{at}" if ids else None, name, text) for at, (name, text) in enumerate(said)]
    assert expected(told(style(data.draw, said), TOOLS, last=[whole])) == expected(said)


@settings(max_examples=100, deadline=None)
@given(st.data(), calls, st.sampled_from([heads, all_repeated, fresh_ids, shared_index, objects]))
def test_tools_need_not_be_known(data: st.DataObject, made: list[tuple[str, Any]], style: Any) -> None:
    said = [(name, json.dumps(given)) for name, given in made]
    found = told(style(data.draw, said), [])
    assert [json.loads(text) for name, text in sorted(found)] == [
        json.loads(text) for name, text in sorted(said)
    ]
    assert sorted(name for name, _ in found) == sorted(name for name, _ in said)


@settings(max_examples=50, deadline=None)
@given(st.data(), st.sampled_from(TOOLS), arguments)
def test_a_name_in_fragments_needs_no_tools_when_the_arguments_follow_it(
    data: st.DataObject, name: str, given: Any
) -> None:
    said = [(name, json.dumps(given))]
    # Without tools, `get` and `get_weather` may be a name that grows, and `f` and `f` one that is repeated.
    parts = cut(data.draw, name)
    deltas = [[piece(0, "c0", part)] for part in parts] + [[piece(0, said=said[0][1])]]
    assert told(deltas, []) == said
