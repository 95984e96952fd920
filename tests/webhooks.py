"""A worker of webhooks in the test's own process, real receivers on loopback, and a look at its topic."""

import asyncio
import json
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from msgspec.structs import replace
from openai import OpenAI
from openai.types.webhooks import UnwrapWebhookEvent

from schemas.closings import ClosingRecord
from schemas.ids import ResponseId, Tenant, partition_of, response_id
from schemas.records import LogRecord
from schemas.webhooks import DeliveryRecord, EndpointId, SealedSecret, parse_webhook
from services.broker.tcp import LOOPBACK, free_port
from services.eventlog.port import Log, TopicPartition
from services.eventlog.scan import scan
from services.eventlog.topics import Topics
from services.settings import Settings
from services.web.forwarded import INSIDE, Caller, caller_header
from services.webhooks import app
from services.webhooks.endpoints import Endpoint
from tests.closings import CLOSING
from tests.conftest import eventually

KEY = "k1=" + b64encode(bytes(32)).decode()
ALL_TYPES = tuple(f"response.{status}" for status in ("completed", "failed", "cancelled", "incomplete"))
UNWRAP = OpenAI(api_key="unused").webhooks.unwrap
ENDPOINT = Endpoint(
    EndpointId("we_" + "0" * 32),
    CLOSING.tenant,
    created_at=0,
    updated_at=0,
    name="builds",
    url="https://hooks.example/",
    event_types=ALL_TYPES,
    secrets=(SealedSecret("k1", ""),),
    hint="whsec_…0000",
)


def ended(number: int, *, partition: int = 0, **changes: Any) -> ClosingRecord:
    """The closing of the response `number`, which a partition has at offset 2 * `number` + 1."""
    id = response_id(partition, number.to_bytes(16))
    fresh = replace(CLOSING, id=id, accepted_offset=2 * number, closed_offset=2 * number + 1, background=True)
    return replace(fresh, **changes)


class Clock:
    """A clock that a test moves. It begins at the time of the closings."""

    def __init__(self, now_ms: int = CLOSING.closed_at) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


class Received:
    """A request that a receiver got."""

    def __init__(self, headers: Mapping[str, str], body: bytes, path: str) -> None:
        self.headers = headers
        self.body = body
        self.path = path

    @property
    def id(self) -> str:
        """Its `webhook-id`."""
        return self.headers["webhook-id"]

    @property
    def response(self) -> ResponseId:
        """The response that it tells of."""
        return ResponseId(json.loads(self.body)["data"]["id"])

    def unwrap(self, secret: str) -> UnwrapWebhookEvent:
        """The event, verified by the SDK. Raises openai.InvalidWebhookSignatureError."""
        return UNWRAP(self.body.decode(), self.headers, secret=secret)


class Receiver:
    """An endpoint on loopback. It answers `status`, as soon as `free` is set."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.headers: dict[str, str] = {}
        self.body = b"thanks"
        self.free = asyncio.Event()
        self.free.set()
        self.received: list[Received] = []
        self.waiting = 0
        """Requests that it has not answered."""
        self.most_waiting = 0
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Receiver"]:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._take)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, LOOPBACK, port).start()
        self.url = f"http://{LOOPBACK}:{port}/hook"
        try:
            yield self
        finally:
            self.free.set()
            await runner.cleanup()

    @property
    def ids(self) -> Counter[str]:
        """How often each `webhook-id` came."""
        return Counter(each.id for each in self.received)

    @property
    def responses(self) -> set[ResponseId]:
        """The responses that it heard of."""
        return {each.response for each in self.received}

    def heard_of(self, responses: set[ResponseId]) -> bool:
        """Whether it heard of all of these."""
        return responses <= self.responses

    async def _take(self, request: web.Request) -> web.Response:
        self.waiting += 1
        self.most_waiting = max(self.waiting, self.most_waiting)
        try:
            self.received.append(Received(dict(request.headers), await request.read(), request.path))
            await self.free.wait()
        finally:
            self.waiting -= 1
        return web.Response(status=self.status, headers=self.headers, body=self.body)


class Hooks:
    """A caller of the internal port, as the front door is one."""

    def __init__(self, url: str, session: aiohttp.ClientSession, tenant: str | None) -> None:
        self._url = url + INSIDE
        self._session = session
        self.caller = Caller(None if tenant is None else Tenant(tenant), admin=tenant is None)

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and body of an answer."""
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = caller_header(self.caller)
        async with self._session.request(method, self._url + path, data=raw, headers=headers) as answer:
            return answer.status, await answer.json()

    async def make(self, url: str, types: Iterable[str] = ALL_TYPES, name: str = "builds") -> Any:
        """A new endpoint, with its secret."""
        body = {"name": name, "url": url, "event_types": list(types)}
        status, made = await self.ask("POST", "/v1/webhook_endpoints", body)
        assert status == 200, made
        return made

    async def remove(self, id: str) -> None:
        """Delete an endpoint."""
        status, said = await self.ask("DELETE", f"/v1/webhook_endpoints/{id}")
        assert status == 200, said


