"""Pictures of 4 MB through a whole system with its defaults: in, out, previewed, and said again (U-90)."""

import base64
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from schemas.pictures import PREVIEW, picture_bytes
from services.eventlog.transcript import CHUNK_BYTES
from tests.api import Api, numbers, types
from tests.system import System
from tests.upstreams import Call, Raw, served

PICTURE = base64.b64encode(random.Random(4).randbytes(4 << 20)).decode()
LARGEST = "A" * 12_000_000
TEXT: dict[str, Any] = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "here", "annotations": [], "logprobs": []}],
}
PLANS = {
    "one": [PICTURE],
    "two": [PICTURE, PICTURE[::-1]],
    "three": [PICTURE, PICTURE[::-1], PICTURE],
    "too-large": [LARGEST],
}


async def draw(call: Call) -> None:
    """Draw what the model is named after: a preview of each picture, the picture, a message at the end."""
    await call.head()
    await call.events({"type": "response.created", "response": {"id": "resp_up", "status": "in_progress"}})
    output = []
    for index, result in enumerate(PLANS[call.body["model"]]):
        item = {"type": "image_generation_call", "id": f"ig_{index}", "status": "in_progress", "result": None}
        at = {"output_index": index, "item_id": item["id"]}
        await call.events({"type": "response.output_item.added", "output_index": index, "item": item})
        await call.events({"type": PREVIEW, **at, "partial_image_index": 0, "partial_image_b64": result})
        output.append(item | {"status": "completed", "result": result})
        await call.events({"type": "response.output_item.done", "output_index": index, "item": output[-1]})
    last = {"output_index": len(output), "item": TEXT}
    await call.events({"type": "response.output_item.added", **last})
    await call.events({"type": "response.output_item.done", **last})
    final = {"id": "resp_up", "status": "completed", "output": [*output, TEXT]}
    await call.events({"type": "response.completed", "response": final})


@pytest.fixture(scope="module")
def upstream() -> Iterator[Raw]:
    with served(draw) as server:
        yield server


@pytest.fixture(scope="module")
def drawing(kafka: str, upstream: Raw, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("pictures")
    toml = folder / "rejoinder.toml"
    toml.write_text(f'[[models]]\nmatch = "*"\nbase_url = "{upstream.url}/v1"\n')
    with System(kafka, folder, config=str(toml)) as running:
        yield running


@pytest.fixture
def api(drawing: System) -> Api:
    return Api(drawing.base_url)


def drawn(api: Api, model: str, **fields: Any) -> tuple[str, list[Any]]:
    """The id of a response that has ended, and its events."""
    answer = api.post({"model": model, "input": "draw", "background": True, **fields})
    assert answer.status == 200, answer.body[:500]
    id = str(answer.json["id"])
    frames = api.events(id)
    assert numbers(frames) == list(range(len(frames)))
    return id, frames


def pictures(output: list[dict[str, Any]]) -> list[int]:
    return [picture_bytes(item) for item in output]


@pytest.mark.parametrize("model", ["one", "two"])
def test_pictures_come_out_whole_with_their_previews(api: Api, model: str) -> None:
    id, frames = drawn(api, model)
    results = PLANS[model]
    assert types(frames)[-1] == "response.completed"
    assert types(frames).count(PREVIEW) == len(results)
    final = api.response(id)
    assert [item.get("result") for item in final["output"]] == [*results, None]
    assert json.loads(frames[-1].data)["response"] == final


def test_pictures_that_do_not_fit_together_are_in_the_stream_and_the_end_says_so(api: Api) -> None:
    id, frames = drawn(api, "three")
    items = [json.loads(frame.data)["item"] for frame in frames if frame.type == "response.output_item.done"]
    assert pictures(items) == [len(PICTURE)] * 3 + [0]
    final = api.response(id)
    assert (final["status"], pictures(final["output"])) == ("failed", [0, len(PICTURE), len(PICTURE), 0])
    assert final["error"]["type"] in ("output_too_large", "event_too_large")
    assert final["output"][-1]["content"][0]["text"] == "here"


def test_a_picture_that_fits_into_no_record_takes_nothing_else_along(api: Api) -> None:
    id, frames = drawn(api, "too-large")
    assert PREVIEW not in types(frames)
    final = api.response(id)
    assert (final["status"], final["error"]["type"]) == ("failed", "event_too_large")
    image, message = final["output"]
    assert (image["status"], image["result"]) == ("failed", None)
    assert message["content"][0]["text"] == "here"
    assert types(frames)[-1] == "response.failed"


@pytest.mark.parametrize("model", ["one", "three"])
def test_the_next_turn_has_every_picture(api: Api, upstream: Raw, model: str) -> None:
    url = f"data:image/png;base64,{PICTURE}"
    photo = [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
    id, _ = drawn(api, model, input=photo)
    drawn(api, "one", previous_response_id=id)
    said = upstream.calls[-1].body["input"]
    assert said[0]["content"][0]["image_url"] == url
    assert [item["result"] for item in said if item.get("type") == "image_generation_call"] == PLANS[model]


def test_a_photo_comes_in_and_is_shown_again(api: Api) -> None:
    url = f"data:image/png;base64,{PICTURE}"
    photo = [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
    id, _ = drawn(api, "one", input=photo)
    [shown] = api.input_items(id).json["data"]
    assert shown["content"][0]["image_url"] == url


def test_a_reader_that_comes_later_gets_the_same_bytes(api: Api) -> None:
    id, frames = drawn(api, "one")
    assert sum(len(frame.data) for frame in frames) > 3 * len(PICTURE) > CHUNK_BYTES
    assert [frame.data for frame in api.events(id)] == [frame.data for frame in frames]
    assert numbers(api.events(id, after=3)) == numbers(frames)[4:]
