"""The responses backend with a real hosted agent in its own process."""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from schemas.events import KNOWN_EVENTS
from services.executor.backend import Backend, Resume, RunRequest, UpstreamError
from services.executor.backends import responses, upstream
from tests.agents.hosted import HostedAgent, hosted_agent
from tests.conftest import eventually
from tests.upstreams import ID, outcome, registry, request

REFERENCE = {"type": "agent_reference", "name": "helper"}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostedAgent]:
    with hosted_agent(tmp_path_factory.mktemp("agent")) as running:
        yield running


@asynccontextmanager
async def backend_of(agent: HostedAgent, lines: str = "") -> AsyncIterator[Backend]:
    backends = registry(agent.url, lines)
    try:
        yield backends.resolve({"agent_reference": REFERENCE})
    finally:
        await backends.close()


def asking(text: str) -> RunRequest:
    return request([{"role": "user", "content": text}], agent_reference=REFERENCE)


def stopped(agent: HostedAgent, before: list[str]) -> bool:
    return any(line.startswith("stopped") for line in agent.journal[len(before) :])


async def test_an_agents_steps_pass_through(agent: HostedAgent) -> None:
    async with backend_of(agent) as backend:
        got = await outcome(backend, asking("steps 20"))
    assert got.error is None
    assert set(got.types) <= KNOWN_EVENTS
    assert got.types[0] == "response.created"
    assert got.types[-1] == "response.completed"
    added = [event["item"]["type"] for event in got.events if event["type"] == "response.output_item.added"]
    assert added == ["reasoning", "function_call", "message"]
    said = [event["delta"] for event in got.events if event["type"] == "response.output_text.delta"]
    assert said == [f"word{n} " for n in range(20)]


async def test_the_agents_own_response_id_is_named_nowhere_in_items(agent: HostedAgent) -> None:
    async with backend_of(agent) as backend:
        got = await outcome(backend, asking("steps 1"))
    items = [event["item"] for event in got.events if "item" in event]
    items += got.events[-1]["response"]["output"]
    assert {item["response_id"] for item in items} == {ID}


async def test_a_cut_connection_stops_the_agent(agent: HostedAgent) -> None:
    before = agent.journal
    async with backend_of(agent) as backend, aclosing(backend.stream(asking("wait"))) as stream:
        await anext(stream)
    await eventually(lambda: stopped(agent, before))


async def test_a_background_agent_is_told_to_stop(agent: HostedAgent) -> None:
    before = agent.journal
    async with (
        backend_of(agent, "resumable = true") as backend,
        aclosing(backend.stream(asking("wait"))) as stream,
    ):
        await anext(stream)
    await eventually(lambda: stopped(agent, before))


async def test_a_background_agent_is_rejoined_at_every_event(agent: HostedAgent) -> None:
    async with backend_of(agent, "resumable = true") as backend:
        whole = await outcome(backend, asking("steps 3"))
        assert whole.error is None
        assert [one.cursor for one in whole.upstream] == list(range(len(whole.events)))
        for one in whole.upstream[:-1]:
            assert one.cursor is not None
            rest = await outcome(
                backend, asking("steps 3"), Resume(one.upstream_id, one.cursor, one.cursor + 1)
            )
            assert (rest.events, rest.error) == (whole.events[one.cursor + 1 :], None)


async def test_an_agent_left_running_is_taken_up_by_another_executor(agent: HostedAgent) -> None:
    backends = registry(agent.url, "resumable = true")
    mine = msgspec.structs.replace(asking("steps 50"), abandoned=lambda: True)
    async with aclosing(backends.resolve({"agent_reference": REFERENCE}).stream(mine)) as stream:
        first = [one for _ in range(3) for one in await anext(stream)]
    await backends.close()
    async with backend_of(agent, "resumable = true") as backend:
        rest = await outcome(backend, asking("steps 50"), Resume(first[-1].upstream_id, first[-1].cursor, 9))
    events = [one.event for one in first] + rest.events
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    said = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert said == [f"word{n} " for n in range(50)]


async def test_an_agent_whose_handler_fails_ends_as_it_says(agent: HostedAgent) -> None:
    async with backend_of(agent) as backend:
        got = await outcome(backend, asking("raise"))
    assert got.types[-1] == "response.failed"
    assert got.events[-1]["response"]["error"]["code"] == "server_error"


async def test_what_the_agent_refuses_is_told_in_its_words(agent: HostedAgent) -> None:
    async with backend_of(agent) as backend:
        got = await outcome(
            backend, request([{"type": "message", "role": "king"}], agent_reference=REFERENCE)
        )
    assert got.failure.message.startswith("The agent 'helper' answered 400: ")


@pytest.mark.parametrize("lines", ["", "resumable = true"])
async def test_an_agent_that_dies_in_mid_stream_ends_the_run_and_what_came_is_kept(
    lines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "CONNECT_PAUSE", 0.01)
    monkeypatch.setattr(responses, "REJOIN_PAUSE", 0.01)
    with hosted_agent(tmp_path) as agent:
        async with backend_of(agent, lines) as backend:
            got = await outcome(backend, asking("die"))
    assert got.types[-1] == "response.output_text.delta"
    assert isinstance(got.error, UpstreamError)
    assert got.failure.type == ("upstream_unreachable" if lines else "upstream_truncated")
