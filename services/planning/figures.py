"""A plan in figures: by service its processes, cores, memory and what decides, then disk and network."""

from collections.abc import Mapping

from msgspec import Struct

from services.planning.costs import Costs
from services.planning.demand import Demand
from services.planning.deployment import Deployment
from services.planning.room import Network, memory_mib, network, rebuild_s, store_bytes, topic_bytes
from services.planning.sizing import Sized


class Share(Struct, frozen=True):
    """One service's part of an installation."""

    processes: int
    cores: float
    """Of all processes together, at the peak."""
    memory_mib: float | None
    """Of one process, while one of its kind is away. None: of a broker nothing is known here."""
    full: float
    """1.0 is as full as it may be."""
    decided_by: str
    """The bound that it is so near to."""


class Figures(Struct, frozen=True):
    """The figures of one installation, of which there are `installations`. Bytes, and bytes a second."""

    installations: int
    demand: Demand
    deployment: Deployment
    services: Mapping[str, Share]
    first: str
    """The service that needs another process first when the load grows."""
    disk: Mapping[str, float]
    """By topic, of one replica."""
    broker_disk: float
    """Of one broker, with all that it keeps."""
    store: float
    """Of one replay."""
    rebuild_s: float
    network: Network

    @property
    def replicated(self) -> float:
        """Bytes of all replicas of all topics."""
        return sum(self.disk.values()) * self.deployment.replication

    @property
    def cores(self) -> float:
        """Cores of everything, at the peak."""
        return sum(share.cores for share in self.services.values())


def figures_of(sized: Sized, costs: Costs) -> Figures:
    """The figures of a plan."""
    demand, deployment = sized.demand, sized.deployment
    memory = memory_mib(demand, deployment, costs)
    disk = topic_bytes(demand, costs, deployment.partitions)
    services = {}
    for service, count in deployment.processes.items():
        bounds = sized.bounds[service]
        decides = max(bounds, key=lambda name: bounds[name])
        taken = sized.cores[service]
        services[service] = Share(count, taken, memory.get(service), bounds[decides], decides)
    return Figures(
        installations=sized.installations,
        demand=demand,
        deployment=deployment,
        services=services,
        first=sized.first,
        disk=disk,
        broker_disk=sum(disk.values()) * deployment.replication / deployment.brokers,
        store=store_bytes(demand, deployment, costs),
        rebuild_s=rebuild_s(demand, deployment, costs),
        network=network(demand, costs, deployment.replicas),
    )
