"""GET /v1/models through replay: what executors ask of upstreams, and what clients see of it (A-27)."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import openai
import pytest
from openai import AsyncOpenAI

from services.broker.tcp import free_port
from tests.conftest import eventually
from tests.ingesting import Ingesting, error_of, executing, ingesting
from tests.serving import HOST, ask
from tests.upstreams import Call, raw

KEY = "k" * 16
SECRET = 'authorization = "Bearer secret"'


class Upstream:
    """Lists `models` as long as it is not `away`."""

    def __init__(self, *models: str) -> None:
        self.models = models
        self.away = False

    async def __call__(self, call: Call) -> None:
        assert (call.method, call.path, call.headers["authorization"]) == (
            "GET",
            "/v1/models",
            "Bearer secret",
        )
        if self.away:
            await call.answer(503, {})
        else:
            await call.answer(
                200, {"data": [{"id": id, "created": 7, "owned_by": "them"} for id in self.models]}
            )


def configured(*globs: tuple[str, str]) -> str:
    tables = [
        f'[[models]]\nmatch = "{match}"\nbase_url = "{url}/v1"\nheaders = {{ {SECRET} }}\n'
        for match, url in globs
    ]
    return "\n".join([*tables, '[[agents]]\nname = "weather"\nurl = "http://127.0.0.1:9"\n'])


async def listed(running: Ingesting, *headers: str) -> list[dict[str, Any]]:
    answer = await ask(running.public, "GET /v1/models", b"", headers)
    assert answer.status == 200, answer
    body = json.loads(answer.body)
    assert body.keys() == {"object", "data"}
    models: list[dict[str, Any]] = body["data"]
    return models


async def until_listed(running: Ingesting, *ids: str) -> None:
    async def shown() -> bool:
        found = [model["id"] for model in await listed(running)]
        assert found == list(ids)
        return True

    await eventually(shown)


async def test_the_file_and_its_upstreams_say_which_models_there_are() -> None:
    gpts, others = Upstream("gpt-1", "llama"), Upstream("gpt-1", "org/llama", "echo")
    async with raw(gpts) as one, raw(others) as two:
        text = configured(("exact", one.url), ("gpt-*", one.url), ("*", two.url))
        async with ingesting(text) as running, executing(running):
            await until_listed(running, "echo", "exact", "gpt-1", "org/llama", "weather")
            models = {model["id"]: model for model in await listed(running)}
    assert models["gpt-1"] == {"id": "gpt-1", "object": "model", "created": 7, "owned_by": "them"}
    assert models["exact"] == {"id": "exact", "object": "model", "created": 0, "owned_by": "rejoinder"}


async def test_a_globs_models_are_left_out_while_its_upstream_is_away() -> None:
    upstream = Upstream("llama")
    async with raw(upstream) as server:
        text = configured(("*", server.url))
        async with ingesting(text, models_s=0.1) as running, executing(running):
            await until_listed(running, "echo", "llama", "weather")
            upstream.away = True
            await until_listed(running, "echo", "weather")
            upstream.away, upstream.models = False, ("llama", "phi")
            await until_listed(running, "echo", "llama", "phi", "weather")


async def test_all_pages_of_an_upstreams_list_are_asked_for() -> None:
    names = [f"m/{number} é" for number in range(7)]

    async def pages(call: Call) -> None:
        after = parse_qs(urlsplit(call.path).query).get("after")
        begin = names.index(after[0]) + 1 if after else 0
        page = [{"id": id} for id in names[begin : begin + 3]]
        await call.answer(200, {"object": "list", "data": page, "has_more": begin + 3 < len(names)})

    async with raw(pages) as server:
        text = configured(("*", server.url))
        async with ingesting(text) as running, executing(running):
            await until_listed(running, "echo", *names, "weather")


async def test_an_upstream_that_goes_round_in_its_list_is_left() -> None:
    async def round_and_round(call: Call) -> None:
        await call.answer(200, {"object": "list", "data": [{"id": "m"}], "has_more": True})

    async with raw(round_and_round) as server:
        text = configured(("*", server.url))
        async with ingesting(text) as running, executing(running):
            await until_listed(running, "echo", "m", "weather")


async def test_an_upstream_that_is_not_there_hides_no_other_model() -> None:
    text = configured(("*", f"http://{HOST}:{free_port()}"))
    async with ingesting(text) as running, executing(running):
        await until_listed(running, "echo", "weather")


async def test_the_sdk_lists_and_retrieves_models() -> None:
    async with (
        raw(Upstream("org/llama 3")) as server,
        ingesting(configured(("*", server.url))) as running,
        executing(running),
    ):
        await until_listed(running, "echo", "org/llama 3", "weather")
        url = f"http://{HOST}:{running.public}/v1"
        async with AsyncOpenAI(base_url=url, api_key="unused", _strict_response_validation=True) as client:
            ids = [model.id async for model in client.models.list()]
            found = [(await client.models.retrieve(id)).id for id in ids]
            with pytest.raises(openai.NotFoundError) as missing:
                await client.models.retrieve("no/such model")
    assert ids == found == ["echo", "org/llama 3", "weather"]
    assert missing.value.code == "model_not_found"
    assert missing.value.body["message"] == "The model 'no/such model' does not exist."  # type: ignore[index]


async def test_models_are_for_who_has_a_key_and_the_same_for_all() -> None:
    keys = (f"one={KEY}", f"two={KEY[:-1]}z")
    async with ingesting(api_keys=keys) as running, executing(running):
        for path in ("/v1/models", "/v1/models/echo"):
            assert (await ask(running.public, f"GET {path}")).status == 401
        found = []
        for key in keys:
            header = f"authorization: Bearer {key.partition('=')[2]}"

            async def there(header: str = header) -> bool:
                return (await ask(running.public, "GET /v1/models/echo", b"", [header])).status == 200

            await eventually(there)
            found.append(await listed(running, header))
    assert found[0] == found[1]


async def test_without_executors_nobody_says() -> None:
    async with ingesting() as running:
        answer = await ask(running.public, "GET /v1/models")
        assert (answer.status, error_of(answer)["code"]) == (503, "service_unavailable")
        assert answer.headers["retry-after"]
        async with executing(running):
            await until_listed(running, "echo", "weather")


async def test_with_the_log_away_nobody_says_that_there_is_none() -> None:
    async with ingesting(barrier_s=0.3) as running, executing(running):
        await until_listed(running, "echo", "weather")
        running.log.available = False

        async def refused() -> bool:
            return (await ask(running.public, "GET /v1/models/echo")).status == 503

        await eventually(refused)


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_models_are_only_read(method: str) -> None:
    async with ingesting() as running:
        answer = await ask(running.public, f"{method} /v1/models/echo")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
