"""The smallest installation that carries a load, though one process of each kind is away.

    each service   least processes whose cores, slots and connections suffice: all there at the wanted
                   utilisation, one away at `LIMIT`
    replay         of all numbers of replicas of a shard the one with the fewest processes
    partitions     two for each executor, so that what one leaves behind goes to two
    brokers        by cores, disks, network, and the partitions that one holds
    installations  more than one where one Kafka would be too large; tenants are shared out

What a service needs hangs on how many of the others there are, so the numbers grow until nothing is short.
"""

from collections.abc import Callable, Iterator, Mapping
from math import ceil

from msgspec import Struct
from msgspec.structs import replace

from schemas.errors import SettingsError
from schemas.ids import MAX_PARTITIONS
from services.planning.costs import Costs
from services.planning.demand import Demand
from services.planning.deployment import LEAST, Deployment
from services.planning.room import network, topic_bytes
from services.planning.work import cores, cores_of
from services.settings import Settings

LIMIT = 0.95
"""The part of a core, a slot or a connection that may be used while one process is away."""
SLOTS = Settings().slots
CONNECTIONS = Settings().max_connections
"""Runs of an executor, and clients of a replay, by the defaults of `REJOINDER_SLOTS` and
`REJOINDER_MAX_CONNECTIONS`."""
PARTITIONS_EACH = 2
"""Partitions of an executor."""
LEAST_PARTITIONS, STEP, MOST_PARTITIONS = 8, 8, MAX_PARTITIONS
"""Partitions are a multiple of `STEP`; `REJOINDER_PARTITIONS` takes no more than the last."""
TOPICS = 7
"""Topics with as many partitions: all but `responses.executors` and `installation`."""
BROKER_PARTITIONS, CLUSTER_PARTITIONS = 4_000, 200_000
"""Replicas of partitions that one broker and one cluster are said to hold well; Kafka bounds neither."""
MOST_BROKERS, MOST_REPLICAS = 1_000, 1_000
"""Brokers of one cluster, and replays that read all that a shard has. Beyond them a plan is of no use."""
TOO_LARGE = (
    "no installation carries this: one stream alone would take more than one Kafka can be, or more than "
    f"{MOST_REPLICAS:,} replays; it takes fewer --readers, or less of what a stream brings"
)
ONE_BY_ONE: Mapping[str, str] = {
    "projector": "projectors",
    "ingest": "ingests",
    "analytics": "analytics",
    "webhooks": "webhooks",
    "broker": "brokers",
}
"""By service whose processes are all alike, the field that has their number; brokers last."""
TIB, GBIT = float(1 << 40), 1e9 / 8

Bounds = Mapping[str, float]
"""How full what decides is, by its name: 1.0 is as full as it may be."""


class Sized(Struct, frozen=True):
    """What carries a load: `installations`, each with a `deployment` for its part, `demand`."""

    installations: int
    demand: Demand
    deployment: Deployment
    cores: Mapping[str, float]
    """By service, of one installation."""
    bounds: Mapping[str, Bounds]
    """By service."""

    @property
    def first(self) -> str:
        """The service that is the fullest: the first to need another process when the load grows."""
        return max(self.bounds, key=lambda service: max(self.bounds[service].values()))


def plan(demand: Demand, costs: Costs) -> Sized:
    """The smallest installations for `demand`. Raises SettingsError if nothing of this kind carries it."""
    installations = 1
    while True:
        streams = ceil(demand.streams / installations)
        part = replace(demand, streams=streams, stored=ceil(demand.kept / installations))
        deployment = smallest(part, costs)
        too_large = _too_large(deployment)
        if too_large <= 1:
            taken = cores(part, deployment, costs)
            return Sized(installations, part, deployment, taken, dict(_bounds(part, deployment, costs)))
        if streams <= 1 or deployment.replicas >= MOST_REPLICAS:
            raise SettingsError(TOO_LARGE)
        installations = max(installations + 1, int(installations * too_large))


def _too_large(deployment: Deployment) -> float:
    """How many times larger a deployment is than one Kafka can be."""
    held = deployment.partitions * TOPICS * deployment.replication
    return max(
        deployment.partitions / MOST_PARTITIONS,
        held / CLUSTER_PARTITIONS,
        deployment.brokers / MOST_BROKERS,
        2.0 * (deployment.replicas >= MOST_REPLICAS),
    )


def smallest(demand: Demand, costs: Costs) -> Deployment:
    """The smallest deployment for `demand`, however many partitions that takes."""
    found = Deployment(
        replication=demand.replication, brokers=demand.replication, partitions=LEAST_PARTITIONS
    )
    while (larger := _enlarged(found, demand, costs)) != found:
        found = larger
    return found


