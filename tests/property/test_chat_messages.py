"""Whatever a conversation looks like, a chat server can take it, and no text of it is lost."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.executor.backends.chat.messages import messages
from services.executor.backends.chat.tools import Toolbox
from tests.long import examples

Item = dict[str, Any]
ids = st.sampled_from(["a", "b", "c", ""])
names = st.sampled_from(["f", "g"])
words = st.sampled_from(["", "\n\n"]) | st.integers(0, 10**6).map(lambda number: f"w{number}.")
parts = st.lists(
    words.map(lambda text: {"type": "input_text", "text": text})
    | st.just({"type": "input_image", "image_url": "https://x/y.png"}),
    max_size=3,
)
said = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "developer"]), "content": words | parts}
)
spoken = st.fixed_dictionaries({"role": st.just("assistant"), "content": words})
thought = st.fixed_dictionaries({"type": st.just("reasoning"), "summary": st.just([])})
call = st.fixed_dictionaries(
    {"type": st.just("function_call"), "call_id": ids, "name": names, "arguments": words}
)
custom = st.fixed_dictionaries(
    {"type": st.just("custom_tool_call"), "call_id": ids, "name": names, "input": words}
)
output = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["function_call_output", "custom_tool_call_output"]),
        "call_id": ids,
        "output": words | parts,
    }
)
conversations = st.lists(said | spoken | thought | call | custom | output, max_size=14)


@given(conversations, st.sampled_from([(), ("reasoning_content",)]))
@settings(max_examples=examples(600), deadline=None)
def test_every_conversation_is_one_that_servers_take(items: list[Item], give_back: tuple[str, ...]) -> None:
    turns = messages("w0.", items, Toolbox([]), give_back)
    roles = [turn["role"] for turn in turns]
    assert roles[0] == "system"
    assert roles.count("system") == 1
    waiting: list[str] = []
    for before, turn in zip([{"role": ""}, *turns], turns, strict=False):
        if waiting:
            assert (turn["role"], turn["tool_call_id"]) == ("tool", waiting.pop(0))
            assert isinstance(turn["content"], str)
            continue
        assert turn["role"] != "tool", "it answers no call"
        assert turn["role"] != "user" or before["role"] != "user"
        if turn["role"] == "assistant":
            assert before["role"] != "assistant"
            waiting = [one["id"] for one in turn.get("tool_calls", ())]
            assert len(set(waiting)) == len(waiting)
            assert all(waiting)
            assert (turn["content"] or "").strip() or waiting
        elif isinstance(turn["content"], list):
            assert any(part["type"] != "text" for part in turn["content"])
    assert not waiting


@given(conversations)
@settings(max_examples=examples(600), deadline=None)
def test_no_text_and_no_picture_is_lost(items: list[Item]) -> None:
    told = str(messages(None, items, Toolbox([]), ()))
    for word in _words(items):
        assert word in told
    pictures = str(items).count("https://x/y.png")
    repeated = len([item for item in items if "output" in item]) > 1
    assert told.count("https://x/y.png") == pictures or repeated


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value.startswith("w") else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [word for one in inner for word in _words(one)]
