"""The plan of a world: which trouble comes, and for how long."""

from collections.abc import Mapping, Sequence

from msgspec import Struct, field

from services.eventlog.topics import topics

TOPICS = topics()

FAULTS: Mapping[str, int] = {
    "kill": 6,
    "pause": 6,
    "isolate": 3,
    "stun": 6,
    "expel": 3,
    "sleep": 1,
    "mute": 1,
    "storm": 1,
    "restart": 2,
    "roll": 1,
    "poison": 1,
    "slow": 2,
    "compact": 4,
    "retain": 4,
    "broker": 1,
    "reader": 4,
    "follow": 10,
}
"""How often each fault comes, relative to the others."""
ACTS: Mapping[str, Sequence[str]] = {
    "x": ("call", "claimed", "event", "tombstone", "commit", "ask"),
    "p": (TOPICS.transcripts, TOPICS.responses, TOPICS.index, TOPICS.closings, "commit", "ask"),
    "r": ("ask",),
    "i": ("accepted", "cancelled", "deleted"),
}
"""At what executors, projectors, replays and ingests are stunned: a call of the upstream, an append (a kind
of record, or a topic), a commit, the question where a partition ends.
"""


class Plan(Struct, frozen=True):
    """Durations are virtual seconds."""

    seconds: float = 40
    """How long the trouble lasts."""
    responses: int = 8
    trouble: float = 0.04
    """The chance that an append or a commit goes wrong."""
    unsure: float = 0.12
    """The same for ingest."""
    breaks: float = 0.1
    """The chance that the hop from a front door to ingest breaks: before it, in it, on the way back."""
    rate: float = 0.5
    """Faults per second."""
    faults: Mapping[str, int] = field(default_factory=lambda: dict(FAULTS))
    targets: str = "xpri"
    """The processes that faults hit: executors, projectors, replays, ingests."""
    kinds: Mapping[str, int] = field(
        default_factory=lambda: {"resumable": 4, "repeatable": 4, "fragile": 4, "silent": 1, "stubborn": 1}
    )
    """How often each kind of upstream is asked."""
    background: float = 0.7
    """The chance that a response is in the background."""
    streams: float = 0.3
    leaves: float = 0.2
    """The chance that a client goes before its POST is answered, or takes nothing more."""
    cancels: float = 0.3
    deletes: float = 0.25
    repeats: float = 0.3
    """The chance that a POST comes twice at once, with one Idempotency-Key."""
    keyed: float = 0.3
    """The chance that another one has a key."""
    returns: float = 0.1
    """The chance that a client that has used a key comes back with it."""
    absence: float = 5
    """Mean seconds until then."""
    unstored: float = 0.15
    ephemeral: float = 0.5
    """The chance that one that is not stored is in the background: it is seen after its end."""
    ephemeral_s: float = 12
    """How long."""
    hurries: float = 0.2
    """The chance that a run has little time, where nothing else says so."""
    endless: float = 1
    """The same of one whose upstream never ends."""
    chained: float = 0.2
    words: int = 8
    grace: float = 3
    """Seconds in which an executor that is told to stop may finish its runs."""
    max_attempts: int = 5
    max_queue: int = 7
    most_open: int | None = None
    """How many responses may be open at once, all ingests together, where that can be told."""
    acts: Mapping[str, Sequence[str]] = field(default_factory=lambda: dict(ACTS))
    """At what processes are stunned."""
    overtaken: float = 0
    """The chance that a projector is paused when it writes a transcript, and wakes when no other lives."""
    memories: Sequence[int] = (1 << 20, 6_000, 1_500)
    """Bytes of frames that a replay holds, one of these: much, or hardly any."""
    slots: int = 50
    places: int = 50
    """Calls that an executor may have at once at an upstream of each kind."""
    acceptance_ms: int = 20_000
    seven: float = 0.3
    """The chance that an executor writes the form of events that was before today's (P-15)."""
    upgraded_s: float = 0
    """Until then processes of the version before run among those of today."""
    grown: int = 0
    """How many partitions there are in the end, some being added amid the trouble; 0: as many as at first."""
    lag_s: float = 100
    """Seconds for which no transcript and no entry is compacted (P-92)."""
    hasty: bool = False
    """Compaction and retention keep no rules."""
    lossless: bool = False
    """Nothing happens that may cost a run: no takeover, no response that fails."""


def only(**faults: int) -> dict[str, int]:
    """Nothing but these faults."""
    return faults
