"""Whatever a Chat Completions server says, it is refused as malformed, or told in a stream that adds up."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.ids import ResponseId
from services.executor.backends.chat.translate import ChatTranslator, MalformedChunkError
from services.executor.backends.failures import UNFIT
from tests.long import examples
from tests.strict import checked

ID = ResponseId("resp_" + "d" * 36)

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.floats(allow_nan=False, width=16)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "url", "index", "data", "thinking"]), inner, max_size=3
        )
    ),
    max_leaves=5,
)
words = st.text('ab {"}', max_size=5)
function = st.fixed_dictionaries({}, optional={"name": words | anything, "arguments": words | anything})
call = st.fixed_dictionaries(
    {},
    optional={"index": st.integers(0, 2) | anything, "id": words | anything, "function": function | anything},
)
said = st.fixed_dictionaries(
    {},
    optional={
        "content": words | anything,
        "refusal": words | anything,
        "reasoning": words | anything,
        "reasoning_details": st.lists(anything, max_size=2),
        "tool_calls": st.lists(call, max_size=2) | anything,
        "function_call": function | anything,
        "annotations": anything,
        "citations": anything,
        "extra_content": anything,
    },
)
choice = st.fixed_dictionaries(
    {"index": st.just(0) | st.integers(0, 2) | st.none()},
    optional={
        "delta": said | anything,
        "message": said | anything,
        "finish_reason": st.sampled_from(["stop", "length", "", None, "tool_calls"]) | anything,
        "logprobs": st.none() | anything,
        "usage": anything,
    },
)
chunks = st.fixed_dictionaries(
    {"choices": st.lists(choice, max_size=2) | anything},
    optional={"usage": anything, "citations": anything, "search_results": anything, "model": anything},
)


@settings(max_examples=examples(400), deadline=None)
@given(st.lists(chunks, max_size=6))
def test_odd_chunks_are_refused_or_add_up(stream: list[dict[str, Any]]) -> None:
    translator, events = ChatTranslator(ID), []
    try:
        for chunk in stream:
            events += translator.chunk(chunk)
        events += translator.over()
    except (MalformedChunkError, *UNFIT):
        assert translator.flush() == []  # what a bad chunk began was never told
        return
    events += translator.flush()
    if translator.finished and not translator.failure:
        checked(events + translator.end())


def in_full(chunk: dict[str, Any]) -> dict[str, Any]:
    """The same chunk, with log probabilities of nothing: so it is not in the usual form."""
    return {**chunk, "choices": [{"logprobs": {"content": []}, **one} for one in chunk["choices"]]}


nearly_usual = st.fixed_dictionaries(
    {"content": words},
    optional={
        "role": st.just("assistant"),
        "refusal": st.none() | words,
        "reasoning_content": st.none() | words,
        "tool_calls": st.none() | st.just([]),
        "citations": st.none() | st.just(["https://a.example"]),
    },
)
usual_choice = st.fixed_dictionaries(
    {"delta": nearly_usual},
    optional={
        "index": st.sampled_from([0, 0, 0, None, 1]),
        "finish_reason": st.sampled_from([None, None, "", "stop"]),
        "logprobs": st.none(),
        "message": st.none() | nearly_usual,
        "usage": st.none() | st.just({"prompt_tokens": 1}),
    },
)
source = {"type": "url_citation", "url_citation": {"url": "https://b.example", "title": "b"}}
usual_chunks = st.fixed_dictionaries(
    {"choices": st.lists(usual_choice, max_size=1)},
    optional={
        "annotations": st.just([source]),
        "model": st.none() | words,
        "usage": st.none() | st.just({"completion_tokens": 2}),
    },
)


@settings(max_examples=examples(400), deadline=None)
@given(st.lists(usual_chunks, max_size=8))
def test_the_short_way_of_more_text_leads_where_the_long_way_leads(stream: list[dict[str, Any]]) -> None:
    short, long = ChatTranslator(ID), ChatTranslator(ID)
    for chunk in stream:
        assert short.chunk(chunk) == long.chunk(in_full(chunk))
    assert (short.finished, short.failure) == (long.finished, long.failure)
    assert short.flush() == long.flush()
    if short.finished and not short.failure:
        assert short.end() == long.end()
