"""A worker of webhooks over a log in memory, with real receivers: who is told what, when, and how often."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from openai import InvalidWebhookSignatureError

from schemas.closings import ClosingRecord
from schemas.ids import ResponseId, Tenant
from schemas.records import NewRecord
from schemas.webhooks import RetryRecord, delivery_id
from services.connect import webhooks_group
from services.eventlog.memory import MemoryLog
from services.eventlog.topics import topics
from services.points import Point
from services.settings import Settings
from services.webhooks.attempts import GIVE_UP_MS
from tests.closings import CLOSING
from tests.conftest import PATIENCE, eventually
from tests.following import joining
from tests.long import some
from tests.points import when
from tests.webhooks import KEY, Clock, Receiver, WebhooksWorker, announce, deliveries, ended, working

NAMES = topics()
PARTITIONS = 2
GROUP = webhooks_group(Settings())
HOUR_MS = 3600 * 1000
PATH = "/v1/webhook_endpoints"


@pytest.fixture
def log() -> MemoryLog:
    clock = CLOSING.closed_at - 1
    return MemoryLog({NAMES.closings: PARTITIONS, NAMES.webhooks: PARTITIONS}, clock=lambda: clock)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver().serving() as serving:
        yield serving


async def state_of(log: MemoryLog, response: ResponseId, partition: int = 0) -> Any:
    """The delivery of a response; None without one."""
    found = [d for d in (await deliveries(log, NAMES, partition)).values() if d.response == response]
    return found[0] if found else None


async def became(log: MemoryLog, response: ResponseId, **wanted: Any) -> Any:
    """The delivery of a response, when it is as `wanted`."""

    async def is_so() -> Any:
        found = await state_of(log, response)
        return found is not None and all(getattr(found, name) == wanted[name] for name in wanted) and found

    return await eventually(is_so)


# Delivery.


async def test_an_end_is_told_once_signed_as_the_sdk_wants_it(log: MemoryLog, receiver: Receiver) -> None:
    async with working(log, NAMES) as worker:
        endpoint = await worker.hooks().make(receiver.url)
        ends = [ended(number, partition=number % PARTITIONS) for number in range(20)]
        await announce(log, NAMES, *ends)
        await eventually(lambda: receiver.responses == {end.id for end in ends})
        assert set(receiver.ids.values()) == {1}
        assert set(receiver.ids) == {
            delivery_id(endpoint["id"], end.id, "response.completed") for end in ends
        }
        for each in receiver.received:
            event = each.unwrap(endpoint["signing_secret"])
            assert (event.type, event.object) == ("response.completed", "event")
            assert event.created_at == CLOSING.closed_at // 1000
        await became(log, ends[0].id, state="delivered", attempts=1, status=200, outcome="delivered")
        assert await worker.metric('rejoinder_webhooks_attempts_total{outcome="delivered"}') >= 20


async def test_nobody_hears_of_what_he_did_not_ask_for_or_of_another_tenants_ends(
    log: MemoryLog, receiver: Receiver
) -> None:
    async with working(log, NAMES) as worker:
        await worker.hooks().make(receiver.url, ["response.failed"])
        await announce(
            log,
            NAMES,
            ended(1),
            ended(2, tenant=Tenant("other"), status="failed"),
            ended(3, background=False, status="failed"),
            ended(4, status="deleted"),
            ended(5, status="failed"),
        )
        await eventually(lambda: receiver.responses == {ended(5).id})
        assert list((await deliveries(log, NAMES)).values()) == [await state_of(log, ended(5).id)]


async def test_p126_what_fails_is_tried_again_under_the_same_id_until_it_is_taken(
    log: MemoryLog, receiver: Receiver
) -> None:
    clock = Clock()
    receiver.status = 503
    async with working(log, NAMES, clock) as worker:
        endpoint = await worker.hooks().make(receiver.url)
        await announce(log, NAMES, ended(1))
        first = await became(log, ended(1).id, state="pending", attempts=1, status=503, outcome="refused")
        assert clock.now_ms < first.next_at <= clock.now_ms + 5_000
        clock.now_ms = first.next_at
        await became(log, ended(1).id, state="pending", attempts=2)
        receiver.status = 204
        clock.now_ms += HOUR_MS
        await became(log, ended(1).id, state="delivered", attempts=3, status=204)
        assert set(receiver.ids.values()) == {3}
        assert len({each.body for each in receiver.received}) == 1
        assert len({each.headers["webhook-timestamp"] for each in receiver.received}) == 3
        assert endpoint["signing_secret"].startswith("whsec_")


async def test_p126_after_72_hours_it_has_failed_until_an_operator_has_it_tried_again(
    log: MemoryLog, receiver: Receiver
) -> None:
    clock = Clock()
    receiver.status = 500
    async with working(log, NAMES, clock) as worker:
        await worker.hooks().make(receiver.url)
        await announce(log, NAMES, ended(1))
        await became(log, ended(1).id, attempts=1)
        clock.now_ms += GIVE_UP_MS
        failed = await became(log, ended(1).id, state="failed", attempts=2)
        clock.now_ms += GIVE_UP_MS
        receiver.status = 200
        await log.writer().append(NAMES.webhooks, 0, RetryRecord(failed.id, failed.tenant, 1).new())
        await log.writer().append(NAMES.webhooks, 0, RetryRecord(failed.id, failed.tenant, 2).new())
        await became(log, ended(1).id, state="delivered", attempts=3)
        assert len(receiver.received) == 3


@pytest.mark.parametrize("status", [302, 308])
async def test_a_redirect_is_a_failure_and_not_followed(
    log: MemoryLog, receiver: Receiver, status: int
) -> None:
    async with Receiver().serving() as elsewhere, working(log, NAMES, Clock()) as worker:
        receiver.status, receiver.headers = status, {"location": elsewhere.url}
        await worker.hooks().make(receiver.url)
        await announce(log, NAMES, ended(1))
        await became(log, ended(1).id, state="pending", status=status, outcome="redirected")
        assert not elsewhere.received


async def test_an_endpoint_that_does_not_answer_in_time_is_tried_again(
    log: MemoryLog, receiver: Receiver
) -> None:
    receiver.free.clear()
    async with working(log, NAMES, Clock(), webhooks_timeout_s=0.1) as worker:
        await worker.hooks().make(receiver.url)
        await announce(log, NAMES, ended(1))
        await became(log, ended(1).id, state="pending", outcome="timeout", status=None)


async def test_an_answer_of_any_length_is_an_answer(log: MemoryLog, receiver: Receiver) -> None:
    receiver.body = bytes(1 << 22)
    async with working(log, NAMES) as worker:
        await worker.hooks().make(receiver.url)
        await announce(log, NAMES, *(ended(number) for number in range(3)))
        await eventually(lambda: len(receiver.received) == 3)
        await became(log, ended(2).id, state="delivered")


async def test_a37_a_dead_endpoint_holds_nobody_up(log: MemoryLog, receiver: Receiver) -> None:
    async with Receiver().serving() as dead, working(log, NAMES, webhooks_attempts=8) as worker:
        dead.free.clear()
        hooks = worker.hooks()
        for _ in range(4):
            await hooks.make(dead.url)
        await hooks.make(receiver.url)
        ends = [ended(number) for number in range(60)]
        await announce(log, NAMES, *ends)
        await eventually(lambda: receiver.responses == {end.id for end in ends})
        assert dead.most_waiting <= 4


async def test_the_deliveries_of_an_endpoint_that_is_deleted_end(log: MemoryLog, receiver: Receiver) -> None:
    clock = Clock()
    receiver.status = 500
    async with working(log, NAMES, clock) as worker:
        endpoint = await worker.hooks().make(receiver.url)
        await announce(log, NAMES, ended(1))
        await became(log, ended(1).id, attempts=1)
        await worker.hooks().remove(endpoint["id"])
        clock.now_ms += HOUR_MS

        async def none() -> bool:
            return not await deliveries(log, NAMES)

        await eventually(none)
        await announce(log, NAMES, ended(2))
        await eventually(lambda: log.groups[GROUP].checkpoints.get((NAMES.closings, 0)) == 2)
        assert len(receiver.received) == 1


async def test_p128_what_leads_to_a_private_address_is_not_called(log: MemoryLog, receiver: Receiver) -> None:
    async with working(log, NAMES) as lax:
        await lax.hooks().make(receiver.url)
    async with working(log, NAMES, Clock(), webhooks_allow_private=0) as worker:
        status, said = await worker.hooks().ask("POST", PATH, {**BODY, "url": "https://127.0.0.1/"})
        assert (status, said["error"]["param"]) == (400, "url")
        await announce(log, NAMES, ended(1))
        await became(log, ended(1).id, state="pending", outcome="private_address")
        assert not receiver.received


async def test_p122_without_the_key_nothing_is_signed_or_sent(log: MemoryLog, receiver: Receiver) -> None:
    async with working(log, NAMES) as keyed:
        await keyed.hooks().make(receiver.url)
    async with working(log, NAMES, Clock(), webhooks_keys=()) as worker:
        await announce(log, NAMES, ended(1))
        await became(log, ended(1).id, state="pending", outcome="no_key")
        status, said = await worker.hooks().ask("POST", PATH, {**BODY, "url": receiver.url})
        assert (status, said["error"]["param"], said["error"]["code"]) == (
            400,
            "signing_secret",
            "no_sealing_key",
        )
        assert "REJOINDER_WEBHOOKS_KEYS" in said["error"]["message"]
    assert not receiver.received


@pytest.mark.parametrize("gone", ["old", "new"])
async def test_p122_a_secret_whose_key_is_gone_silences_no_other_one(
    log: MemoryLog, receiver: Receiver, gone: str
) -> None:
    old, new = KEY, "k2=" + b64encode(b"2" * 32).decode()
    async with working(log, NAMES, webhooks_keys=(old,)) as worker:
        made = await worker.hooks().make(receiver.url)
    async with working(log, NAMES, webhooks_keys=(new, old)) as worker:
        body = {"keep_old_secret_active_for_24_hours": True}
        _, rotated = await worker.hooks().ask("POST", f"{PATH}/{made['id']}/rotate_secret", body)
    secrets = {"old": made["signing_secret"], "new": rotated["signing_secret"]}
    left = new if gone == "old" else old
    async with working(log, NAMES, webhooks_keys=(left,)):
        await announce(log, NAMES, ended(1))
        [told] = await eventually(lambda: receiver.received)
        with pytest.raises(InvalidWebhookSignatureError):
            told.unwrap(secrets.pop(gone))
        [secret] = secrets.values()
        told.unwrap(secret)
        assert told.response == ended(1).id


# What the log is for.


async def test_p127_a_closing_that_is_told_again_is_delivered_once(
    log: MemoryLog, receiver: Receiver
) -> None:
    ends = [ended(number) for number in range(5)]
    async with working(log, NAMES) as worker:
        await worker.hooks().make(receiver.url)
        await announce(log, NAMES, *ends, *ends[2:])
        await eventually(lambda: len(receiver.received) == 5)
        await eventually(lambda: log.groups[GROUP].checkpoints.get((NAMES.closings, 0)) == 8)
    await announce(log, NAMES, *ends, ended(9))
    log.groups[GROUP].checkpoints.clear()
    for record in await deliveries(log, NAMES):
        await log.writer().append(NAMES.webhooks, 0, NewRecord(record.encode(), None))
    async with working(log, NAMES):
        await eventually(lambda: ended(9).id in receiver.responses)
    assert set(receiver.ids.values()) == {1}


DEATHS: dict[str, tuple[Point, int]] = {
    "before what is due is a record": ("deliveries due", 2),
    "before the first of it is": ("deliveries due", 0),
    "before what came of it is a record": ("attempt over", 3),
    "before that of the first": ("attempt over", 0),
    "before it is sent": ("attempt due", 3),
    "before the first is sent": ("attempt due", 0),
    "before the checkpoint": ("checkpoints due", 0),
    "behind the checkpoint": ("checkpoints committed", 0),
}
"""Where a worker dies, and how often it came by there before."""


@pytest.mark.parametrize("death", some(DEATHS, 2))
async def test_p123_a_worker_may_die_anywhere_and_every_end_is_delivered_under_one_id(
    log: MemoryLog, receiver: Receiver, death: tuple[Point, int]
) -> None:
    point, left = death
    ends = [ended(number) for number in range(8)]

    async with working(log, NAMES) as worker:

        def die(*_: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                worker.serving.cancel()
                raise asyncio.CancelledError

        await worker.hooks().make(receiver.url)
        with when(point, die):
            for end in ends:
                await announce(log, NAMES, end)
                await eventually(partial(heard_or_dead, receiver, worker, end))
            await asyncio.wait([worker.serving], timeout=PATIENCE)
        assert worker.serving.done()
    await announce(log, NAMES, *ends)
    async with working(log, NAMES):
        await eventually(lambda: receiver.responses == {end.id for end in ends})
    assert len(receiver.ids) == len(ends)
    assert sum(receiver.ids.values()) <= 2 * len(ends)


def heard_or_dead(receiver: Receiver, worker: WebhooksWorker, end: ClosingRecord) -> bool:
    return receiver.heard_of({end.id}) or worker.serving.done()


async def test_workers_share_the_partitions_and_take_over(log: MemoryLog, receiver: Receiver) -> None:
    async with working(log, NAMES) as one:
        await one.hooks().make(receiver.url)
        async with working(log, NAMES) as two:
            first = [ended(number, partition=number % PARTITIONS) for number in range(10)]
            await announce(log, NAMES, *first)
            await eventually(lambda: receiver.responses == {end.id for end in first})
            assert await two.metric("rejoinder_webhooks_endpoints") == 1
        rest = [ended(number, partition=number % PARTITIONS) for number in range(10, 20)]
        await announce(log, NAMES, *rest)
        await eventually(lambda: receiver.responses == {end.id for end in (*first, *rest)})
    assert set(receiver.ids.values()) == {1}


async def test_p125_an_endpoint_hears_of_every_end_after_it_was_made_whoever_owns_the_partition(
    log: MemoryLog, receiver: Receiver
) -> None:
    async with working(log, NAMES) as one, working(log, NAMES) as two:
        for number in range(12):
            hooks = (one, two)[number % 2].hooks()
            endpoint = await hooks.make(receiver.url)
            ends = [ended(number, partition=partition) for partition in range(PARTITIONS)]
            told = {end.id for end in ends}
            await announce(log, NAMES, *ends)
            await eventually(partial(receiver.heard_of, told))
            status, _ = await (two, one)[number % 2].hooks().ask("DELETE", f"{PATH}/{endpoint['id']}")
            assert status == 200
    assert sum(receiver.ids.values()) == 24


async def test_p129_a_worker_whose_group_has_not_answered_begins_nothing(
    log: MemoryLog, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    memberships = joining(log, monkeypatch)
    async with working(log, NAMES) as worker:
        await worker.hooks().make(receiver.url)
        heard = type(memberships[0]).heard_at
        with monkeypatch.context() as silent:
            silent.setattr(type(memberships[0]), "heard_at", float("-inf"), raising=False)
            due = asyncio.Event()
            with when("deliveries due", lambda *_: due.set()):
                await announce(log, NAMES, ended(1))
                await due.wait()
            assert not await deliveries(log, NAMES)
            silent.setattr(type(memberships[0]), "heard_at", heard, raising=False)
            await eventually(lambda: receiver.responses == {ended(1).id})


async def test_p110_what_was_removed_unread_is_reported(log: MemoryLog, receiver: Receiver) -> None:
    async with working(log, NAMES) as worker:
        await worker.hooks().make(receiver.url)
        await announce(log, NAMES, ended(1))
        await eventually(lambda: log.groups[GROUP].checkpoints.get((NAMES.closings, 0)) == 1)
        before = await worker.metric("rejoinder_webhooks_lost_total")
    await announce(log, NAMES, *(ended(number) for number in range(2, 6)))
    log.retain(NAMES.closings, 0, 4)
    async with working(log, NAMES) as worker:
        await eventually(lambda: ended(5).id in receiver.responses)
        assert await worker.metric("rejoinder_webhooks_lost_total") == before + 3
    assert receiver.responses == {ended(1).id, ended(5).id}


@pytest.mark.parametrize("point", ["deliveries due", "attempt over"])
async def test_an_append_that_fails_is_made_again(log: MemoryLog, receiver: Receiver, point: Point) -> None:
    async with working(log, NAMES) as worker:
        await worker.hooks().make(receiver.url)
        with when(point, lambda *_: log.fail_next("lost")):
            await announce(log, NAMES, ended(1))
            await became(log, ended(1).id, state="delivered")
    assert set(receiver.ids.values()) == {1}


# Endpoints.

BODY = {"name": "builds", "url": "https://hooks.example.com/", "event_types": ["response.completed"]}


async def test_a34_an_endpoint_is_made_shown_changed_and_deleted(log: MemoryLog, receiver: Receiver) -> None:
    async with working(log, NAMES) as worker:
        hooks = worker.hooks()
        made = await hooks.make(receiver.url)
        secret = made.pop("signing_secret")
        assert made["object"] == "webhook_endpoint"
        assert made["signing_secret_hint"][-4:] in secret
        one = f"{PATH}/{made['id']}"
        assert await hooks.ask("GET", one) == (200, made)
        status, changed = await hooks.ask(
            "POST", one, {"name": "nightly", "event_types": ["response.failed"] * 2}
        )
        assert (status, changed["name"], changed["event_types"]) == (200, "nightly", ["response.failed"])
        assert (changed["url"], changed["signing_secret_hint"]) == (made["url"], made["signing_secret_hint"])
        assert await hooks.ask("POST", one, {}) == (200, changed)
        gone = {"id": made["id"], "object": "webhook_endpoint.deleted", "deleted": True}
        assert await hooks.ask("DELETE", one) == (200, gone)
        assert (await hooks.ask("GET", one))[0] == 404


async def test_a36_a_secret_is_shown_once_and_rotated(log: MemoryLog, receiver: Receiver) -> None:
    async with working(log, NAMES) as worker:
        hooks = worker.hooks()
        first = await hooks.make(receiver.url)
        rotate = f"{PATH}/{first['id']}/rotate_secret"
        _, second = await hooks.ask("POST", rotate, {"keep_old_secret_active_for_24_hours": True})
        await announce(log, NAMES, ended(1))
        await eventually(lambda: len(receiver.received) == 1)
        for made in (first, second):
            receiver.received[0].unwrap(made["signing_secret"])
        _, third = await hooks.ask("POST", rotate)
        await announce(log, NAMES, ended(2))
        await eventually(lambda: len(receiver.received) == 2)
        receiver.received[1].unwrap(third["signing_secret"])
        for made in (first, second):
            with pytest.raises(InvalidWebhookSignatureError):
                receiver.received[1].unwrap(made["signing_secret"])
        shown = json.dumps([await hooks.ask("GET", PATH), await hooks.ask("GET", f"{PATH}/{first['id']}")])
        assert "signing_secret_hint" in shown
        for made in (first, second, third):
            assert made["signing_secret"] not in shown


async def test_p122_the_log_holds_no_secret(log: MemoryLog, receiver: Receiver) -> None:
    async with working(log, NAMES) as worker:
        made = await worker.hooks().make(receiver.url)
        plain = made["signing_secret"].removeprefix("whsec_")
        values = [record.value or b"" for record in log.records(NAMES.webhooks, 0)]
        assert len(values) == 3
        assert not any(plain.encode() in value for value in values)


async def test_a35_endpoints_are_listed_in_pages_the_newest_first(log: MemoryLog, receiver: Receiver) -> None:
    async with working(log, NAMES) as worker:
        hooks = worker.hooks()
        ids = [(await hooks.make(receiver.url))["id"] for _ in range(5)]
        _, page = await hooks.ask("GET", f"{PATH}?limit=2")
        assert ([each["id"] for each in page["data"]], page["has_more"]) == (ids[:-3:-1], True)
        _, page = await hooks.ask("GET", f"{PATH}?limit=3&after={page['last_id']}")
        assert ([each["id"] for each in page["data"]], page["has_more"]) == (ids[2::-1], False)
        assert (await hooks.ask("GET", f"{PATH}?limit=0"))[1]["error"]["param"] == "limit"
        assert (await hooks.ask("GET", f"{PATH}?after=we_1"))[1]["error"]["param"] == "after"


async def test_a34_an_endpoint_is_its_tenants_alone_and_an_admin_has_none(
    log: MemoryLog, receiver: Receiver
) -> None:
    async with working(log, NAMES) as worker:
        made = await worker.hooks().make(receiver.url)
        one = f"{PATH}/{made['id']}"
        tried: list[tuple[str, str, Any]] = [
            ("GET", one, None),
            ("POST", one, {"name": "mine"}),
            ("DELETE", one, None),
            ("POST", f"{one}/rotate_secret", None),
            ("POST", f"{one}/test", {"event_type": "response.completed"}),
        ]
        for tenant, wanted in (("other", 404), (None, 403)):
            for method, path, body in tried:
                status, said = await worker.hooks(tenant).ask(method, path, body)
                assert (status, said["error"]["type"]) == (wanted, "invalid_request_error"), (method, path)
        assert (await worker.hooks("other").ask("GET", PATH))[1]["data"] == []
        assert (await worker.hooks().ask("GET", one))[0] == 200


WRONG: list[tuple[Any, Any]] = [
    ({**BODY, "url": "http://hooks.example.com/"}, "url"),
    ({**BODY, "url": "https://169.254.169.254/"}, "url"),
    ({**BODY, "url": 5}, "url"),
    ({**BODY, "url": ""}, "url"),
    ({"name": "a", "event_types": ["response.completed"]}, "url"),
    ({**BODY, "name": ""}, "name"),
    ({**BODY, "name": "a" * 257}, "name"),
    ({"url": BODY["url"], "event_types": ["response.completed"]}, "name"),
    ({**BODY, "event_types": []}, "event_types"),
    ({**BODY, "event_types": "response.completed"}, "event_types"),
    ({**BODY, "event_types": ["response.completed", "response.ended"]}, "event_types[1]"),
    ({**BODY, "event_types": ["batch.completed"]}, "event_types[0]"),
    ({"name": "a", "url": BODY["url"]}, "event_types"),
    ({**BODY, "secret": "whsec_mine"}, "secret"),
    ([], "body"),
    (b"", None),
    (b"{", None),
    (b"[" * 5000, None),
]
"""Bodies, and the field that a refusal names."""


async def test_a35_bad_input_is_refused_and_the_field_named(log: MemoryLog) -> None:
    async with working(log, NAMES, webhooks_allow_private=0) as worker:
        for body, param in WRONG:
            status, said = await worker.hooks().ask("POST", PATH, body)
            assert (status, said["error"]["param"]) == (400, param), body
        assert (await worker.hooks().ask("GET", PATH))[1]["data"] == []


async def test_a35_a_tenant_has_so_many_endpoints_and_no_more(log: MemoryLog, receiver: Receiver) -> None:
    async with working(log, NAMES, webhooks_endpoints=2) as worker:
        hooks = worker.hooks()
        await hooks.make(receiver.url)
        made = await hooks.make(receiver.url)
        status, said = await hooks.ask("POST", PATH, {**BODY, "url": receiver.url})
        assert (status, said["error"]["code"], said["error"]["param"]) == (400, "too_many_endpoints", "url")
        await worker.hooks("other").make(receiver.url)
        await hooks.remove(made["id"])
        await hooks.make(receiver.url)


async def test_a38_a_test_tells_the_status_of_the_answer_and_nothing_else_of_it(
    log: MemoryLog, receiver: Receiver
) -> None:
    receiver.status, receiver.body = 418, b"a secret of the network behind"
    async with working(log, NAMES) as worker:
        hooks = worker.hooks()
        made = await hooks.make(receiver.url)
        test = f"{PATH}/{made['id']}/test"
        status, said = await hooks.ask("POST", test, {"event_type": "response.failed"})
        assert status == 200
        assert said == {
            "object": "webhook_endpoint.test",
            "webhook_endpoint_id": made["id"],
            "event_type": "response.failed",
            "status_code": 418,
            "success": True,
        }
        assert receiver.received[0].unwrap(made["signing_secret"]).type == "response.failed"
        assert (await hooks.ask("POST", test, {}))[1]["error"]["param"] == "event_type"
        _, gone = await hooks.ask("POST", f"{PATH}/{made['id']}", {"url": "https://127.0.0.1:9/"})
        status, said = await hooks.ask("POST", test, {"event_type": "response.failed"})
        assert (status, said["error"]["code"], gone["url"]) == (
            400,
            "webhook_test_failed",
            "https://127.0.0.1:9/",
        )
        assert not await deliveries(log, NAMES)


async def test_with_the_log_away_a_change_is_a_503_and_may_be_repeated(log: MemoryLog) -> None:
    async with working(log, NAMES) as worker:
        log.available = False
        status, said = await worker.hooks().ask("GET", PATH)
        assert (status, said["error"]["code"]) == (503, "service_unavailable")
        log.available = True
        assert (await worker.hooks().ask("GET", PATH))[0] == 200


async def test_the_types_of_events_are_listed(log: MemoryLog) -> None:
    async with working(log, NAMES) as worker:
        status, said = await worker.hooks().ask("GET", "/v1/webhook_event_types")
        assert (status, said["object"], len(said["data"])) == (200, "list", 4)
        assert (await worker.hooks(None).ask("GET", "/v1/webhook_event_types"))[0] == 403