class WebhooksWorker:
    """A worker that serves, and what a test does with it."""

    def __init__(
        self, log: Log, names: Topics, url: str, session: aiohttp.ClientSession, serving: asyncio.Task[None]
    ) -> None:
        self.serving = serving
        self.log = log
        self.names = names
        self._url = url
        self._session = session

    def hooks(self, tenant: str | None = CLOSING.tenant) -> Hooks:
        """A caller, as this tenant."""
        return Hooks(self._url, self._session, tenant)

    async def ready(self) -> bool:
        """Whether it says that it is ready."""
        try:
            async with self._session.get(f"{self._url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def metric(self, line: str) -> float:
        """The value of a line of its metrics, 0 without one."""
        async with self._session.get(f"{self._url}/metrics") as answer:
            lines = dict(each.rsplit(" ", 1) for each in (await answer.text()).splitlines() if " " in each)
        return float(lines.get(line, 0))


@asynccontextmanager
async def working(
    log: Log, names: Topics, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[WebhooksWorker]:
    """A worker from its start to its orderly end."""
    given = {"webhooks_keys": (KEY,), "webhooks_allow_private": 1, "grace_s": 2, **settings}
    chosen = Settings(internal_port=free_port(), **given)
    stop = asyncio.Event()
    serving = asyncio.create_task(app.serve(chosen, log, names, stop, *([clock] if clock else [])))
    async with aiohttp.ClientSession() as session:
        url = f"http://{LOOPBACK}:{chosen.internal_port}"
        worker = WebhooksWorker(log, names, url, session, serving)
        try:
            await eventually(worker.ready)
            yield worker
        finally:
            stop.set()
            await asyncio.wait([serving])
            if not serving.cancelled():
                serving.result()


async def announce(log: Log, names: Topics, *closings: ClosingRecord, at_once: bool = False) -> None:
    """Append closings to the topic, each in the partition of its id, one after the other or `at_once`."""
    writer = log.writer()
    for closing in closings:
        if at_once:
            writer.post(names.closings, partition_of(closing.id), closing.new())
        else:
            await writer.append(names.closings, partition_of(closing.id), closing.new())
    await writer.close()


async def stored(log: Log, names: Topics, partition: int) -> list[LogRecord]:
    """The records of a partition of `webhooks`."""
    bounds = (await log.bounds(names.webhooks, [partition]))[partition]
    source = TopicPartition(names.webhooks, partition)
    return [record async for record in scan(log, source, bounds.start, bounds.end)]


async def deliveries(log: Log, names: Topics, partition: int = 0) -> dict[str, DeliveryRecord]:
    """The deliveries of a partition, as the log has them last."""
    found: dict[str, DeliveryRecord] = {}
    for record in await stored(log, names, partition):
        said = parse_webhook(record, partition)
        if isinstance(said, DeliveryRecord):
            found[said.id] = said
        elif record.value is None:
            found.pop((record.key or b"").decode(), None)
    return found
