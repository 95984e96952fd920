"""The topics and their records as an AsyncAPI 3.0 document, with Kafka's bindings."""

from collections.abc import Callable, Mapping
from typing import Any

from schemas.checks import Shape
from services.eventlog.topics import DEFAULT_PARTITIONS, TopicSpec, specs, topics
from services.published.kinds import RecordKind, kinds
from services.published.records import name_of, topic_of
from services.published.shapes import Parts, as_components, needed

BINDING = "0.5.0"
"""The version of AsyncAPI's Kafka bindings."""
_BOUND: Mapping[str, Callable[[str], Any]] = {
    "cleanup.policy": lambda value: value.split(","),
    "retention.ms": int,
    "delete.retention.ms": int,
    "max.message.bytes": int,
}
"""The settings of a topic that the binding has a place for, and how it has them."""
_WHAT = {
    "events": "Everything that happens to a response, in one partition and in its order. The truth.",
    "responses": "The final object of each stored response. A view of responses.events.",
    "transcripts": "Request and stream events of each stored response, packed. A view of responses.events.",
    "index": "Where in transcripts the transcript of each stored response lies, and what it is known by. "
    "Private: replay keeps it in its store.",
    "closings": "Each response that has ended: whose it was, how it ended, what it cost. No content. A "
    "consumer that keeps the last closed_offset that it counted, per partition and log, counts each once.",
    "usage": "What the closings come to, by partition, tenant, model, agent and minute. Rows add up. Of two "
    "records with one key the one that has counted more stands: a row with more responses, a mark that has "
    "passed more, more names.",
    "webhooks": "Which endpoints hear of which ends, with sealed secrets, and what became of each delivery. "
    "Private: it names endpoints' URLs.",
    "executors": "Which executors live, and which models each of them serves.",
    "installation": "What holds for this installation for good: over how many partitions Idempotency-Keys "
    "are spread. Of several records of a kind the first one holds.",
}
_ABOUT = (
    "What stands in Rejoinder's topics, for those who read them. The rules of schemas/protocol.md say which "
    "records count: a reader that does not fold claims sees text twice after a takeover. Before the name of "
    "each topic stands the installation's REJOINDER_TOPIC_PREFIX. Headers are UTF-8."
)


def topics_document(version: str, parts: Parts) -> Shape:
    """The document. Topics are named as an installation without a prefix has them."""
    found, names = kinds(), topics()
    channels = {field: getattr(names, field) for field in dict.fromkeys(kind.topic for kind in found)}
    specified = {spec.name: spec for spec in specs(names)}
    messages = {name_of(kind): _message(kind) for kind in found}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Rejoinder's topics",
            "version": version,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            topic: _channel(_WHAT[field], specified[topic], [kind for kind in found if kind.topic == field])
            for field, topic in channels.items()
        },
        "operations": {
            f"append.{topic}": {"action": "send", "channel": {"$ref": f"#/channels/{topic}"}}
            for topic in channels.values()
        },
        "components": as_components({"messages": messages, "schemas": needed(messages, parts)}),
    }


def _channel(what: str, spec: TopicSpec, found: list[RecordKind]) -> Shape:
    settings = {setting.key: setting.value for setting in spec.settings}
    bound = {key: read(settings[key]) for key, read in _BOUND.items() if key in settings}
    return {
        "address": spec.name,
        "description": what,
        "messages": {kind.name: {"$ref": f"#/components/messages/{name_of(kind)}"} for kind in found},
        "bindings": {
            "kafka": {
                "topic": spec.name,
                "partitions": spec.partitions or DEFAULT_PARTITIONS,
                "topicConfiguration": bound,
                "bindingVersion": BINDING,
            }
        },
        "x-settings": {key: value for key, value in settings.items() if key not in bound},
    }


def _message(kind: RecordKind) -> dict[str, Any]:
    packed = {"contentType": "application/zstd"} if kind.packed else {}
    return {
        "name": name_of(kind),
        "title": f"{topic_of(kind)}: {kind.name}",
        "summary": kind.what,
        **packed,
        "headers": kind.headers,
        "payload": kind.value,
        "bindings": {"kafka": {"key": kind.key, "bindingVersion": BINDING}},
    }
