"""Usage and costs, as an unmodified openai SDK asks a whole system for them."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI, PermissionDeniedError

from services.broker.tcp import free_port
from tests.process import REJOINDER, ServerProcess

pytest.importorskip("faust", reason="analytics is not installed")

ADMIN, ACME, BLUE = "admin-sesame-open-sesame", "acme-sesame-open-sesame", "blue-sesame-open-sesame"
PRICES = """
[[prices]]
model = "echo"
input = 1000000
output = 2000000
"""
VISIBLE_S = 60.0
"""Seconds until what has ended shows, on a busy machine."""


@pytest.fixture(scope="module")
def own(kafka: str) -> list[str]:
    """Where Kafka is, and which topics are ours."""
    return ["--kafka", kafka, "--topic-prefix", f"t{secrets.token_hex(6)}."]


@pytest.fixture(scope="module")
def system(own: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("usage")
    (folder / "rejoinder.toml").write_text(PRICES)
    command = [REJOINDER, "dev", *own, "--without", "webhooks", "--port", str(free_port())]
    environ = {
        "REJOINDER_CONFIG": str(folder / "rejoinder.toml"),
        "REJOINDER_API_KEYS": f"acme={ACME},blue={BLUE}",
        "REJOINDER_ADMIN_KEYS": ADMIN,
    }
    with ServerProcess(command, folder / "log", environ) as server:
        yield server.base_url


def client(system: str, key: str) -> OpenAI:
    return OpenAI(base_url=f"{system}/v1", api_key=key, admin_api_key=key, max_retries=5)


@pytest.fixture(scope="module")
def begun(system: str) -> int:
    """When the responses of these tests began: three of acme and two of blue."""
    begun = int(time.time()) // 60 * 60
    for key, count in ((ACME, 3), (BLUE, 2)):
        for _ in range(count):
            client(system, key).responses.create(model="echo", input="one two three")
    until = time.monotonic() + VISIBLE_S
    while requests(client(system, ADMIN), begun) != {"acme": 3, "blue": 2}:
        assert time.monotonic() < until
        time.sleep(0.1)
    return begun


def requests(asks: OpenAI, begun: int) -> dict[str | None, int]:
    found: dict[str | None, int] = {}
    page = asks.admin.organization.usage.completions(
        start_time=begun, bucket_width="1m", group_by=["project_id", "model"]
    )
    for bucket in page.data:
        for result in bucket.results:
            assert result.object == "organization.usage.completions.result"
            assert result.model == "echo"
            found[result.project_id] = found.get(result.project_id, 0) + result.num_model_requests
    return found


def test_a30_usage_is_told_to_an_admin_of_all_and_to_a_tenant_of_itself(system: str, begun: int) -> None:
    assert requests(client(system, ADMIN), begun) == {"acme": 3, "blue": 2}
    assert requests(client(system, ACME), begun) == {"acme": 3}
    page = client(system, ADMIN).admin.organization.usage.completions(start_time=begun, project_ids=["blue"])
    (result,) = (result for bucket in page.data for result in bucket.results)
    assert result.object == "organization.usage.completions.result"
    assert (result.num_model_requests, result.project_id, result.model) == (2, None, None)
    assert result.input_tokens == result.output_tokens > 0


def test_a31_costs_are_told_by_the_operators_prices(system: str, begun: int) -> None:
    asks = client(system, ADMIN)
    (used,) = (
        result
        for bucket in asks.admin.organization.usage.completions(start_time=begun).data
        for result in bucket.results
    )
    assert used.object == "organization.usage.completions.result"
    page = asks.admin.organization.usage.costs(start_time=begun, group_by=["line_item", "project_id"])
    told = [result for bucket in page.data for result in bucket.results]
    amounts = [one.amount for one in told if one.object == "organization.costs.result"]
    assert {amount.currency for amount in amounts if amount} == {"usd"}
    wanted = used.input_tokens * 1.0 + used.output_tokens * 2.0
    assert sum(amount.value or 0 for amount in amounts if amount) == pytest.approx(wanted)


def test_a33_pages_follow_each_other_and_a_wrong_field_is_named(system: str, begun: int) -> None:
    usage = client(system, ADMIN).admin.organization.usage
    first = usage.completions(start_time=begun - 600, bucket_width="1m", limit=5)
    assert first.has_more
    assert first.next_page
    starts = [bucket.start_time for bucket in first.data]
    second = usage.completions(start_time=begun - 600, bucket_width="1m", limit=5, page=first.next_page)
    assert [bucket.start_time for bucket in second.data][:1] == [starts[-1] + 60]
    with pytest.raises(BadRequestError) as caught:
        usage.completions(start_time=begun, group_by=["user_id"])
    assert caught.value.param == "group_by"


def test_a32_latency_is_ours(system: str, begun: int) -> None:
    headers = {"authorization": f"Bearer {ACME}"}
    asked: dict[str, str | int] = {"start_time": begun, "group_by": "project_id", "bucket_width": "1d"}
    answer = httpx.get(f"{system}/v1/usage/latency", params=asked, headers=headers)
    (result,) = (result for bucket in answer.json()["data"] for result in bucket["results"])
    assert (result["project_id"], result["responses"], result["outcomes"]) == ("acme", 3, {"completed": 3})
    assert 0 <= result["duration"]["p50_ms"] <= result["duration"]["max_ms"]


def shown(*command: str) -> str:
    environ = {**os.environ, "NO_COLOR": "1"}
    said = subprocess.run([REJOINDER, *command], check=True, capture_output=True, text=True, env=environ)
    return said.stdout


def test_rejoinder_usage_shows_what_has_ended(own: list[str], begun: int) -> None:
    lines = shown("usage", "--last", "1h", *own).splitlines()
    assert [line.split()[:2] for line in lines] == [["acme", "echo"], ["blue", "echo"], ["all", "5"]]
    assert all("failed" in line and line.endswith("usd") for line in lines)
    (told,) = map(json.loads, shown("usage", "--json", "--tenant", "blue", *own).splitlines())
    assert (told["tenant"], told["model"], told["responses"]) == ("blue", "echo", 2)
    assert told["outcomes"] == {"completed": 2}
    assert shown("usage", "--tenant", "nobody", *own) == "nothing has ended\n"


NO_FAUST = (
    "import sys; sys.modules['faust'] = None; from services.cli import run; sys.exit(run(sys.argv[1:]))"
)


def test_without_faust_analytics_says_so_in_one_line(own: list[str], system: str) -> None:
    command = [sys.executable, "-c", NO_FAUST, "analytics", *own]
    said = subprocess.run(command, check=False, capture_output=True, text=True)
    assert said.returncode == 2
    (line,) = said.stderr.splitlines()
    assert line.startswith(
        "rejoinder: analytics needs faust-streaming 0.15.3 (Python 3.11 to 3.13): pip install"
    )


def test_other_routes_of_the_organization_are_not_offered(system: str) -> None:
    with pytest.raises((NotFoundError, PermissionDeniedError)):
        client(system, ADMIN).admin.organization.usage.embeddings(start_time=0)
