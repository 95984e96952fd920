"""Metrics of replay."""

from prometheus_client import Counter, Gauge

from services.replay.feed import Feed
from services.replay.folding import Foldings
from services.replay.seek import Seeker
from services.replay.window import Memory
from services.web.room import Room

_UNREADABLE = Gauge("rejoinder_replay_unreadable_records", "Records of the log that could not be read")
_PARTITIONS = Gauge("rejoinder_replay_partitions", "Partitions that this replay serves")
_LAG = Gauge("rejoinder_replay_lag_records", "Offsets in the log that are not folded yet")
_READY = Gauge("rejoinder_replay_caught_up", "Whether the log was read to its end since the start")
_MEMORY = Gauge("rejoinder_replay_window_bytes", "Bytes of events in memory")
_EVICTED = Gauge("rejoinder_replay_evicted_pages", "Pages of events that went out of memory")
_SEEKS = Gauge("rejoinder_replay_seeks", "Pages of events that were read from the log again")
_BODIES = Gauge("rejoinder_replay_body_bytes", "Bytes of request bodies, and of creates, under way")
_CREATES = Gauge("rejoinder_replay_creates_under_way", "Creates that ingest has not answered yet")
_STORE = Gauge(
    "rejoinder_replay_store_failures", "Times that the store failed since the start, and was opened anew"
)
CREATES_MOVED = Counter(
    "rejoinder_replay_creates_moved_total",
    "Responses that were placed anew, unsent, because the leader of their partition stopped answering",
)
CREATES_FAR = Counter(
    "rejoinder_replay_creates_far_total", "Creates of responses that another shard serves and shows"
)
PASSED_ON = Counter(
    "rejoinder_replay_passed_on_total",
    "Requests passed on to another shard: answered, away (nobody could be asked), broke_off, or misrouted "
    "(nobody serves the partition, or it was passed on to this replay, which does not)",
    ["outcome"],
)
CREATES_REPEATED = Counter(
    "rejoinder_replay_creates_repeated_total", "Creates sent to ingest again, because the first hop broke"
)


def show(foldings: Foldings, feed: Feed, memory: Memory, seeker: Seeker, room: Room) -> None:
    """Let the gauges read these from now on."""
    _PARTITIONS.set_function(lambda: len(foldings))
    _BODIES.set_function(lambda: room.taken)
    _CREATES.set_function(lambda: room.creates)
    _UNREADABLE.set_function(lambda: feed.unreadable)
    _LAG.set_function(feed.lag)
    _READY.set_function(lambda: feed.caught_up)
    _MEMORY.set_function(lambda: memory.used)
    _EVICTED.set_function(lambda: memory.evicted)
    _STORE.set_function(lambda: feed.store_failures)
    _SEEKS.set_function(lambda: seeker.seeks)
