"""A line for each request, and one for each delete and use of a key; none with content or a key."""

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.testing import capture_logs

from services.settings import Settings
from services.web.request_log import HOUR_S, RequestLog
from services.web.served import Served
from tests.conftest import eventually
from tests.ingesting import Ingesting, executing, ingesting
from tests.serving import ask, opened

PAGE = Path(__file__).parents[2] / "docs" / "logs.md"
KEY, ADMIN_KEY, WRONG = "sesame-open-sesame", "sesame-for-admins", "sesame-is-not-known"
KEYS: dict[str, Any] = {"api_keys": (f"acme={KEY}",), "admin_keys": (ADMIN_KEY,)}
SAID = "words that nobody may log"
Line = dict[str, Any]


def bearer(key: str) -> str:
    return f"authorization: Bearer {key}"


class Lines:
    """The lines that are written, as machines get them."""

    def __init__(self, entries: list[Any]) -> None:
        self._entries = entries

    def of(self, event: str) -> list[Line]:
        return [line for line in self._entries if line["event"] == event]

    async def last(self, event: str, count: int) -> Line:
        """The last line of an event, once there are `count` of them."""
        await eventually(lambda: len(self.of(event)) >= count)
        assert len(self.of(event)) == count
        return self.of(event)[-1]


@contextmanager
def captured() -> Iterator[Lines]:
    with capture_logs(processors=[merge_contextvars]) as entries:
        yield Lines(entries)


async def stream(running: Ingesting, id: str, *headers: str) -> bytes:
    return (await ask(running.public, f"GET /v1/responses/{id}?stream=true", headers=headers)).body


async def test_a_request_has_a_line_when_it_is_over() -> None:
    with captured() as lines:
        async with ingesting() as running, executing(running):
            headers = "x-rejoinder-tenant: acme", "x-request-id: mine"
            answer = await running.post({"background": True, "input": SAID}, *headers)
            id = json.loads(answer.body)["id"]
            line = await lines.last("request", 1)
            assert (
                line
                | {
                    "request_id": "mine",
                    "tenant": "acme",
                    "method": "POST",
                    "route": "/v1/responses",
                    "status": 200,
                    "response": id,
                }
                == line
            )
            assert line["bytes"] == len(answer.body)
            assert 0 < line["answered_s"] <= line["duration_s"]

            body = await stream(running, id, "x-rejoinder-tenant: acme")
            line = await lines.last("request", 2)
            assert (line["route"], line["response"], line["end"]) == ("/v1/responses/{id}", id, "complete")
            assert line["bytes"] == len(body)
            await ask(running.public, "GET /livez")
    assert len(lines.of("request")) == 2
    assert SAID not in str(lines.of("request"))


async def test_bytes_that_are_pushed_to_a_stream_count() -> None:
    with captured() as lines:
        async with ingesting() as running, executing(running):
            echo = {"echo.tokens": "30", "echo.interval_ms": "5"}
            answer = await running.post({"stream": True, "metadata": echo})
            line = await lines.last("request", 1)
    assert line["bytes"] == len(answer.body)


async def test_a_path_is_not_logged_as_the_client_wrote_it() -> None:
    with captured() as lines:
        async with ingesting() as running:
            for target in ("/nowhere/sesame", "/v1/responses/sesame", "/v1/webhook_endpoints/sesame"):
                assert (await ask(running.public, f"GET {target}")).status == 404
            await lines.last("request", 3)
    assert [line["route"] for line in lines.of("request")] == [
        "none",
        "/v1/responses/{id}",
        "/v1/webhook_endpoints/{id}",
    ]
    assert "sesame" not in str(lines.of("request"))


async def test_a_client_that_goes_before_its_answer_has_a_line_without_a_status() -> None:
    with captured() as lines:
        async with ingesting() as running:
            body = json.dumps({"model": "echo", "input": "hi"}).encode()
            _, writer = await asyncio.open_connection("127.0.0.1", running.public)
            head = f"POST /v1/responses HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await eventually(lambda: len(running.accepted()) == 1)
            writer.close()
            line = await lines.last("request", 1)
    assert line["status"] == 0
    assert "answered_s" not in line


