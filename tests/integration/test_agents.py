"""Hosted agents behind the whole system: a real one, in a process of its own, and one that cannot stream.

Every test that says nothing else runs with an agent that is called on a connection, and with a `resumable`
one, which is started in the background and can be rejoined.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.broker.tcp import free_port
from tests.agents.hosted import HostedAgent, hosted_agent
from tests.api import Api, numbers, request, text, types
from tests.steady import steady
from tests.strict import checked_stream
from tests.system import System
from tests.upstreams import Call, served
from tests.wire import Frame

MORTAL_PORT = free_port()
STEPS = ["reasoning", "function_call", "message"]


async def answers_whole(call: Call) -> None:
    """An agent that does not stream, whatever it is asked."""
    said = call.body["input"][-1]["content"][0]["text"]
    part = {"type": "output_text", "text": f"whole: {said}", "annotations": []}
    message = {"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": [part]}
    await call.answer(200, {"id": "r1", "object": "response", "status": "completed", "output": [message]})


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostedAgent]:
    with hosted_agent(tmp_path_factory.mktemp("agent")) as running:
        yield running


@pytest.fixture(scope="module")
def system(agent: HostedAgent, kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("agents")
    with served(answers_whole) as whole:
        lines = [f'[[agents]]\nname = "unstreamed"\nurl = "{whole.url}"\n']
        for name, url in (("steps", agent.url), ("mortal", f"http://127.0.0.1:{MORTAL_PORT}")):
            lines.append(f'[[agents]]\nname = "{name}"\nurl = "{url}"\n')
            timeout = "timeout = 5\n" if name == "mortal" else ""
            lines.append(f'[[agents]]\nname = "{name}-resumable"\nurl = "{url}"\nresumable = true\n{timeout}')
        config = folder / "rejoinder.toml"
        config.write_text("\n".join(lines))
        with System(kafka, folder, config=config, grace_s=1) as running:
            yield running


@pytest.fixture
def api(system: System) -> Api:
    return Api(system.base_url)


@pytest.fixture(params=["", "-resumable"], ids=["on-a-connection", "resumable"])
def name(request: pytest.FixtureRequest) -> str:
    """The agent's name in both of its configurations."""
    return f"steps{request.param}"


def asking(words: str, name: str, **fields: Any) -> dict[str, Any]:
    """A background request to an agent, without a model."""
    return request(words, model=None, agent_reference=reference(name), **fields)


def reference(name: str) -> dict[str, str]:
    return {"type": "agent_reference", "name": name}


def created(api: Api, words: str, name: str, **fields: Any) -> str:
    answer = api.post(asking(words, name, **fields))
    assert answer.status == 200, answer
    return str(answer.json["id"])


def talking(api: Api, words: str, name: str) -> str:
    """A response whose agent has begun to say something."""
    id = created(api, words, name)
    api.eventually(id, lambda response: len(text(response)) > 20)
    return id


def posted(api: Api, body: dict[str, Any]) -> list[Frame]:
    """All frames of a POST that streams."""
    with api.connect("POST", "/v1/responses", body | {"stream": True}) as stream:
        assert stream.status == 200, stream.body()
        return list(stream.frames())


def items(frames: list[Frame], type: str) -> list[str]:
    return [frame.event["item"]["type"] for frame in frames if frame.type == type]


def words(frames: list[Frame]) -> list[str]:
    return [frame.event["delta"] for frame in frames if frame.type == "response.output_text.delta"]


def becomes(condition: Callable[[], object], timeout: float = 15) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s"
        time.sleep(0.05)


def since(agent: HostedAgent, before: list[str]) -> list[str]:
    """What the agent noted since, without its ids."""
    return [line.split()[0] for line in agent.journal[len(before) :]]


def test_a_stream_has_the_agents_own_steps(api: Api, name: str) -> None:
    frames = posted(api, asking("steps 20", name))
    opening = ["response.created", "response.queued", "response.in_progress"]
    assert types(frames)[:3] == opening
    assert types(frames)[-1] == "response.completed"
    begun = types(frames).index("response.output_item.added")
    assert set(types(frames)[2:begun]) == {"response.in_progress"}  # again, for what the agent's object says
    assert not {*opening, "response.completed"} & set(types(frames)[begun:-1])
    assert items(frames, "response.output_item.added") == STEPS
    assert items(frames, "response.output_item.done") == STEPS
    assert words(frames) == [f"word{n} " for n in range(20)]
    response = checked_stream(frames)
    assert [item["type"] for item in response["output"]] == STEPS
    assert (response["agent_reference"], response["model"]) == (reference(name), name)
    assert b"caresp" not in b"".join(frame.data for frame in frames)


def test_without_the_background_the_answer_is_the_final_object(api: Api, name: str) -> None:
    answer = api.post(asking("steps 3", name, background=False))
    assert (answer.status, answer.json["status"]) == (200, "completed")
    assert text(answer.json) == "word0 word1 word2 "
    assert api.response(answer.json["id"]) == answer.json


def test_a_cut_stream_is_rejoined_where_it_was_cut(api: Api, agent: HostedAgent, name: str) -> None:
    before = agent.journal
    with api.connect("POST", "/v1/responses", asking("steps 40", name, stream=True)) as stream:
        frames = stream.frames()
        seen = [next(frames) for _ in range(15)]
    id = seen[0].event["response"]["id"]
    again = api.take(id, 8, after=seen[-1].number)
    rest = api.events(id, after=again[-1].number)
    assert numbers(seen + again + rest) == list(range(len(seen + again + rest)))
    assert words(seen + again + rest) == [f"word{n} " for n in range(40)]
    assert [frame.raw for frame in seen + again + rest] == [frame.raw for frame in api.events(id)]
    becomes(lambda: since(agent, before) == ["begun", "ended"])


