"""The topics as data: what each must be like, and what is wrong with one that is not.

Nothing here talks to Kafka: `kafka_topics` creates, looks and mends; this module decides. A setting that
the protocol depends on has a rule; the others are good defaults, and the operator's to change.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

from schemas.errors import TopicMisconfigured

BATCH_OVERHEAD = 4096
"""Bytes by which max.message.bytes, which bounds a whole batch, must be above the largest record (P-9)."""
MAX_RECORD_BYTES = (1 << 20) - BATCH_OVERHEAD
"""The largest record where nothing else is chosen."""
DEFAULT_PARTITIONS = 8

HOUR = 3600 * 1000
DAY = 24 * HOUR
LONGEST_OUTAGE = 12 * HOUR
"""Milliseconds for which everything may stand still, while the responses that are open grow older (P-92)."""
LONGEST_ABSENCE = 7 * DAY
"""Milliseconds that a reader may be away and still meet every tombstone (P-92)."""
RETENTION = 30 * DAY
"""Milliseconds that a response can be read, and at least that its closing can."""
USAGE_RETENTION = 90 * DAY
"""Milliseconds that what closings come to can be read, where nothing else is chosen."""


class Topics(Struct, frozen=True):
    """The names of our topics."""

    events: str
    responses: str
    transcripts: str
    index: str
    closings: str
    usage: str
    executors: str
    webhooks: str
    installation: str


def topics(prefix: str = "") -> Topics:
    """The topics' names behind `prefix`, which keeps two installations on one cluster apart."""
    return Topics(
        events=f"{prefix}responses.events",
        responses=f"{prefix}responses",
        transcripts=f"{prefix}transcripts",
        index=f"{prefix}transcripts.index",
        closings=f"{prefix}closings",
        usage=f"{prefix}usage",
        executors=f"{prefix}responses.executors",
        webhooks=f"{prefix}webhooks",
        installation=f"{prefix}installation",
    )


class TopicSetting(Struct, frozen=True):
    """One setting of a topic: the value that it is created with, and the rule for other values."""

    key: str
    value: str
    rule: Literal["exactly", "at least", "one of", "anything"] = "anything"
    others: tuple[str, ...] = ()
    """What "one of" allows beside `value`."""
    least: int | None = None
    """What "at least" asks for, when less than `value` will do."""
    instead: str = ""
    """What else mends it, besides a change of the topic."""

    def wrong(self, found: str | None) -> str | None:
        """What `found` must be instead, or None when it is right."""
        match self.rule:
            case "exactly":
                return None if found == self.value else f"must be {self.value}"
            case "at least":
                least = int(self.value) if self.least is None else self.least
                enough = found is not None and (int(found) == -1 or int(found) >= least)
                return None if enough else f"must be at least {least}"
            case "one of":
                allowed = (self.value, *self.others)
                return None if _as_set(found) in map(_as_set, allowed) else f"must be {' or '.join(allowed)}"
            case "anything":
                return None


def _as_set(value: str | None) -> frozenset[str]:
    return frozenset((value or "").replace(" ", "").split(","))


class TopicSpec(Struct, frozen=True):
    """What one topic must be like. `partitions` None: as many as `responses.events` has.

    `view`: the projector made it of `responses.events`, and can make it anew. `users`: the services to be
    stopped while it is made anew. `lasting`: what it holds was said once and can never be said again.
    """

    name: str
    settings: tuple[TopicSetting, ...]
    users: str
    partitions: int | None = None
    view: bool = False
    lasting: bool = False


class ActualTopic(Struct, frozen=True):
    """A topic as it is; `config` holds the values in force, defaults included."""

    partitions: int
    replication: int
    config: Mapping[str, str]


class Problem(Struct, frozen=True):
    """What is wrong with a topic and how to mend it; prints as one line.

    `fatal`: no service may start. `setting`: the change of configuration that mends it.
    """

    topic: str
    what: str
    mend: str
    fatal: bool = True
    setting: tuple[str, str] | None = None
    partitions: int | None = None

    def __str__(self) -> str:
        return f"{'' if self.fatal else 'warning: '}topic {self.topic}: {self.what}: {self.mend}"


_ALL = (
    TopicSetting("message.timestamp.type", "LogAppendTime", "exactly"),
    TopicSetting("unclean.leader.election.enable", "false", "exactly"),
)
_COMPACTED = (
    TopicSetting("delete.retention.ms", str(LONGEST_ABSENCE), "at least"),
    TopicSetting("segment.ms", str(DAY)),
    TopicSetting("segment.bytes", str(256 << 20)),
)
_BOTH = "compact,delete"
_READERS = "replay and the projector"
_VIEW = (
    TopicSetting("cleanup.policy", _BOTH, "one of", ("compact",)),
    TopicSetting("retention.ms", str(RETENTION)),
    *_COMPACTED,
)


