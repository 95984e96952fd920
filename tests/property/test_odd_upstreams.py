"""Whatever an upstream says, the scribe stays sane: numbers without a gap, one end, nothing raised but its
error.
"""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import response
from schemas.events import KNOWN_EVENTS
from schemas.ids import response_id
from schemas.output import Output
from services.executor.backend import UpstreamError
from services.executor.scribe import Draft, Ending, Limits, Scribe
from tests.long import examples

ID = response_id(0, bytes(16))
INITIAL = response.initial({"model": "m", "background": True, "input": "hi"}, ID, 1, "m")

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
index = st.integers(0, 2) | anything
item = st.fixed_dictionaries(
    {"id": st.just("i"), "type": st.sampled_from(["message", "reasoning", "function_call"])},
    optional={"content": anything, "summary": anything, "status": anything, "arguments": anything},
)
ends = st.sampled_from(["completed", "failed", "incomplete", "cancelled"])
events = st.fixed_dictionaries(
    {"type": st.sampled_from(sorted(KNOWN_EVENTS)) | st.text(max_size=5) | anything},
    optional={
        "output_index": index,
        "content_index": index,
        "summary_index": index,
        "item": item | anything,
        "part": st.fixed_dictionaries({"type": st.just("output_text")}, optional={"text": anything})
        | anything,
        "delta": st.text(max_size=3) | anything,
        "text": anything,
        "annotation": anything,
        "response": st.fixed_dictionaries(
            {}, optional={"output": anything, "usage": anything, "status": ends | anything}
        )
        | anything,
        "error": anything,
        "sequence_number": anything,
    },
)


def told(scribe: Scribe, said: list[dict[str, Any]]) -> list[Draft]:
    """What a run makes of it."""
    drafts = scribe.begin()
    try:
        for event in said:
            drafts += scribe.write(event, now=1.0)
    except UpstreamError as error:
        drafts += scribe.end(Ending(error.message, error.code, error.type))
    return drafts + scribe.end(Ending("the upstream ended without a terminal event"))


@settings(max_examples=examples(400))
@given(st.lists(events, max_size=12), st.booleans())
def test_numbers_have_no_gap_and_the_end_is_one(said: list[dict[str, Any]], passing: bool) -> None:
    scribe = Scribe(dict(INITIAL), origin=1, last=1, limits=Limits(), pass_extensions=passing)
    drafts = [draft for draft in told(scribe, said) if not draft.extension]
    assert [draft.number for draft in drafts] == list(range(2, 2 + len(drafts)))
    assert [json.loads(draft.value)["sequence_number"] for draft in drafts] == [d.number for d in drafts]
    assert [draft.terminal is not None for draft in drafts] == [False] * (len(drafts) - 1) + [True]
    last, final = drafts[-1], json.loads(drafts[-1].value)["response"]
    assert (final["id"], final["status"], last.type) == (ID, last.terminal, f"response.{last.terminal}")


answers = st.fixed_dictionaries(
    {"status": st.sampled_from(["completed", "failed"]), "output": st.lists(item, max_size=3)}
)


@settings(max_examples=100)
@given(answers)
def test_an_answer_in_one_piece_is_streamed_whatever_its_items_hold(answer: dict[str, Any]) -> None:
    end = answer["status"]
    scribe = Scribe(dict(INITIAL), origin=1, last=1, limits=Limits())
    drafts = told(scribe, [{"type": f"response.{end}", "response": answer}])
    final = json.loads(drafts[-1].value)["response"]
    if all(item["type"] != "function_call" for item in answer["output"]):  # they have no names
        assert (drafts[-1].type, len(final["output"])) == (f"response.{end}", len(answer["output"]))


@settings(max_examples=examples(400))
@given(st.lists(events, max_size=12))
def test_the_output_so_far_can_always_be_told(said: list[dict[str, Any]]) -> None:
    output = Output()
    for event in said:
        output.apply(event)
        assert json.dumps(output.items())
    assert all(item["status"] == "incomplete" for _, item in output.unfinished())
