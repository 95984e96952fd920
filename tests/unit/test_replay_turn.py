"""What a closed response adds to its conversation."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from schemas import response
from schemas.ids import Tenant, response_id
from services.replay.turn import turn

ID = response_id(0, bytes(16))
BODY = {"model": "m", "input": "hi"}
ACCEPTED = json.dumps({"request": BODY, "response": response.initial(BODY, ID, 1, "m")}).encode()
ITEM: dict[str, Any] = {"type": "message", "role": "assistant", "content": []}


async def no_frames() -> AsyncIterator[bytes]:
    for frame in list[bytes]():
        yield frame


@pytest.mark.parametrize(
    ("output", "said"),
    [([ITEM], [ITEM]), (["x", None, ITEM, 3], [ITEM]), (5, []), ("text", []), ({"a": 1}, []), (None, [])],
)
async def test_an_output_of_the_log_gives_its_objects_only(output: object, said: list[Any]) -> None:
    """The log may hold what its writer would refuse today; successors are to get an input from it."""
    final = json.dumps({"status": "completed", "output": output}).encode()
    assert (await turn(ID, Tenant("t"), ACCEPTED, final, no_frames())).output == said
