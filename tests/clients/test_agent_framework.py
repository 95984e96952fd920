"""Microsoft's agent-framework: background work polled, a stream interrupted and resumed, and sessions."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from agent_framework import Agent
from agent_framework.openai import OpenAIChatClient
from openai import AsyncOpenAI

WORDS = "alpha beta gamma"
SLOWLY = {"echo.tokens": "30", "echo.interval_ms": "20"}
ECHOED = " ".join(WORDS.split() * 10)


@pytest.fixture
def agent(async_openai: AsyncOpenAI) -> Agent[Any]:
    client = OpenAIChatClient(model="echo", async_client=async_openai)
    return Agent(client, name="echo", instructions="Say it again.")


async def polled(agent: Agent[Any], response: Any, session: Any) -> Any:
    while response.continuation_token is not None:
        await asyncio.sleep(0.05)
        response = await agent.run(
            session=session, options={"continuation_token": response.continuation_token}
        )
    return response


async def test_a_plain_run(agent: Agent[Any]) -> None:
    assert (await agent.run(WORDS)).text == WORDS


async def test_polling_by_continuation_token(agent: Agent[Any]) -> None:
    session = agent.create_session()
    started = await agent.run(WORDS, session=session, options={"background": True, "metadata": SLOWLY})
    assert started.continuation_token is not None

    response = await polled(agent, started, session)

    assert response.text == ECHOED


async def test_an_interrupted_stream_resumes_with_all_events(agent: Agent[Any]) -> None:
    session = agent.create_session()
    tokens: list[Any] = []
    some_text = asyncio.Event()

    async def read() -> None:
        options = {"background": True, "metadata": SLOWLY}
        async for update in agent.run(WORDS, stream=True, session=session, options=options):
            tokens.append(update.continuation_token)
            if update.text:
                some_text.set()

    reading = asyncio.create_task(read())
    await some_text.wait()
    reading.cancel()
    with suppress(asyncio.CancelledError):
        await reading
    token = next(token for token in reversed(tokens) if token is not None)

    # It sends no cursor: the whole stream comes again.
    resumed = agent.run(stream=True, session=session, options={"continuation_token": token})

    assert (await resumed.get_final_response()).text == ECHOED


async def test_a_session_chains_its_turns(agent: Agent[Any]) -> None:
    session = agent.create_session()
    first = await agent.run(WORDS, session=session)
    second = await agent.run("one more", session=session)

    assert (first.text, second.text) == (WORDS, "one more")
    assert first.usage_details is not None
    assert second.usage_details is not None
    before, after = first.usage_details["input_token_count"], second.usage_details["input_token_count"]
    assert before is not None
    assert after is not None
    assert after >= before + len(WORDS.split()) + 2


async def test_a_session_goes_on_after_a_failed_turn(agent: Agent[Any]) -> None:
    session = agent.create_session()
    await agent.run(WORDS, session=session)
    failed = await agent.run("said not said", session=session, options={"metadata": {"echo.fail_after": "1"}})
    assert failed.text.strip() == "said"

    assert (await agent.run("still here", session=session)).text == "still here"
