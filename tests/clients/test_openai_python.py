"""The openai Python SDK: create, stream, cut, rejoin, poll, cancel, delete, page, and the errors it meets."""

import secrets
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import openai as sdk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import Response, ResponseStreamEvent

from tests.conftest import PATIENCE

UNKNOWN = "resp_0000" + "0" * 32
WORDS = "alpha beta gamma"
EVENTS = 9 + 3
"""Of a background response that echoes WORDS."""


def echo(client: OpenAI, words: Any = WORDS, **fields: Any) -> Any:
    steering = {
        f"echo.{key}": str(fields.pop(key))
        for key in ("tokens", "interval_ms", "fail_after")
        if key in fields
    }
    body = {"model": "echo", "input": words, "background": True, "metadata": steering, **fields}
    return client.responses.create(**body)


def rest(client: OpenAI, id: str, after: int | None = None) -> list[ResponseStreamEvent]:
    cursor = sdk.omit if after is None else after
    with client.responses.retrieve(id, stream=True, starting_after=cursor) as stream:
        return list(stream)


def numbers(events: Iterable[ResponseStreamEvent]) -> list[int]:
    return [event.sequence_number for event in events]


def polled(client: OpenAI, id: str, until: Callable[[Response], object]) -> Response:
    deadline = time.monotonic() + PATIENCE
    while not until(response := client.responses.retrieve(id)):
        assert time.monotonic() < deadline, response
        time.sleep(0.05)
    return response


def ended(response: Response) -> bool:
    return response.status not in ("queued", "in_progress")


def test_create_in_the_background_and_poll(openai: OpenAI) -> None:
    created = echo(openai, tokens=40, interval_ms=50)
    assert (created.status, created.background, created.output) == ("queued", True, [])

    partial = polled(openai, created.id, lambda response: response.output_text)
    final = polled(openai, created.id, ended)

    assert partial.status == "in_progress"
    assert final.status == "completed"
    assert final.output_text.startswith(partial.output_text)
    assert len(partial.output_text) < len(final.output_text)
    assert final.usage is not None
    assert final.usage.output_tokens == 40


@pytest.mark.parametrize("cut", range(1, EVENTS + 1))
def test_cut_at_every_event_and_rejoin(openai: OpenAI, cut: int) -> None:
    with echo(openai, stream=True) as stream:
        seen: list[Any] = list(islice(stream, cut))
    id = seen[0].response.id

    seen += rest(openai, id, seen[-1].sequence_number)

    assert numbers(seen) == list(range(EVENTS))
    assert seen[-1].type == "response.completed"
    assert seen[-1].response.output_text == WORDS
    assert seen == rest(openai, id)


@settings(max_examples=20)
@given(
    cuts=st.lists(st.integers(1, 12), max_size=5), tokens=st.integers(1, 30), interval_ms=st.integers(0, 3)
)
def test_cut_again_and_again_every_event_comes_once(
    openai: OpenAI, cuts: list[int], tokens: int, interval_ms: int
) -> None:
    with echo(openai, stream=True, tokens=tokens, interval_ms=interval_ms) as stream:
        seen: list[Any] = [next(stream)]
    id = seen[0].response.id
    for count in cuts:
        with openai.responses.retrieve(id, stream=True, starting_after=seen[-1].sequence_number) as stream:
            seen += islice(stream, count)
    if seen[-1].sequence_number < tokens + 8:
        seen += rest(openai, id, seen[-1].sequence_number)

    assert numbers(seen) == list(range(tokens + 9))
    deltas = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
    assert deltas == openai.responses.retrieve(id).output_text


def test_plain_stream(openai: OpenAI) -> None:
    with openai.responses.create(model="echo", input=WORDS, stream=True) as stream:
        events = list(stream)

    assert numbers(events) == list(range(EVENTS - 1))
    assert "response.queued" not in {event.type for event in events}
    assert events[-1].type == "response.completed"


def test_synchronous(openai: OpenAI) -> None:
    response = openai.responses.create(model="echo", input=WORDS)

    assert (response.status, response.output_text) == ("completed", WORDS)


