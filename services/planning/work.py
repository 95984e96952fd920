"""What a deployment does a second for a load, and the CPU that it takes: the costs, times how often.

How often a process asks its brokers hangs on its load. The writer of an executor leaves 2 to 8 ms between two
requests to a broker, the longer the more events it has; a replay fetches whenever something has come.
"""

from collections.abc import Mapping

from msgspec import Struct

from services.planning.costs import Costs
from services.planning.demand import Demand
from services.planning.deployment import Deployment

SHORTEST_PACE_S, LONGEST_PACE_S, BUSY = 0.002, 0.008, 2_000
"""Seconds between two requests of an executor's writer to a broker, the longest from `BUSY` events a second
on: those of `services.eventlog.kafka_writer`."""
OWN_READS = 50
"""Fetches a second of an executor that reads its events back, at most, of each broker."""
READS = 400
"""Fetches a second of a replay that is well loaded, at most, of each broker: between two lie a way to the
broker and the work on what came."""
PROJECTOR_READS = 5
CYCLES = 125
"""Requests a second of a writer, and of each reader that it wakes, when busy cores were measured."""
US = 1e-6


class Work(Struct, frozen=True):
    """How often, a second, in all processes together."""

    events: float
    deliveries: float
    responses: float
    appends: float
    """Requests of executors to append events."""
    own_reads: float
    replay_reads: float
    projector_reads: float
    """Fetches of executors, replays and projectors that bring events."""

    @property
    def requests(self) -> float:
        """All of them."""
        return self.appends + self.own_reads + self.replay_reads + self.projector_reads


def work_of(demand: Demand, deployment: Deployment) -> Work:
    """What `deployment` does a second for `demand`, spread evenly."""
    events = demand.events
    links = deployment.links(deployment.executors)
    appends = min(events, links / pace(events / deployment.executors))
    return Work(
        events=events,
        deliveries=events * demand.readers,
        responses=demand.responses,
        appends=appends,
        own_reads=min(events, links * OWN_READS),
        replay_reads=_replay_reads(appends / links, events, deployment),
        projector_reads=min(events, deployment.links(deployment.projectors) * PROJECTOR_READS),
    )


def pace(events: float) -> float:
    """Seconds between two requests of a writer to a broker, with so many events a second."""
    return max(SHORTEST_PACE_S, LONGEST_PACE_S * min(1.0, events / BUSY))


def _replay_reads(appends: float, events: float, deployment: Deployment) -> float:
    """Fetches a second of all replays; `appends` a second of one executor at one broker wake each that reads
    a partition of it.
    """
    links = deployment.links(deployment.replays, deployment.replicas)
    partitions = deployment.partitions * deployment.replicas / links
    writers = min(deployment.executors, partitions)
    return min(events * deployment.replicas, links * min(READS, appends * max(1.0, writers)))


def cores(demand: Demand, deployment: Deployment, costs: Costs) -> Mapping[str, float]:
    """By service, the cores that all of its processes take together."""
    return {service: cores_of(service, demand, deployment, costs) for service in deployment.processes}


def cores_of(service: str, demand: Demand, deployment: Deployment, costs: Costs) -> float:
    """The cores that all processes of one service take together."""
    work = work_of(demand, deployment)
    if service == "broker":
        return _broker(work, deployment, costs)
    idle = deployment.processes[service] * costs.process_idle_cores
    match service:
        case "ingest":
            used = work.responses * costs.ingest_response_us * US
        case "replay":
            used = _replay(work, deployment, costs)
        case "executor":
            used = _executor(work, deployment, costs, demand.upstream)
        case "projector":
            used = _projector(work, deployment, costs)
        case "analytics":
            used = work.responses * costs.analytics_response_us * US
        case "webhooks":
            each = costs.webhooks_response_us + demand.webhooks * costs.webhooks_delivery_us
            used = work.responses * each * US
        case _:
            raise ValueError(f"no service {service}")
    return idle + used


def _busy(events: float, processes: int) -> float:
    """How many of so many processes have something in every cycle."""
    return min(processes, events / CYCLES)


def _executor(work: Work, deployment: Deployment, costs: Costs, upstream: str) -> float:
    over_http = {"responses": costs.responses_event_us, "chat": costs.chat_event_us, "echo": 0.0}[upstream]
    usual = deployment.executors * (CYCLES + OWN_READS)
    return (
        _busy(work.events, deployment.executors) * costs.executor_busy_cores
        + max(0.0, work.appends + work.own_reads - usual) * costs.exchange_us * US
        + work.events * (costs.executor_event_us + over_http) * US
        + work.responses * costs.executor_response_us * US
    )


def _replay(work: Work, deployment: Deployment, costs: Costs) -> float:
    """Each replica of a shard folds all events of the shard; one of them delivers to a reader."""
    folded = work.events * deployment.replicas
    usual = deployment.replays * CYCLES
    return (
        _busy(folded, deployment.replays) * costs.replay_busy_cores
        + max(0.0, work.replay_reads - usual) * costs.exchange_us * US
        + folded * costs.replay_event_us * US
        + work.deliveries * costs.delivery_us * US
        + work.responses * costs.replay_response_us * US
    )


def _projector(work: Work, deployment: Deployment, costs: Costs) -> float:
    return (
        _busy(work.events, deployment.projectors) * costs.projector_busy_cores
        + work.events * costs.projector_event_us * US
        + work.responses * costs.projector_response_us * US
    )


def _broker(work: Work, deployment: Deployment, costs: Costs) -> float:
    """An event comes once, goes to its executor, to each replica of its shard and to a projector, and to each
    further replica of the topic, where it comes again.
    """
    copies = deployment.replication - 1
    passed = 3 + deployment.replicas + 2 * copies
    return (
        deployment.brokers * costs.broker_idle_cores
        + _busy(work.events, deployment.brokers) * costs.broker_busy_cores
        + work.requests * costs.request_us * US
        + work.appends * copies * costs.copy_us * US
        + work.events * passed * costs.record_us * US
        + work.responses * deployment.replication * costs.broker_response_us * US
    )
