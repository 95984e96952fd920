"""The rights in Kafka that each service needs, and no others: the one list of them.

`rejoinder acls` prints it, and docs/security.md shows it. A test runs every service as a user of its own who
has these rights alone, and then finds in the broker's audit log that each right was used.

Read and Write include Describe. An idempotent producer needs no right on the cluster (KIP-679).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from services.connect import analytics_group, executors_group, projector_group, topic_names, webhooks_group
from services.settings import Settings

Operation = Literal[
    "Read", "Write", "Create", "Delete", "Alter", "Describe", "DescribeConfigs", "AlterConfigs"
]
Resource = Literal["topic", "group"]


class Acl(Struct, frozen=True):
    """What `who` may do with one topic or consumer group, named in full, and what for."""

    who: str
    resource: Resource
    name: str
    operations: tuple[Operation, ...]
    why: str


class _Right(Struct, frozen=True):
    """A right on a topic (a field of `Topics`) or on the group of a service. `of` "": on every topic."""

    of: str
    why: str
    operations: tuple[Operation, ...]
    resource: Resource = "topic"


def _on(topic: str, why: str, *operations: Operation) -> _Right:
    return _Right(topic, why, operations)


def _as_member(service: str) -> _Right:
    return _Right(service, "own partitions, keep checkpoints", ("Read",), "group")


_GROWING = ("events", "responses", "transcripts", "index", "closings", "usage", "webhooks")
"""The topics that may get more partitions: the others have one."""
_LOOK = _on("", "see at the start whether the topics are as they must be", "Describe", "DescribeConfigs")
_RIGHTS: Mapping[str, Sequence[_Right]] = {
    "ingest": (
        _on("events", "append commands", "Write"),
        _on("installation", "freeze over how many partitions keys are spread", "Read", "Write"),
        _LOOK,
    ),
    "executor": (
        _on("events", "fold, append claims and events, erase", "Read", "Write"),
        _on("executors", "beats and listings", "Read", "Write"),
        _as_member("executors"),
        _LOOK,
    ),
    "replay": (
        _on("events", "fold, stream", "Read"),
        _on("transcripts", "show what has closed", "Read"),
        _on("index", "find it", "Read"),
        _on("executors", "the last beat's time, the models", "Read"),
        _on("installation", "know where an Idempotency-Key leads", "Read"),
        _Right("projector", "begin at its watermark", ("Describe",), "group"),
        _Right("executors", "see who has taken over added partitions", ("Describe",), "group"),
        _LOOK,
    ),
    "projector": (
        _on("events", "fold", "Read"),
        _on("transcripts", "write the view, read it back", "Read", "Write"),
        _on("responses", "write the view, read it back", "Read", "Write"),
        _on("index", "write the view, read it back", "Read", "Write"),
        _on("closings", "announce ends", "Write"),
        _as_member("projector"),
        _LOOK,
    ),
    "analytics": (
        _on("closings", "count", "Read"),
        _on("usage", "write rows, answer from all rows", "Read", "Write"),
        _as_member("analytics"),
        _LOOK,
    ),
    "webhooks": (
        _on("closings", "hear of ends", "Read"),
        _on("webhooks", "endpoints and deliveries", "Read", "Write"),
        _as_member("webhooks"),
        _LOOK,
    ),
    "topics": (
        _on("", "create, check, mend", "Create", "AlterConfigs", "Describe", "DescribeConfigs"),
        *(_on(topic, "add partitions", "Alter") for topic in _GROWING),
        _on("installation", "know that keys stay where they are", "Read"),
        _Right("projector", "have a view that is made anew filled", ("Delete",), "group"),
    ),
    "operator": (
        _on("closings", "rejoinder tail", "Read"),
        _on("usage", "rejoinder usage", "Read"),
        _on("webhooks", "rejoinder webhooks list and retry", "Read", "Write"),
    ),
}
WHO: Sequence[str] = tuple(_RIGHTS)
"""Who has rights of its own: the services, `rejoinder topics --fix`, and an operator with the other commands.
"""


def acls(settings: Settings) -> Sequence[Acl]:
    """The rights of all of `WHO`, on the topics and groups under the prefix of `settings`."""
    topics = topic_names(settings)
    groups = {
        "executors": executors_group(settings),
        "projector": projector_group(settings),
        "analytics": analytics_group(settings),
        "webhooks": webhooks_group(settings),
    }
    return [
        Acl(
            who,
            right.resource,
            groups[right.of] if right.resource == "group" else getattr(topics, of),
            right.operations,
            right.why,
        )
        for who, rights in _RIGHTS.items()
        for right in rights
        for of in ((right.of,) if right.of else topics.__struct_fields__)
    ]
