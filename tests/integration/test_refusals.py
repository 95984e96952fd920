"""A create that waits, and its upstream fails before it says anything: the failure is the answer (A-24)."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from services.broker.tcp import free_port
from tests.ingesting import Ingesting, error_of, executing, ingesting
from tests.serving import HOST, Answer
from tests.upstreams import JSON, Call, Raw, Script, framed, raw

BACKENDS = ["responses", "chat"]
KEY = "idempotency-key: k1"


def refusing(status: int, **headers: int) -> Script:
    """An upstream that answers every call with an error."""

    async def script(call: Call) -> None:
        await call.answer(status, {"error": {"message": f"because of {status}"}}, JSON, **headers)

    return script


@asynccontextmanager
async def behind(url: str, backend: str = "responses", lines: str = "") -> AsyncIterator[Ingesting]:
    """The system, all of whose models are served at `url`."""
    text = f'[[models]]\nmatch = "*"\nbackend = "{backend}"\nbase_url = "{url}/v1"\n{lines}\n'
    async with ingesting(text) as running, executing(running):
        yield running


def posts(server: Raw) -> int:
    """How often a model was called."""
    return sum(call.method == "POST" for call in server.calls)


async def ask(running: Ingesting, *headers: str, **body: Any) -> Answer:
    return await running.post({"model": "m", "input": "hi"} | body, *headers)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "upstream, status, again",
    [
        (400, 400, "false"),
        (401, 502, "false"),
        (404, 502, "false"),
        (409, 502, "false"),
        (422, 400, "false"),
        (429, 429, "true"),
        (500, 502, "false"),
        (503, 502, "true"),
    ],
)
async def test_an_upstreams_refusal_is_told_and_its_response_can_be_read(
    backend: str, upstream: int, status: int, again: str
) -> None:
    async with raw(refusing(upstream)) as server, behind(server.url, backend) as running:
        answer = await ask(running)
        id = answer.headers["x-rejoinder-response-id"]
        found = json.loads((await running.get(id)).body)

    assert (answer.status, answer.headers["x-should-retry"]) == (status, again)
    assert ("retry-after" in answer.headers) == (again == "true")
    error = error_of(answer)
    assert error["type"] == "upstream_error"
    assert upstream == 401 or f"because of {upstream}" in error["message"]
    assert (found["status"], found["error"]["upstream_status"]) == ("failed", upstream)
    assert found["error"]["message"] == error["message"]


async def test_a_repeated_key_is_answered_the_same_and_calls_nobody_again() -> None:
    async with raw(refusing(429, retry_after=45)) as server, behind(server.url) as running:
        first, again = await ask(running, KEY), await ask(running, KEY)

        assert posts(server) == 1
    assert (first.status, first.body) == (again.status, again.body)
    assert first.headers["x-rejoinder-response-id"] == again.headers["x-rejoinder-response-id"]
    assert (first.headers["retry-after"], first.headers["x-should-retry"]) == ("45", "false")


@pytest.mark.parametrize("body", [{"stream": True}, {"background": True}])
async def test_who_does_not_wait_for_the_object_gets_what_was_asked_for(body: dict[str, Any]) -> None:
    async with raw(refusing(400)) as server, behind(server.url) as running:
        answer = await ask(running, **body)

    assert answer.status == 200


async def _silent(call: Call) -> None:
    await call.hung_up.wait()


async def test_silence_is_504() -> None:
    async with raw(_silent) as server, behind(server.url, lines="timeout = 0.2") as running:
        answer = await ask(running)

    assert (answer.status, error_of(answer)["type"]) == (504, "upstream_idle")
    assert answer.headers["x-should-retry"] == "false"


async def test_an_upstream_that_cannot_be_reached_is_502() -> None:
    async with behind(f"http://{HOST}:{free_port()}") as running:
        answer = await ask(running)

    assert (answer.status, error_of(answer)["type"]) == (502, "upstream_unreachable")


@pytest.mark.parametrize(
    "error, status",
    [
        ({"message": "slow down", "code": "rate_limit_exceeded"}, 429),
        ({"message": "too long", "code": 400}, 400),
        ({"message": "too busy", "code": "503"}, 502),
        ({"message": "boom"}, 502),
    ],
)
@pytest.mark.parametrize("terminal", [True, False])
async def test_what_fails_within_its_stream_was_started(
    error: dict[str, Any], status: int, terminal: bool
) -> None:
    failed = {"type": "response.failed", "response": {"status": "failed", "error": error, "output": []}}

    async def script(call: Call) -> None:
        await call.head()
        await call.write(framed(failed if terminal else {"type": "error", "error": error}))

    async with raw(script) as server, behind(server.url) as running:
        answer = await ask(running)

    assert answer.status == status
    assert error["message"] in error_of(answer)["message"]
    assert answer.headers["x-should-retry"] == "false"


async def test_one_that_failed_after_output_is_the_answer() -> None:
    async with ingesting() as running, executing(running):
        answer = await running.post({"input": "a b", "metadata": {"echo.fail_after": "1"}})
        none = await running.post({"input": "a b", "metadata": {"echo.fail_after": "0"}})

    final = json.loads(answer.body)
    assert (answer.status, final["status"]) == (200, "failed")
    assert final["output"][0]["content"][0]["text"] == "a "
    assert none.status == 502


Raising = Callable[[AsyncOpenAI], Awaitable[object]]


@pytest.mark.parametrize(
    "upstream, raised",
    [
        (400, openai.BadRequestError),
        (422, openai.BadRequestError),
        (429, openai.RateLimitError),
        (401, openai.InternalServerError),
        (500, openai.InternalServerError),
    ],
)
async def test_the_sdk_raises_what_it_should_and_repeats_only_what_was_not_started(
    upstream: int, raised: type[openai.APIStatusError]
) -> None:
    async with raw(refusing(upstream)) as server, behind(server.url) as running:
        async with AsyncOpenAI(
            base_url=f"http://{HOST}:{running.port}/v1", api_key="unused", max_retries=1
        ) as client:
            with pytest.raises(raised) as failed:
                await client.responses.create(model="m", input="hi")
        id = failed.value.response.headers["x-rejoinder-response-id"]

        assert posts(server) == (2 if upstream == 429 else 1)
        assert (await running.get(id)).status == 200
    assert isinstance(failed.value.body, dict)
    assert failed.value.code == failed.value.body["code"]
