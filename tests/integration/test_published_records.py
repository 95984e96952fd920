"""Every record of a whole run fits the published schemas: all kinds, in both forms of an event.

The published schemas let more come than they say, as later versions may bring. Here nothing else may come: no
header, and no member of a value that is Rejoinder's own.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator, ValidationError

from schemas.events import Encoded, encoded_in
from schemas.ids import partition_of
from schemas.records import SEVEN_HEADERS, LogRecord, NewRecord
from schemas.webhooks import EVENT_TYPES, DeliveryRecord, RetryRecord
from services.eventlog.kafka import KafkaLog
from services.eventlog.port import TopicPartition
from services.eventlog.topics import topics
from services.eventlog.transcript import unpack
from services.published.documents import FOLDER, RECORDS, read
from services.published.kinds import TOMBSTONE, RecordKind, kinds
from services.published.records import name_of
from tests.api import Api, request
from tests.conftest import eventually
from tests.system import System
from tests.upstreams import Call, served

PUBLISHED = read(Path(__file__).parents[2] / FOLDER)
FREE = {"AcceptedValue", "Event", "UpstreamEvent", None}
"""Values in which clients and upstreams say what they like."""
UPSTREAM = """
[[models]]
match = "fragile"
base_url = "{url}/v1"

[[models]]
match = "one-of-*"
base_url = "{url}/v1"

[[models]]
match = "resumable"
base_url = "{url}/v1"
resumable = true

[[agents]]
name = "helper"
url = "{url}"
"""


async def upstream(call: Call) -> None:
    """Takes webhooks. Ends a response after an event outside the API and a piece of a text."""
    if call.method == "GET":
        await call.answer(200, {"object": "list", "data": []})
        return
    if "webhook-id" in call.headers:
        await call.answer(200, {})
        return
    asked = call.body["input"][-1]["content"][0]["text"]
    response = {"id": "up_1", "object": "response", "status": "in_progress", "output": []}
    at = {"item_id": "m", "output_index": 1, "content_index": 0}  # it counts from 1
    await call.head()
    await call.events(
        {"type": "response.created", "sequence_number": 0, "response": response},
        {"type": "vendor.progress", "sequence_number": 1, "percent": 50},
        {"type": "response.output_text.delta", "sequence_number": 2, **at, "delta": "hello"},
        {"type": f"response.{asked}", "sequence_number": 3, "response": {**response, "status": asked}},
    )


@pytest.fixture
def usual(tmp_path: Path) -> Iterator[tuple[dict[str, object], str]]:
    """The settings of a system with models and agents of every kind, and the URL of who takes webhooks."""
    with served(upstream) as server:
        config = tmp_path / "rejoinder.toml"
        config.write_text(UPSTREAM.format(url=server.url))
        settings = {"config": config, "partitions": 2, "grace_s": 1, "ephemeral_s": 1}
        yield settings, f"{server.url}/hook"


def ways_of_life(api: Api, taker: str) -> None:
    """Everything that may happen to a response."""
    endpoint = {"name": "all", "url": taker, "event_types": list(EVENT_TYPES)}
    left = [api.ask("POST", "/v1/webhook_endpoints", endpoint).json["id"] for _ in range(2)]
    api.ask("DELETE", f"/v1/webhook_endpoints/{left[0]}")
    first = api.closed("one two three")
    api.closed("chained", previous_response_id=first, instructions="Say it.", include=["x"])
    api.closed(fail_after=1)
    api.closed("w" * 300, tokens=900)
    api.cancel(api.open())
    api.delete(api.closed("to be deleted"))
    api.delete(api.open("to be deleted while it runs"))
    api.post(request("keyed"), {"idempotency-key": "a key"})
    api.post(request("traced"), {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
    for background in (True, False):
        api.post(request("not stored", background=background, store=False))
    api.post(request("keyed", background=False, store=False), {"idempotency-key": "another key"})
    for model in ("fragile", "one-of-many", "resumable"):
        for end in ("completed", "failed", "incomplete"):
            api.closed(end, model=model)
    api.closed("completed", model=None, agent_reference={"type": "agent_reference", "name": "helper"})


def strict(schema: Any) -> Any:
    """`schema`, but where it names members of an object and says nothing of others, no others may come."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {word: strict(part) for word, part in schema.items()}
    if "properties" in made and "additionalProperties" not in made and "if" not in made:
        made["additionalProperties"] = False
    return made


class Schema:
    """The published schema of a kind, as this test holds records against it."""

    def __init__(self, kind: RecordKind) -> None:
        whole = PUBLISHED[f"{RECORDS}{name_of(kind)}.json"]
        parts = {**whole["properties"], "headers": strict(whole["properties"]["headers"])}
        defs = whole["$defs"] if kind.holds in FREE else strict(whole["$defs"])
        if "Item" in defs:
            defs["Item"] = whole["$defs"]["Item"]  # of the shape of its type
        self.kind = kind
        self._record = Draft202012Validator({**whole, "properties": parts, "$defs": defs})
        content = parts["value"].get("contentSchema")
        self._content = None if content is None else Draft202012Validator({**content, "$defs": defs})

    def check(self, record: LogRecord | NewRecord) -> None:
        """Fails unless `record`, and what is packed in it, fits."""
        value: Any = None
        if record.value is not None:
            value = "" if self.kind.packed else msgspec.json.decode(record.value)
        headers = {name: text.decode() for name, text in record.headers}
        self._record.validate({"key": (record.key or b"").decode(), "headers": headers, "value": value})
        if self._content is not None and record.value is not None:
            self._content.validate(msgspec.json.decode(unpack(record.value)))


