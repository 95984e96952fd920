"""openai-agents: tools, sessions, chains, streams, failures, cancelled runs, over both kinds of upstream."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import openai as sdk
import pytest
from agents import (
    Agent,
    ModelBehaviorError,
    ModelSettings,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    SQLiteSession,
    function_tool,
)
from openai import AsyncOpenAI
from openai.types.shared import Reasoning

from tests.conftest import eventually

BACKENDS = ["responses", "chat"]
SAID = "Good day, Sir."
WEATHER_CALLS = 'call weather {"where": "here"}\n' * 2 + "output It rains here.\noutput It rains here."
ENDLESS = {"echo.tokens": "1000", "echo.interval_ms": "100"}
Making = Callable[..., Agent[Any]]
CONFIG = RunConfig(tracing_disabled=True)


@function_tool
def weather(where: str) -> str:
    """The weather at a place."""
    return f"It rains {where}."


@pytest.fixture
async def thinker(models: str) -> AsyncIterator[Making]:
    """Makes agents whose models are the model server's."""
    async with AsyncOpenAI(base_url=models, api_key="unused", _strict_response_validation=True) as client:
        yield partial(agent, client)


@pytest.fixture
def echoing(async_openai: AsyncOpenAI) -> Agent[Any]:
    """An agent that says the words back; `ModelSettings` steer it."""
    return agent(async_openai, "echo")


def agent(client: AsyncOpenAI, model: str, **fields: Any) -> Agent[Any]:
    return Agent(name="a", model=OpenAIResponsesModel(model, client), **fields)


async def run(of: Agent[Any], input: Any, streamed: bool = False, **options: Any) -> Any:
    """The result of a run, streamed or not."""
    if not streamed:
        return await Runner.run(of, input, run_config=CONFIG, **options)
    result = Runner.run_streamed(of, input, run_config=CONFIG, **options)
    async for _ in result.stream_events():
        pass
    return result


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("backend", BACKENDS)
class TestBothBackends:
    async def test_an_answer(self, thinker: Making, backend: str, streamed: bool) -> None:
        result = await run(thinker(f"{backend}-text"), "hi", streamed)

        assert result.final_output == SAID
        assert result.context_wrapper.usage.total_tokens == 12

    async def test_a_tool_loop(self, thinker: Making, backend: str, streamed: bool) -> None:
        result = await run(thinker(f"{backend}-recall", tools=[weather]), "hi", streamed)

        assert result.final_output == f"user: hi\n{WEATHER_CALLS}"
        kinds = [item.type for item in result.new_items]
        assert kinds == ["tool_call_item"] * 2 + ["tool_call_output_item"] * 2 + ["message_output_item"]

    async def test_a_tool_loop_that_the_server_remembers(
        self, thinker: Making, backend: str, streamed: bool
    ) -> None:
        asked = thinker(f"{backend}-recall", tools=[weather])
        first = await run(asked, "hi", streamed, auto_previous_response_id=True)
        second = await run(asked, "and now?", streamed, previous_response_id=first.last_response_id)

        assert first.final_output == f"user: hi\n{WEATHER_CALLS}"
        assert second.final_output.startswith(f"user: hi\n{WEATHER_CALLS}\nassistant: user: hi\n")
        assert "\nuser: and now?\n" in second.final_output

    async def test_a_session(self, thinker: Making, backend: str, streamed: bool) -> None:
        session = SQLiteSession("a")
        first = await run(thinker(f"{backend}-text"), "one", streamed, session=session)
        second = await run(thinker(f"{backend}-recall"), "two", streamed, session=session)
        session.close()

        assert first.final_output == SAID
        assert second.final_output == f"user: one\nassistant: {SAID}\nuser: two"

    async def test_thoughts_in_a_session(self, thinker: Making, backend: str, streamed: bool) -> None:
        session = SQLiteSession("a")
        settings = ModelSettings(
            store=False, reasoning=Reasoning(effort="low"), response_include=["reasoning.encrypted_content"]
        )
        thinking = thinker(f"{backend}-reasoning+recall", tools=[weather], model_settings=settings)
        result = await run(thinking, "hi", streamed, session=session)
        again = await run(thinking, "again", streamed, session=session)
        session.close()

        sealed = "thought sealed\n" if backend == "responses" else ""
        assert result.final_output == f"user: hi\n{sealed}{WEATHER_CALLS}"
        assert again.final_output.startswith(f"{result.final_output}\n{sealed}assistant: user: hi\n")

    async def test_what_failed_is_no_empty_answer(
        self, thinker: Making, backend: str, streamed: bool
    ) -> None:
        with pytest.raises(ModelBehaviorError, match="slow down"):
            await run(thinker(f"{backend}-failed"), "hi", streamed)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_a_failure_is_raised(echoing: Agent[Any], streamed: bool) -> None:
    failing = echoing.clone(model_settings=ModelSettings(metadata={"echo.fail_after": "0"}))

    with pytest.raises(ModelBehaviorError if streamed else sdk.InternalServerError):
        await run(failing, "hi", streamed)


async def cancelled_after_the_first_word(agent: Agent[Any]) -> list[Any]:
    """The events of the model that a streamed run had seen when it was cancelled."""
    result = Runner.run_streamed(agent, "hi", run_config=CONFIG)
    seen: list[Any] = []
    async for event in result.stream_events():
        if event.type == "raw_response_event":
            seen.append(event.data)
            if event.data.type == "response.output_text.delta":
                result.cancel()
    return seen


async def test_a_cancelled_run_stops_the_model(echoing: Agent[Any], async_openai: AsyncOpenAI) -> None:
    seen = await cancelled_after_the_first_word(echoing.clone(model_settings=ModelSettings(metadata=ENDLESS)))

    async def cancelled() -> bool:
        return (await async_openai.responses.retrieve(seen[0].response.id)).status == "cancelled"

    assert await eventually(cancelled)


async def test_a_run_in_the_background_is_rejoined_by_the_sdk(
    echoing: Agent[Any], async_openai: AsyncOpenAI
) -> None:
    settings = ModelSettings(extra_args={"background": True}, metadata={"echo.tokens": "20"})
    seen = await cancelled_after_the_first_word(echoing.clone(model_settings=settings))
    id, after = seen[0].response.id, seen[-1].sequence_number

    async with await async_openai.responses.retrieve(id, stream=True, starting_after=after) as stream:
        seen += [event async for event in stream]

    assert [event.sequence_number for event in seen] == list(range(29))
    assert seen[-1].response.output_text.split() == ["hi"] * 20


async def test_a_queued_object_is_taken_for_an_empty_answer(echoing: Agent[Any]) -> None:
    behind = echoing.clone(model_settings=ModelSettings(extra_args={"background": True}))

    assert (await run(behind, "hi")).final_output == ""