def test_a_poller_sees_the_output_grow(api: Api, name: str) -> None:
    id = created(api, "steps 60", name)
    becomes(lambda: "word3" in text(api.response(id)))
    growing = api.response(id)
    assert growing["status"] == "in_progress"
    assert text(api.eventually(id, lambda response: response["status"] == "completed")).endswith("word59 ")


def test_an_agent_takes_its_own_turns_back(api: Api, name: str) -> None:
    first = created(api, "steps 2", name)
    second = created(api, "steps 3", name, previous_response_id=first)
    response = checked_stream(api.events(second))
    assert (response["status"], text(response)) == ("completed", "word0 word1 word2 ")


@pytest.mark.parametrize("end", ["cancel", "delete"])
def test_the_agent_sees_a_cancel_and_a_delete(api: Api, agent: HostedAgent, name: str, end: str) -> None:
    before = agent.journal
    id = talking(api, "wait", name)
    answer = getattr(api, end)(id)
    assert answer.status == 200
    becomes(lambda: since(agent, before) == ["begun", "stopped"])
    if end == "cancel":
        last = api.events(id)[-1]
        assert (last.type, last.event["response"]["status"]) == ("response.failed", "cancelled")
        assert (answer.json["status"], answer.json["output"]) == ("cancelled", [])


def test_the_agent_stops_when_a_waiting_client_hangs_up(api: Api, agent: HostedAgent, name: str) -> None:
    before = agent.journal
    with api.connect("POST", "/v1/responses", asking("wait", name, background=False, stream=True)) as stream:
        frames = stream.frames()
        first, *_ = [next(frames) for _ in range(8)]
        id = first.event["response"]["id"]
    becomes(lambda: since(agent, before) == ["begun", "stopped"])
    assert api.response(id)["status"] == "cancelled"


def test_an_agent_whose_handler_fails_fails_the_response(api: Api, name: str) -> None:
    response = checked_stream(posted(api, asking("raise", name)))
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert [item["type"] for item in response["output"]] == STEPS


@pytest.mark.parametrize("suffix", ["", "-resumable"], ids=["on-a-connection", "resumable"])
def test_an_agent_that_dies_in_mid_stream_leaves_an_honest_end(api: Api, tmp_path: Path, suffix: str) -> None:
    with hosted_agent(tmp_path, port=MORTAL_PORT):
        frames = posted(api, asking("die", f"mortal{suffix}"))
    response = checked_stream(frames)
    assert response["status"] == "failed"
    assert response["error"]["type"] == ("upstream_unreachable" if suffix else "upstream_truncated")
    assert words(frames) == [f"word{n} " for n in range(5)]
    assert text(response) == "".join(words(frames))
    assert [item.get("status") for item in response["output"]][-1] == "incomplete"


def test_an_agent_that_comes_back_without_its_work_leaves_an_honest_end(api: Api, tmp_path: Path) -> None:
    with hosted_agent(tmp_path, port=MORTAL_PORT):
        id = talking(api, "wait", "mortal-resumable")
    with hosted_agent(tmp_path, port=MORTAL_PORT):
        frames = api.events(id)
    response = checked_stream(frames)
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert text(response) == "".join(words(frames)) != ""
    assert "answered 400: " in response["error"]["message"]


def test_an_agent_that_is_not_there_is_said_to_be_unreachable(api: Api) -> None:
    response = checked_stream(posted(api, asking("steps 1", "mortal")))
    assert (response["error"]["type"], response["output"]) == ("upstream_unreachable", [])
    assert "127.0.0.1" not in str(response["error"])


def test_an_agent_that_cannot_stream_is_streamed(api: Api) -> None:
    frames = posted(api, asking("hello", "unstreamed"))
    assert words(frames) == ["whole: hello"]
    response = checked_stream(frames)
    assert (response["status"], text(response)) == ("completed", "whole: hello")
    assert frames == api.events(response["id"])


@pytest.mark.slow
def test_a_killed_executor_leaves_a_resumable_agent_running_and_its_stream_goes_on(
    api: Api, system: System, agent: HostedAgent
) -> None:
    before = agent.journal
    with api.connect("POST", "/v1/responses", asking("steps 200", "steps-resumable", stream=True)) as stream:
        frames = stream.frames()
        seen = [next(frames) for _ in range(20)]
        [executor] = system.titled("rejoinder executor")
        executor.kill()
        killed = steady()
        seen += list(frames)
    assert steady() - killed < 25
    assert numbers(seen) == list(range(len(seen)))
    assert words(seen) == [f"word{n} " for n in range(200)]
    assert checked_stream(seen)["status"] == "completed"
    assert since(agent, before) == ["begun", "ended"]


@pytest.mark.slow
def test_a_killed_executor_ends_what_cannot_be_resumed_and_the_agent_stops(
    api: Api, system: System, agent: HostedAgent
) -> None:
    before = agent.journal
    id = talking(api, "wait", "steps")
    [executor] = system.titled("rejoinder executor")
    executor.kill()
    response = api.eventually(id, lambda response: response["status"] == "failed", timeout=20)
    assert response["error"]["type"] == "executor_lost"
    assert text(response).startswith("word0 word1 ")
    assert since(agent, before) == ["begun", "stopped"]
    assert checked_stream(api.events(id)) == response


@pytest.mark.slow
def test_an_executor_that_leaves_hands_a_resumable_agent_over(
    api: Api, system: System, agent: HostedAgent
) -> None:
    before = agent.journal
    id = talking(api, "steps 300", "steps-resumable")
    [executor] = system.titled("rejoinder executor")
    executor.terminate()
    frames = api.events(id)
    assert words(frames) == [f"word{n} " for n in range(300)]
    assert since(agent, before) == ["begun", "ended"]