SCHEMAS = {(kind.topic, kind.name): Schema(kind) for kind in kinds()}
EVENT = Draft202012Validator(
    {"$ref": "#/$defs/Event", "$defs": PUBLISHED[f"{RECORDS}responses.events.event.json"]["$defs"]}
)
"""Of an event in a transcript."""


async def records(kafka: str, prefix: str) -> dict[str, list[LogRecord]]:
    """All records of all published topics, by the field of `Topics`."""
    fields = dict.fromkeys(kind.topic for kind in kinds())
    log = KafkaLog(kafka, "rejoinder-test")
    found: dict[str, list[LogRecord]] = {field: [] for field in fields}
    try:
        for field in fields:
            topic = getattr(topics(prefix), field)
            for partition, (start, end) in (
                await log.bounds(topic, range(await log.partitions(topic)))
            ).items():
                at = start
                while at < end:
                    for batch in await log.fetch({TopicPartition(topic, partition): at}):
                        found[field] += batch.records
                        at = batch.next_offset
    finally:
        await log.close()
    return found


def kind_in(topic: str, record: LogRecord) -> str:
    if record.value is None:
        return TOMBSTONE
    if topic == "usage":
        return str(msgspec.json.decode(record.value)["kind"])
    return dict(record.headers).get("kind", b"event").decode()


def seen(found: Mapping[str, list[LogRecord]]) -> Counter[tuple[str, str]]:
    return Counter((topic, kind_in(topic, record)) for topic in found for record in found[topic])


async def retried(kafka: str, prefix: str) -> bool:
    """Ask for another attempt of a delivery, as an operator does. Returns whether there is one."""
    found = [r for r in (await records(kafka, prefix))["webhooks"] if kind_in("webhooks", r) == "delivery"]
    if not found:
        return False
    delivery = msgspec.json.decode(found[0].value or b"", type=DeliveryRecord)
    log = KafkaLog(kafka, "rejoinder-test")
    try:
        retry = RetryRecord(delivery.id, delivery.tenant, delivery.attempts).new()
        partition = partition_of(delivery.response)
        await log.writer().append(topics(prefix).webhooks, partition, retry)
    finally:
        await log.close()
    return True


def packed_in(record: LogRecord) -> list[Encoded]:
    return list(encoded_in(unpack(record.value or b""))) if kind_in("transcripts", record) == "chunk" else []


def check(topic: str, record: LogRecord) -> int:
    """Fails unless `record` fits; returns how many events are packed in it, which fit as well."""
    SCHEMAS[topic, kind_in(topic, record)].check(record)
    packed = packed_in(record)
    for event in packed:
        EVENT.validate(msgspec.json.decode(event.value))
    return len(packed)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_every_record_of_a_whole_run_fits_its_published_schema(
    kafka: str, tmp_path: Path, usual: tuple[dict[str, object], str]
) -> None:
    settings, taker = usual
    with System(kafka, tmp_path, flags=(), **settings) as first:
        api = Api(first.base_url)
        ways_of_life(api, taker)
        running = api.create("goes on after a restart", tokens=100_000, interval_ms=50)
        api.take(running, 20)
    again = {**settings, "topic_prefix": first.prefix, "records": SEVEN_HEADERS}
    with System(kafka, tmp_path, flags=(), **again) as second:
        api = Api(second.base_url)
        ways_of_life(api, taker)
        api.take(running, 40)
        api.cancel(running)

        await eventually(partial(retried, kafka, first.prefix))

        async def all_written() -> bool:
            written = await records(kafka, first.prefix)
            packed = sum(len(packed_in(record)) for record in written["transcripts"])
            return seen(written).keys() >= SCHEMAS.keys() and packed >= seen(written)["events", "event"]

        await eventually(all_written, timeout=60)
    found = await records(kafka, first.prefix)

    counts = seen(found)
    assert counts.keys() == SCHEMAS.keys(), "a kind of record is not published, or none of a kind was seen"
    packed = sum(check(topic, record) for topic in found for record in found[topic])
    assert packed >= counts["events", "event"]
    written = {name for record in found["events"] for name, _ in record.headers}
    published = [kind.headers.get("properties", {}) for kind in kinds() if kind.topic == "events"]
    assert written == {name for headers in published for name in headers}, "a header that no record has"


KIND = next(kind for kind in kinds() if kind.name == "claimed")
RECORD = KIND.samples[0]
STRANGE = {
    "a key": RECORD._replace(key=b"x" + RECORD.key),
    "a header more": RECORD._replace(headers=[*RECORD.headers, ("strange", b"1")]),
    "a header less": RECORD._replace(headers=RECORD.headers[1:]),
    "a header that is no number": RECORD._replace(headers=[*RECORD.headers, ("attempt", b"one")]),
    "a member more": RECORD._replace(value=(RECORD.value or b"")[:-1] + b',"strange":1}'),
    "a member less": RECORD._replace(value=b'{"attempt":1}'),
    "no value": RECORD._replace(value=None),
}


def test_a_record_as_published_fits() -> None:
    SCHEMAS[KIND.topic, KIND.name].check(RECORD)


@pytest.mark.parametrize("record", STRANGE.values(), ids=STRANGE)
def test_what_is_not_published_would_be_seen(record: NewRecord) -> None:
    with pytest.raises(ValidationError):
        SCHEMAS[KIND.topic, KIND.name].check(record)