def test_stream_helper(openai: OpenAI) -> None:
    with openai.responses.stream(model="echo", input=WORDS) as stream:
        texts = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()

    assert texts[-1] == final.output_text == WORDS


def test_stream_helper_rejoins(openai: OpenAI) -> None:
    created = echo(openai)
    seen = rest(openai, created.id)[:5]

    with openai.responses.stream(response_id=created.id, starting_after=4) as stream:
        later = [event.sequence_number for event in stream]

    assert numbers(seen) + later == list(range(EVENTS))


def test_keep_alives_do_not_disturb_the_sdk(openai: OpenAI, keepalive_s: float) -> None:
    id = echo(openai, "one", interval_ms=int(keepalive_s * 2500)).id

    assert numbers(rest(openai, id)) == list(range(10))


async def test_async_create_cut_and_rejoin(async_openai: AsyncOpenAI) -> None:
    seen: list[Any] = []
    async with await async_openai.responses.create(
        model="echo", input=WORDS, background=True, stream=True
    ) as stream:
        async for event in stream:
            seen.append(event)
            if len(seen) == 4:
                break
    id = seen[0].response.id
    async with await async_openai.responses.retrieve(
        id, stream=True, starting_after=seen[-1].sequence_number
    ) as stream:
        seen += [event async for event in stream]

    assert numbers(seen) == list(range(EVENTS))


async def test_async_stream_helper(async_openai: AsyncOpenAI) -> None:
    async with async_openai.responses.stream(model="echo", input=WORDS) as stream:
        final = await stream.get_final_response()

    assert final.output_text == WORDS


def test_failure_arrives_in_the_stream_and_in_the_object(openai: OpenAI) -> None:
    created = echo(openai, fail_after=2)

    last = rest(openai, created.id)[-1]
    response = openai.responses.retrieve(created.id)

    assert last.type == "response.failed"
    assert last.response == response
    assert response.error is not None
    assert (response.error.code, response.error.type) == ("server_error", "upstream_error")
    assert response.output_text.split() == WORDS.split()[:2]


def test_cancel_running_and_again(openai: OpenAI) -> None:
    id = echo(openai, interval_ms=60_000).id
    polled(openai, id, lambda response: response.status == "in_progress")

    first, again = openai.responses.cancel(id), openai.responses.cancel(id)

    assert (first.status, first.output) == ("cancelled", [])
    assert first == again == openai.responses.retrieve(id)


def test_cancel_queued(openai: OpenAI) -> None:
    waits_for = echo(openai, interval_ms=60_000).id
    queued = echo(openai, previous_response_id=waits_for)

    assert openai.responses.cancel(queued.id).status == "cancelled"
    assert openai.responses.cancel(waits_for).status == "cancelled"


def test_cancel_closed(openai: OpenAI) -> None:
    id = echo(openai).id
    polled(openai, id, ended)

    with pytest.raises(sdk.BadRequestError) as refused:
        openai.responses.cancel(id)

    assert refused.value.body == {
        "message": "Cannot cancel a completed response.",
        "type": "invalid_request_error",
        "param": refused.value.param,
        "code": refused.value.code,
    }


def test_cancel_synchronous(openai: OpenAI) -> None:
    id = openai.responses.create(model="echo", input=WORDS).id

    with pytest.raises(sdk.BadRequestError, match="Cannot cancel a synchronous response"):
        openai.responses.cancel(id)


def test_delete(openai: OpenAI) -> None:
    id = echo(openai).id
    polled(openai, id, ended)

    openai.responses.delete(id)

    with pytest.raises(sdk.NotFoundError, match=f"Response with id '{id}' not found."):
        openai.responses.retrieve(id)


def test_delete_while_it_streams(openai: OpenAI) -> None:
    id = echo(openai, interval_ms=60_000).id
    with openai.responses.retrieve(id, stream=True) as stream:
        for _ in islice(stream, 5):
            pass
        openai.responses.delete(id)
        with pytest.raises(sdk.APIConnectionError):
            list(stream)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_input_items_page_by_page(openai: OpenAI, order: Any) -> None:
    lines = [f"line {index}" for index in range(45)]
    id = echo(openai, [{"role": "user", "content": line} for line in lines]).id

    items: list[Any] = list(openai.responses.input_items.list(id, limit=10, order=order))

    said = [item.content[0].text for item in items]
    assert said == (lines if order == "asc" else lines[::-1])


