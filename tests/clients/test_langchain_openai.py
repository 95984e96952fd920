"""langchain-openai's ChatOpenAI over the Responses API: streams, tools, thoughts, several turns, failures."""

from collections.abc import Callable
from typing import Any

import openai as sdk
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import OpenAI
from pydantic import SecretStr

BACKENDS = ["responses", "chat"]
SAID = "Good day, Sir."
CALLED = 'call weather {"where": "here"}\n' * 2 + "output It rains here.\noutput It rains here."
THOUGHTS: dict[str, Any] = {"reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"]}


@tool
def weather(where: str) -> str:
    """The weather at a place."""
    return f"It rains {where}."


def chat(url: str, model: str, **fields: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model=model, base_url=url, api_key=SecretStr("unused"), use_responses_api=True, **fields
    )


def whole(llm: Any, messages: list[BaseMessage], **options: Any) -> AIMessage:
    answer = llm.invoke(messages, **options)
    assert isinstance(answer, AIMessage)
    return answer


def streamed(llm: Any, messages: list[BaseMessage], **options: Any) -> AIMessage:
    """The sum of the chunks, as agents make it."""
    first, *rest = llm.stream(messages, **options)
    answer = sum(rest, start=first)
    assert isinstance(answer, AIMessage)
    return answer


Asking = Callable[..., AIMessage]


def looped(ask: Asking, llm: Any, messages: list[BaseMessage]) -> AIMessage:
    """Ask until no tool is called; `messages` grows by the whole conversation, the answer too."""
    while True:
        answer = ask(llm, messages)
        messages.append(answer)
        if not answer.tool_calls:
            return answer
        messages += [weather.invoke(call) for call in answer.tool_calls]


@pytest.mark.parametrize("ask", [whole, streamed])
@pytest.mark.parametrize("backend", BACKENDS)
class TestBothBackends:
    def test_an_answer(self, models: str, backend: str, ask: Asking) -> None:
        answer = ask(chat(models, f"{backend}-text"), [HumanMessage("hi")])

        assert answer.text == SAID
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["total_tokens"] == 12
        assert answer.response_metadata["id"].startswith("resp_")

    def test_a_tool_loop(self, models: str, backend: str, ask: Asking) -> None:
        llm = chat(models, f"{backend}-recall").bind_tools([weather])
        messages: list[BaseMessage] = [HumanMessage("hi")]

        answer = looped(ask, llm, messages)

        assert answer.text == f"user: hi\n{CALLED}"
        assert [type(message) for message in messages[2:-1]] == [ToolMessage] * 2

    @pytest.mark.parametrize("version", ["v0", "responses/v1", "v1"])
    def test_several_turns_that_the_client_sends(
        self, models: str, backend: str, ask: Asking, version: str
    ) -> None:
        first = ask(chat(models, f"{backend}-reasoning", output_version=version), [HumanMessage("one")])
        conversation = [HumanMessage("one"), first, HumanMessage("two")]
        second = ask(chat(models, f"{backend}-recall", output_version=version), conversation)

        assert second.text == f"user: one\nassistant: {SAID}\nuser: two"

    def test_several_turns_that_the_server_remembers(self, models: str, backend: str, ask: Asking) -> None:
        llm = chat(models, f"{backend}-recall", use_previous_response_id=True)
        first = ask(llm, [HumanMessage("one")])

        answer = ask(llm, [HumanMessage("one"), first, HumanMessage("two")])

        with OpenAI(base_url=models, api_key="unused") as client:
            stored = client.responses.retrieve(answer.response_metadata["id"])
        assert stored.previous_response_id == first.response_metadata["id"]
        assert answer.text == "user: one\nassistant: user: one\nuser: two"

    def test_sealed_thoughts_go_round(self, models: str, backend: str, ask: Asking) -> None:
        llm = chat(
            models, f"{backend}-reasoning+recall", store=False, output_version="responses/v1", **THOUGHTS
        ).bind_tools([weather])
        messages: list[BaseMessage] = [HumanMessage("hi")]

        answer = looped(ask, llm, messages)

        sealed = "thought sealed\n" if backend == "responses" else ""
        assert answer.text == f"user: hi\n{sealed}{CALLED}"

    def test_what_failed_is_no_empty_answer(self, models: str, backend: str, ask: Asking) -> None:
        with pytest.raises((ValueError, sdk.APIError), match="slow down"):
            ask(chat(models, f"{backend}-failed"), [HumanMessage("hi")])


def test_calls_that_a_model_tells_in_turn_are_told_apart(models: str) -> None:
    llm = chat(models, "responses-mixed").bind_tools([weather])

    answer = streamed(llm, [HumanMessage("hi")])

    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [
        ("weather", {"where": "here"})
    ] * 2
    assert answer.invalid_tool_calls == []


@pytest.mark.parametrize("ask", [whole, streamed])
def test_a_failure_is_raised(base_url: str, ask: Asking) -> None:
    llm = chat(f"{base_url}/v1", "echo", extra_body={"metadata": {"echo.fail_after": "0"}})

    with pytest.raises((ValueError, sdk.APIError)) as failed:
        ask(llm, [HumanMessage("hi")])
    assert isinstance(failed.value, sdk.InternalServerError) == (ask is whole)


def left_after_the_first_chunk(llm: ChatOpenAI) -> str:
    """The id of the response whose stream was left."""
    stream: Any = llm.stream("hi")
    id: str = next(chunk.response_metadata["id"] for chunk in stream if "id" in chunk.response_metadata)
    stream.close()
    return id


def last_event(openai: OpenAI, id: str) -> Any:
    with openai.responses.retrieve(id, stream=True) as stream:
        *_, last = stream
    return last


def test_a_stream_that_is_left_stops_the_model(base_url: str, openai: OpenAI) -> None:
    llm = chat(
        f"{base_url}/v1",
        "echo",
        extra_body={"metadata": {"echo.tokens": "1000", "echo.interval_ms": "100"}},
    )

    last = last_event(openai, left_after_the_first_chunk(llm))

    assert (last.type, last.response.status) == ("response.failed", "cancelled")


def test_a_stream_in_the_background_is_rejoined_by_the_sdk(base_url: str, openai: OpenAI) -> None:
    llm = chat(f"{base_url}/v1", "echo", extra_body={"metadata": {"echo.tokens": "20"}, "background": True})

    last = last_event(openai, left_after_the_first_chunk(llm))

    assert last.response.output_text.split() == ["hi"] * 20


def test_a_queued_object_is_taken_for_an_empty_answer(base_url: str) -> None:
    llm = chat(f"{base_url}/v1", "echo", extra_body={"background": True})

    assert llm.invoke("hi").text == ""


def test_chat_completions_are_not_offered(base_url: str) -> None:
    llm = ChatOpenAI(
        model="echo", base_url=f"{base_url}/v1", api_key=SecretStr("unused"), use_responses_api=False
    )

    with pytest.raises(sdk.NotFoundError, match="/v1/responses"):
        llm.invoke("hi")
