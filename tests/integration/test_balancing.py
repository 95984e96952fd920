"""nginx and HAProxy in front of three shards: each read comes to its shard, a shard that is gone is told."""

import asyncio
import json

import pytest
from prometheus_client import REGISTRY

from schemas.ids import ResponseId, partition_of
from services.terminal.balancers import Layout
from tests.balancing import REAL, Real, balanced
from tests.conftest import eventually
from tests.ingesting import error_of
from tests.serving import HOST, Answer, ask, opened
from tests.sharding import PARTITIONS, create_at, ends_cleanly, made, sharding

SHARDS = ("0/3", "1/3", "2/3")


def passed_on() -> float:
    """How many reads were passed on, by all replays of this process."""
    return REGISTRY.get_sample_value("rejoinder_replay_passed_on_total", {"outcome": "answered"}) or 0.0


@pytest.mark.parametrize("balancer", REAL)
async def test_a_balancer_leads_each_read_to_its_shard(balancer: Real) -> None:
    slow = {"metadata": {"echo.tokens": "100", "echo.interval_ms": "50"}}
    async with sharding() as running:
        ways = Layout(PARTITIONS, [[f"{HOST}:{running.port_of(shard)}"] for shard in SHARDS])
        async with balanced(balancer, ways) as port:
            ids = [await made(running, shard) for shard in SHARDS for _ in range(2)]
            before = passed_on()
            for id in ids:
                stream = await ask(port, f"GET /v1/responses/{id}?stream=true")
                assert stream.whole
                assert b"event: response.completed" in stream.body
                assert (await ask(port, f"GET /v1/responses/{id}")).status == 200
                assert (await ask(port, f"GET /v1/responses/{id}/input_items")).status == 200
                assert (await ask(port, f"DELETE /v1/responses/{id}")).status == 200
            assert passed_on() == before, "the balancer knows the way"
            answers = [await create_at(port, stream=stream) for stream in (True, False)]
            assert all(answer.status == 200 and answer.whole for answer in answers)
            assert (await ask(port, "GET /v1/models")).status == 200

            gone, stays = await made(running, "2/3", **slow), await made(running, "0/3")
            reader, writer = await opened(port, f"GET /v1/responses/{gone}?stream=true")
            await reader.readuntil(b"event: response.output_text.delta")
            await running.stop("2/3")
            async with asyncio.timeout(10):
                assert not await ends_cleanly(reader)
            writer.close()
            refused = await eventually(lambda: away(port, gone))
            assert refused is not None
            assert error_of(refused)["type"] == "server_error"
            assert "retry-after" in refused.headers
            assert (await ask(port, f"GET /v1/responses/{stays}")).status == 200
            more = json.loads((await create_at(port, background=True)).body)["id"]
            assert partition_of(ResponseId(more)) < 4, "in a shard that is there"

            await running.start_shard("2/3")
            again = await eventually(lambda: whole(port, gone))
            assert again is not None
            assert b"event: response.completed" in again.body


async def away(port: int, id: str) -> Answer | None:
    """The refusal of a read whose shard is gone, once the balancer asks others."""
    answer = await ask(port, f"GET /v1/responses/{id}")
    return answer if answer.status == 503 and answer.body.startswith(b"{") else None


async def whole(port: int, id: str) -> Answer | None:
    """The whole stream of a response, once its shard is back."""
    answer = await ask(port, f"GET /v1/responses/{id}?stream=true")
    return answer if answer.status == 200 and answer.whole else None