def test_chain(openai: OpenAI) -> None:
    first = openai.responses.create(model="echo", input="one two")
    second = openai.responses.create(model="echo", input="three", previous_response_id=first.id)

    assert second.usage is not None
    assert second.usage.input_tokens == 2 + 2 + 1


def test_a_background_response_that_is_not_stored_is_polled(openai: OpenAI) -> None:
    response = openai.responses.create(model="echo", input=WORDS, background=True, store=False)
    while response.status in ("queued", "in_progress"):
        response = openai.responses.retrieve(response.id)

    assert (response.status, response.output_text) == ("completed", WORDS)
    openai.responses.delete(response.id)


REFUSED: list[tuple[dict[str, Any], type[sdk.APIStatusError], str | None]] = [
    ({"model": "no-such-model"}, sdk.BadRequestError, "model"),
    ({"store": 7}, sdk.BadRequestError, "store"),
    ({"previous_response_id": UNKNOWN}, sdk.NotFoundError, None),
    ({"extra_body": {"conversation": "conv_1"}}, sdk.BadRequestError, "conversation"),
    ({"extra_body": {"agent_reference": {"type": "agent_reference", "name": "x"}}}, sdk.BadRequestError,
     "agent_reference.name"),
    ({"input": 7}, sdk.BadRequestError, "input"),
]  # fmt: skip


@pytest.mark.parametrize(
    "fields, error, param", REFUSED, ids=[next(iter(fields)) for fields, _, _ in REFUSED]
)
def test_refusals(
    openai: OpenAI, fields: dict[str, Any], error: type[sdk.APIStatusError], param: str | None
) -> None:
    with pytest.raises(error) as refused:
        openai.responses.create(**{"model": "echo", "input": WORDS, "background": True, **fields})

    assert refused.value.type == "invalid_request_error"
    assert refused.value.request_id
    if param is not None:
        assert refused.value.param == param


def test_unknown_ids(openai: OpenAI) -> None:
    calls: list[Callable[[], object]] = [
        lambda: openai.responses.retrieve(UNKNOWN),
        lambda: openai.responses.retrieve(UNKNOWN, stream=True),
        lambda: openai.responses.cancel(UNKNOWN),
        lambda: openai.responses.delete(UNKNOWN),
        lambda: openai.responses.input_items.list(UNKNOWN),
    ]
    for call in calls:
        with pytest.raises(sdk.NotFoundError, match=f"Response with id '{UNKNOWN}' not found."):
            call()


def test_idempotency_key(openai: OpenAI) -> None:
    key = {"Idempotency-Key": secrets.token_hex(8)}

    first, second = (echo(openai, extra_headers=key) for _ in range(2))

    assert first.id == second.id
    with pytest.raises(sdk.UnprocessableEntityError):
        echo(openai, "other words", extra_headers=key)


def test_every_answer_carries_its_request_id(openai: OpenAI) -> None:
    assert echo(openai)._request_id


def test_models_are_listed_and_retrieved(openai: OpenAI) -> None:
    models = list(openai.models.list())

    assert "echo" in [model.id for model in models]
    assert openai.models.retrieve("echo") in models
    with pytest.raises(sdk.NotFoundError, match="does not exist"):
        openai.models.retrieve("no/such model")


def test_a_failure_before_any_output_is_raised(openai: OpenAI) -> None:
    with pytest.raises(sdk.InternalServerError) as failed:
        openai.with_options(max_retries=1).responses.create(
            model="echo", input=WORDS, metadata={"echo.fail_after": "0"}
        )

    id = failed.value.response.headers["x-rejoinder-response-id"]
    assert (failed.value.status_code, failed.value.code) == (502, "server_error")
    assert openai.responses.retrieve(id).status == "failed"