def _enlarged(found: Deployment, demand: Demand, costs: Costs) -> Deployment:
    """`found`, with more of what is short. Never less of anything, so that it comes to an end.

    In an order in which each knows what it hangs on most: shards need partitions, and brokers everything.
    """
    executors = _enough("executor", "executors", found, demand, costs)
    partitions = max(found.partitions, STEP * ceil(PARTITIONS_EACH * executors / STEP))
    found = replace(found, executors=executors, partitions=partitions)
    shards, replicas = _shards(found, demand, costs)
    found = replace(found, shards=shards, replicas=replicas)
    for service, field in ONE_BY_ONE.items():
        found = replace(found, **{field: _enough(service, field, found, demand, costs)})
    return found


def _enough(service: str, field: str, found: Deployment, demand: Demand, costs: Costs) -> int:
    """How many processes of a service suffice, no fewer than there are. `field`: their number's."""
    return _least(
        lambda count: _fits(service, replace(found, **{field: count}), demand, costs), getattr(found, field)
    )


def _shards(found: Deployment, demand: Demand, costs: Costs) -> tuple[int, int]:
    """The shards, and the replicas of each, that take the fewest processes; as they are, if that suffices.

    There are no more shards than streams and partitions: a stream is in one.
    """
    if _fits("replay", found, demand, costs):
        return found.shards, found.replicas
    most = max(1, min(demand.streams, found.partitions))
    best: tuple[int, int] | None = None
    for replicas in _replica_counts():

        def fits(shards: int, replicas: int = replicas) -> bool:
            return _fits("replay", replace(found, shards=shards, replicas=replicas), demand, costs)

        if fits(most):
            shards = _least(fits, 1)
            if best is None or shards * replicas < best[0] * best[1]:
                best = shards, replicas
            if shards == 1:
                break
    return best or (found.shards, MOST_REPLICAS)


def _replica_counts() -> Iterator[int]:
    replicas = LEAST
    while replicas < MOST_REPLICAS:
        yield replicas
        replicas = max(replicas + 1, replicas * 5 // 4)


def _least(fits: Callable[[int], bool], least: int) -> int:
    """The least number from `least` on that fits, if all above one that fits fit as well."""
    if fits(least):
        return least
    short, step = least, 1
    while not fits(short + step):
        short, step = short + step, step * 2
    enough = short + step
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (short, middle) if fits(middle) else (middle, enough)
    return enough


def _fits(service: str, deployment: Deployment, demand: Demand, costs: Costs) -> bool:
    return max(_bounds_of(service, deployment, demand, costs).values()) <= 1.0


def _bounds(demand: Demand, deployment: Deployment, costs: Costs) -> Iterator[tuple[str, Bounds]]:
    for service in deployment.processes:
        yield service, _bounds_of(service, deployment, demand, costs)


def _bounds_of(service: str, deployment: Deployment, demand: Demand, costs: Costs) -> Bounds:
    """How full a service is, by what may bound it."""
    if service == "broker":
        return _broker_bounds(deployment, demand, costs)
    count = deployment.processes[service]
    left, away = count - 1, deployment
    if service == "executor":
        away = replace(deployment, executors=left)
    elif service == "replay":
        left, away = count - deployment.shards, replace(deployment, replicas=deployment.replicas - 1)
    taken, then = (cores_of(service, demand, one, costs) for one in (deployment, away))
    bounds = {"cores": taken / count / demand.utilisation, "cores, one away": then / left / LIMIT}
    if service == "executor":
        bounds["slots, one away"] = demand.streams / left / SLOTS / LIMIT
    if service == "replay":
        bounds["connections, one away"] = demand.streams * demand.readers / left / CONNECTIONS / LIMIT
    return bounds


def _broker_bounds(deployment: Deployment, demand: Demand, costs: Costs) -> Bounds:
    brokers, replication = deployment.brokers, deployment.replication
    taken = cores_of("broker", demand, deployment, costs)
    stored = sum(topic_bytes(demand, costs, deployment.partitions).values()) * replication
    flow = network(demand, costs, deployment.replicas)
    way = max(flow.written + flow.copied, flow.read + flow.copied)
    return {
        "cores": taken / brokers / demand.broker_cores / demand.utilisation,
        "cores, one away": taken / (brokers - 1) / demand.broker_cores / LIMIT,
        "disk": stored / brokers / (demand.broker_tib * TIB) / demand.utilisation,
        "network": way / brokers / (demand.broker_gbit * GBIT) / demand.utilisation,
        "partitions": deployment.partitions * TOPICS * replication / brokers / BROKER_PARTITIONS,
    }
