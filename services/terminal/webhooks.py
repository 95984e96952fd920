"""`rejoinder webhooks list` and `retry`: an operator looks at deliveries, and has them tried again.

Both read the topic `webhooks` to its end, and join no group. `retry` appends a wish to the partition of each
delivery; the worker that owns it acts on that within a second.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct

from schemas.errors import RejoinderError
from schemas.ids import partition_of
from schemas.webhooks import HOME, DeliveryRecord, RetryRecord
from services.connect import connect, topic_names
from services.eventlog.port import Log, TopicPartition
from services.eventlog.scan import scan
from services.settings import Settings
from services.terminal.printing import say, until_enough
from services.webhooks.deliveries import Deliveries
from services.webhooks.endpoints import Endpoint, Endpoints
from services.webhooks.signing import holding


class NothingToRetry(RejoinderError):
    """No delivery is to be tried again: says why, and where to look."""


class WebhooksFound(Struct, frozen=True):
    """What the topic says: the endpoints, and every delivery that is known."""

    endpoints: Sequence[Endpoint]
    deliveries: Sequence[DeliveryRecord]


def list_webhooks(settings: Settings, *, tenant: str, now_ms: int) -> int:
    """Print the endpoints of a `tenant` ("" for all) with what waits and what has failed. Returns 0."""
    found = asyncio.run(_read(settings))
    until_enough(lambda: say("".join(f"{line}\n" for line in webhook_lines(found, tenant, now_ms))))
    return 0


def retry_webhooks(settings: Settings, id: str) -> int:
    """Have a delivery tried again, or all that failed of an endpoint. Returns 0. Raises NothingToRetry."""
    count = asyncio.run(_retry(settings, id))
    sys.stdout.write(f"{count} to be tried again\n")
    return 0


def webhook_lines(found: WebhooksFound, tenant: str, now_ms: int) -> Iterable[str]:
    """The lines of a list: an endpoint, with the keys that its secrets need at `now_ms`, and below it each of
    its deliveries that is not over well.
    """
    states = Counter((delivery.endpoint, delivery.state) for delivery in found.deliveries)
    for endpoint in found.endpoints:
        if tenant not in ("", endpoint.tenant):
            continue
        counts = ", ".join(
            f"{states[endpoint.id, state]} {state}" for state in ("pending", "failed", "delivered")
        )
        keys = ", ".join(dict.fromkeys(sealed.key for sealed in holding(endpoint.secrets, now_ms)))
        yield f"{endpoint.id}  {endpoint.tenant}  {endpoint.url}  {endpoint.name!r}: {counts}; key {keys}"
        for delivery in found.deliveries:
            if delivery.endpoint == endpoint.id and _ails(delivery):
                yield f"  {_line(delivery)}"


def to_retry(found: WebhooksFound, id: str) -> list[DeliveryRecord]:
    """The deliveries that `retry` is about: the one with this id, or all that failed of an endpoint."""
    return [
        delivery
        for delivery in found.deliveries
        if (delivery.id == id and delivery.state != "delivered")
        or (delivery.endpoint == id and delivery.state == "failed")
    ]


def _ails(delivery: DeliveryRecord) -> bool:
    return delivery.state == "failed" or (delivery.state == "pending" and delivery.attempts > 0)


def _line(delivery: DeliveryRecord) -> str:
    status = "" if delivery.status is None else f" {delivery.status}"
    tries = f"{delivery.attempts} attempt{'s' if delivery.attempts != 1 else ''}"
    said = f"{delivery.outcome}{status}"
    return f"{delivery.id}  {delivery.type}  {delivery.response}  {delivery.state}: {said} after {tries}"


async def _read(settings: Settings) -> WebhooksFound:
    log = connect(settings, "webhooks-list")
    try:
        return await read_webhooks(log, topic_names(settings).webhooks)
    finally:
        await log.close()


async def read_webhooks(log: Log, topic: str) -> WebhooksFound:
    """What `topic` says now. Raises TopicMissing, LogUnavailable."""
    endpoints, deliveries = Endpoints(), list[DeliveryRecord]()
    bounds = await log.bounds(topic, range(await log.partitions(topic)))
    for partition, found in bounds.items():
        fold = Deliveries(partition)
        async for record in scan(log, TopicPartition(topic, partition), found.start, found.end):
            fold.apply(record)
            if partition == HOME:
                endpoints.apply(record)
        deliveries += fold.all()
    return WebhooksFound(endpoints.all(), deliveries)


async def _retry(settings: Settings, id: str) -> int:
    log, topic = connect(settings, "webhooks-retry"), topic_names(settings).webhooks
    writer = log.writer(delivery_timeout=10)
    try:
        found = to_retry(await read_webhooks(log, topic), id)
        if not found:
            what = f"{id} is no delivery that is not delivered, and no endpoint of which any has failed"
            raise NothingToRetry(f"{what}: see `rejoinder webhooks list`")
        for delivery in found:
            retry = RetryRecord(delivery.id, delivery.tenant, delivery.attempts)
            await writer.append(topic, partition_of(delivery.response), retry.new())
        return len(found)
    finally:
        await writer.close()
        await log.close()