async def test_a_stream_whose_client_goes_has_a_line_that_says_so() -> None:
    with captured() as lines:
        async with ingesting() as running:
            id = (await running.create())["id"]
            reader, writer = await opened(running.public, f"GET /v1/responses/{id}?stream=true")
            await reader.readuntil(b"response.queued")
            writer.close()
            line = await lines.last("request", 2)
    assert (line["status"], line["end"], line["response"]) == (200, "disconnected", id)


async def test_who_deleted_what_and_whose_key_it_was_is_audited() -> None:
    with captured() as lines:
        async with ingesting(**KEYS) as running:
            id = (await running.create(bearer(KEY), input=SAID))["id"]
            used = await lines.last("audit", 1)
            await running.delete(id, bearer(WRONG))
            refused = await lines.last("audit", 2)
            assert (await running.delete(id, bearer(KEY))).status == 200
            deleted = await lines.last("audit", 3)
            await ask(running.public, "GET /v1/usage/latency", headers=[bearer(ADMIN_KEY)])
            admin = await lines.last("audit", 4)
    name = sha256(KEY.encode()).hexdigest()[:8]
    shown = [(line["action"], line.get("tenant"), line.get("key")) for line in (used, deleted, admin)]
    assert shown == [
        ("key_used", "acme", name),
        ("delete", "acme", name),
        ("admin", None, sha256(ADMIN_KEY.encode()).hexdigest()[:8]),
    ]
    assert (deleted["response"], deleted["status"]) == (id, 200)
    assert (refused["action"], refused["status"], "tenant" in refused) == ("key_refused", 401, False)
    everything = str(lines.of("audit") + lines.of("request"))
    assert not [secret for secret in (KEY, ADMIN_KEY, WRONG, SAID) if secret in everything]


def told(log: RequestLog, **bound: Any) -> Sequence[str]:
    """The actions that are audited of one more request."""
    with captured() as lines, bound_contextvars(**bound):
        log.tell(Served(0.0, "GET", status=200), 0.1)
    return [line["action"] for line in lines.of("audit")]


def test_the_first_use_of_a_key_in_an_hour_is_audited() -> None:
    now = 10.0
    log = RequestLog(Settings(), lambda: now)
    first = [told(log, tenant="a", key=key) for key in ("k", "k", "l")]
    assert first == [["key_used"], [], ["key_used"]]
    now += HOUR_S
    assert told(log, tenant="a", key="k") == ["key_used"]
    assert told(log, tenant="a") == []
    assert [told(log, tenant=None, key="m", admin=True) for _ in range(2)] == [["admin"], ["admin"]]
    assert told(log, tenant="a", key="n", admin=False) == ["key_used"]


@pytest.mark.parametrize("switched", [{"access_log"}, {"audit_log"}, {"access_log", "audit_log"}])
async def test_each_log_can_be_switched_off(switched: set[str]) -> None:
    with captured() as lines:
        async with ingesting(**dict.fromkeys(switched, "off")) as running:
            await running.delete((await running.create())["id"])
    counts = len(lines.of("request")), len(lines.of("audit"))
    assert counts == (0 if "access_log" in switched else 2, 0 if "audit_log" in switched else 1)


def test_the_page_has_every_field_and_action() -> None:
    full = Served(0.0, "GET", "/r", "resp", "we_", 200, 0.1, 1, "cut")
    with captured() as lines, bound_contextvars(request_id="r", tenant="t", key="k", admin=False):
        RequestLog(Settings(), lambda: 0).tell(full, 0.2)
    (line,) = lines.of("request")
    page = PAGE.read_text()
    rows = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]
    named = set(re.findall(r"`(\w+)`", "".join(rows)))
    assert named == line.keys() - {"event", "log_level"} | {"delete", "admin", "key_used", "key_refused"}