def kept_ms(needed_ms: int = 0) -> int:
    """Milliseconds for which nothing may be compacted or removed, a day at least (P-92).

    `needed_ms` is how long a response may be open, and an ephemeral one be seen after its end, with the
    acceptance window and the skew.
    """
    return max(DAY, needed_ms + LONGEST_OUTAGE)


def specs(
    names: Topics,
    max_record_bytes: int = MAX_RECORD_BYTES,
    kept: int = DAY,
    closings_ms: int = RETENTION,
    usage_ms: int = USAGE_RETENTION,
) -> list[TopicSpec]:
    """What our topics must be like. `responses.events` comes first: others follow its partitions.

    `max_record_bytes` is the size of the largest record, `kept` what `kept_ms` says, `closings_ms` for how
    many milliseconds a closing can be read, `usage_ms` for how many what it came to.
    """
    every = (*_ALL, _holding(max_record_bytes))
    return [
        TopicSpec(names.events, (*_events(kept), *every), users="all services"),
        TopicSpec(names.responses, (*_VIEW, *every), _READERS, view=True),
        TopicSpec(names.transcripts, (*_VIEW, _lag(kept), *every), _READERS, view=True),
        TopicSpec(names.index, (*_VIEW, _lag(kept), *every), _READERS, view=True),
        TopicSpec(names.closings, (*_closings(closings_ms), *every), users="the projector and its consumers"),
        TopicSpec(names.usage, (*_usage(closings_ms, usage_ms), *every), users="analytics"),
        TopicSpec(
            names.webhooks,
            (
                TopicSetting("cleanup.policy", "compact", "exactly"),  # P-120
                *_COMPACTED,
                *every,
            ),
            users="webhooks",
        ),
        TopicSpec(
            names.executors,
            (
                TopicSetting("cleanup.policy", "delete", "exactly"),
                TopicSetting("retention.ms", str(HOUR), "at least"),
                TopicSetting("segment.ms", str(HOUR // 2)),
                *every,
            ),
            users="the executors",
            partitions=1,
        ),
        TopicSpec(
            names.installation,
            (TopicSetting("cleanup.policy", "compact", "exactly"), *every),  # P-140
            users="ingest and replay",
            partitions=1,
            lasting=True,
        ),
    ]


def _events(kept: int) -> tuple[TopicSetting, ...]:
    return (
        TopicSetting("cleanup.policy", _BOTH, "one of", ("delete",)),  # P-91
        _lag(kept),
        TopicSetting(
            "retention.ms", str(max(RETENTION, kept)), "at least", least=kept, instead=_instead(kept)
        ),
        *_COMPACTED,
    )


def _lag(kept: int) -> TopicSetting:
    """What an entry of `transcripts.index` names must stay until the entry names what overtook it (P-92)."""
    return TopicSetting("min.compaction.lag.ms", str(kept), "at least", instead=_instead(kept))


def _instead(kept: int) -> str:
    """What else mends a topic that keeps records for too short a time, where a day is not enough."""
    return "or lower REJOINDER_RUN_DEADLINE_S or REJOINDER_EPHEMERAL_S" if kept > DAY else ""


def _closings(closings_ms: int) -> tuple[TopicSetting, ...]:
    return (
        TopicSetting("cleanup.policy", "delete", "exactly"),  # P-111
        TopicSetting("retention.ms", str(closings_ms), "at least"),
        TopicSetting("segment.ms", str(DAY)),
        TopicSetting("segment.bytes", str(256 << 20)),
    )


def _usage(closings_ms: int, usage_ms: int) -> tuple[TopicSetting, ...]:
    """A mark must outlive the closings that it has counted, and a record that another has overtaken must be
    there until it is written again (P-117).
    """
    return (
        TopicSetting("cleanup.policy", _BOTH, "one of", ("compact",)),
        TopicSetting("retention.ms", str(max(usage_ms, closings_ms + LONGEST_ABSENCE)), "at least"),
        TopicSetting("min.compaction.lag.ms", str(HOUR), "at least"),
        TopicSetting("min.cleanable.dirty.ratio", "0.1"),
        TopicSetting("segment.ms", str(HOUR)),
        TopicSetting("segment.bytes", str(64 << 20)),
    )


def _holding(max_record_bytes: int) -> TopicSetting:
    """The setting with which a record of that size can be appended."""
    least = max_record_bytes + BATCH_OVERHEAD
    instead = f"or set REJOINDER_MAX_RECORD_BYTES {BATCH_OVERHEAD} bytes below it"
    return TopicSetting("max.message.bytes", str(2 * least), "at least", least=least, instead=instead)


def config(spec: TopicSpec, replication: int) -> dict[str, str]:
    """What a topic is created with; with 3 replicas an acknowledged record survives the loss of any one."""
    settings = {setting.key: setting.value for setting in spec.settings}
    return settings | {"min.insync.replicas": str(max(1, min(2, replication - 1)))}


def partitions_for(wanted: Iterable[TopicSpec], found: Mapping[str, ActualTopic], chosen: int | None) -> int:
    """How many partitions `responses.events` has, or gets when it is created.

    It gets no fewer than its views and `closings` have: they hold ids that name those partitions (P-1).
    """
    events, *others = wanted
    if events.name in found:
        return found[events.name].partitions
    alike = [spec.name for spec in others if spec.partitions is None and spec.name in found]
    return max([chosen or DEFAULT_PARTITIONS, *(found[name].partitions for name in alike)])


def growth(wanted: Iterable[TopicSpec], found: Mapping[str, ActualTopic], count: int) -> list[str]:
    """The topics that lack partitions, if `responses.events` is to have `count`, in the order in which they
    get them: it comes last, so no response is ever in a partition that its views have not (P-143).

    Raises TopicMisconfigured if a topic is missing, or the events have more than that.
    """
    events, *others = wanted
    alike = [spec for spec in others if spec.partitions is None]
    for spec in (events, *alike):
        if spec.name not in found:
            raise TopicMisconfigured(f"topic {spec.name} does not exist: rejoinder topics --create")
    if found[events.name].partitions > count:
        what = f"topic {events.name} has {found[events.name].partitions} partitions"
        raise TopicMisconfigured(f"{what}: none can be taken away, they hold responses")
    return [spec.name for spec in (*alike, events) if found[spec.name].partitions < count]


def check(spec: TopicSpec, found: ActualTopic | None, partitions: int) -> list[Problem]:
    """What is wrong with one topic; `partitions` is how many `responses.events` has."""
    if found is None:
        mend = _made_anew(spec) if spec.view and partitions else "rejoinder topics --create"
        return [Problem(spec.name, "does not exist", mend)]
    return [*_partitions(spec, found, partitions), *_settings(spec, found), *_replicas(spec, found)]


def check_all(wanted: Iterable[TopicSpec], found: Mapping[str, ActualTopic]) -> list[Problem]:
    """What is wrong with the topics; the first of `wanted` says how many partitions the others need."""
    wanted = list(wanted)
    events = found.get(wanted[0].name)
    partitions = events.partitions if events else 0
    return [problem for spec in wanted for problem in check(spec, found.get(spec.name), partitions)]


def _partitions(spec: TopicSpec, found: ActualTopic, partitions: int) -> list[Problem]:
    wanted = spec.partitions or partitions
    if found.partitions == wanted or not wanted:
        return []
    what = f"has {found.partitions} partitions, must have {wanted}"
    if found.partitions < wanted:
        return [Problem(spec.name, what, "rejoinder topics --fix", partitions=wanted)]
    if spec.lasting:
        return [Problem(spec.name, what, "leave it as it is: only the first is used", fatal=False)]
    if spec.partitions is None:
        mend = f"rejoinder topics --partitions {found.partitions} goes on where partitions were being added"
        return [
            Problem(spec.name, f"has {found.partitions} partitions, more than {wanted}", mend, fatal=False)
        ]
    return [Problem(spec.name, what, _made_anew(spec, "delete it, "))]


def _made_anew(spec: TopicSpec, first: str = "") -> str:
    """How to make a topic anew. Only a view is filled again (P-77)."""
    why = ": the projector fills it from responses.events" if spec.view else ""
    return f"stop {spec.users}, {first}run rejoinder topics --create, start them again{why}"


def _settings(spec: TopicSpec, found: ActualTopic) -> list[Problem]:
    problems: list[Problem] = []
    for setting in spec.settings:
        value = found.config.get(setting.key)
        if wrong := setting.wrong(value):
            what = f"{setting.key} is {value}, {wrong}"
            mend = (
                f"rejoinder topics --fix, or kafka-configs.sh --alter --topic {spec.name} "
                f"--add-config {setting.key}=[{setting.value}]{setting.instead and ', '}{setting.instead}"
            )
            problems.append(Problem(spec.name, what, mend, setting=(setting.key, setting.value)))
    return problems


def _replicas(spec: TopicSpec, found: ActualTopic) -> list[Problem]:
    """Whether an acknowledged record is safe, and whether one can be acknowledged at all."""
    least = int(found.config.get("min.insync.replicas", "1"))
    if least > found.replication:
        what = f"min.insync.replicas is {least} with {found.replication} replicas: no append can succeed"
        return [Problem(spec.name, what, "lower it or add replicas")]
    if found.replication > 1 and least == found.replication:
        what = f"min.insync.replicas is {least} of {found.replication}: one broker down stops all appends"
        return [Problem(spec.name, what, "lower it or add replicas", fatal=False)]
    if found.replication > 1 and least == 1:
        what = f"min.insync.replicas is 1 of {found.replication}: an acknowledged record may be lost"
        return [Problem(spec.name, what, "set it to 2", fatal=False)]
    return []
