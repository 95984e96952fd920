"""`rejoinder plan`: how large an installation must be for a load, as a table or as JSON."""

from collections.abc import Iterator, Mapping

import msgspec

from services.planning.costs import measured_costs
from services.planning.demand import demand_of
from services.planning.figures import Figures, figures_of
from services.planning.sizing import PARTITIONS_EACH, plan
from services.terminal.printing import say, say_json, until_enough

HEAD = ("", "processes", "cores", "MiB each", "full", "decided by")
WIDTHS = (-10, 10, 11, 10, 7, -20)
"""Characters of each column; below 0 it is flush left."""
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def print_plan(given: Mapping[str, str], *, as_json: bool) -> int:
    """Print the plan for the flags `given` (by field of a demand). Returns 0. Raises SettingsError."""
    costs = measured_costs()
    found = figures_of(plan(demand_of(given), costs), costs)
    if as_json:
        until_enough(lambda: say_json(msgspec.json.encode(found)))
    else:
        until_enough(lambda: say("".join(f"{line}\n" for line in plan_lines(found))))
    return 0


def plan_lines(found: Figures) -> Iterator[str]:
    """The table that people read."""
    demand = found.demand
    yield (
        f"{demand.streams:,} streams of {demand.events_per_s:g} events a second: "
        f"{demand.events:,.0f} events/s, {demand.responses:,.4g} responses/s begin; "
        f"{demand.kept:,} are stored"
    )
    if found.installations > 1:
        yield f"{found.installations} installations, since one Kafka would be too large; of each:"
    yield ""
    yield _row(HEAD)
    for service, share in found.services.items():
        memory = "" if share.memory_mib is None else f"{share.memory_mib:,.0f}"
        cells = (
            service,
            f"{share.processes:,}",
            f"{share.cores:,.1f}",
            memory,
            f"{share.full:.0%}",
            share.decided_by,
        )
        yield _row(cells)
    yield _row(("all", "", f"{found.cores:,.1f}"))
    yield ""
    yield from _facts(found)


def _facts(found: Figures) -> Iterator[str]:
    deployment, disk, flow = found.deployment, found.disk, found.network
    first = found.services[found.first]
    largest = max(disk, key=lambda topic: disk[topic])
    facts = {
        "first": f"{found.first}, by its {first.decided_by}: the next that needs another process",
        "replay": f"{deployment.shards:,} shards of {deployment.replicas:,} replicas",
        "partitions": f"{deployment.partitions:,}, at least {PARTITIONS_EACH} for each executor",
        "disk": (
            f"{in_bytes(found.replicated)}, with {deployment.replication} replicas; "
            f"{in_bytes(found.broker_disk)} a broker"
        ),
        "of it": f"{in_bytes(disk[largest] * deployment.replication)} in {largest}",
        "store": (
            f"{in_bytes(found.store)} for each replay; an empty one is filled in {found.rebuild_s:,.0f} s"
        ),
        "network": (
            f"{in_bits(flow.clients)} to clients, {in_bits(flow.upstreams)} from upstreams; "
            f"brokers: {in_bits(flow.written)} in, {in_bits(flow.read)} out, "
            f"{in_bits(flow.copied)} between them"
        ),
    }
    for name, text in facts.items():
        yield f"{name:<11}{text}"


def in_bytes(count: float) -> str:
    """Bytes for people: `1.5 GiB`."""
    power = 0
    while count >= 1000 and power + 1 < len(UNITS):
        count, power = count / 1024, power + 1
    return f"{count:.3g} {UNITS[power]}"


def in_bits(count: float) -> str:
    """Bytes a second for people, as networks count: `2.4 Gbit/s`."""
    bits = count * 8
    for unit, many in (("Tbit/s", 1e12), ("Gbit/s", 1e9), ("Mbit/s", 1e6)):
        if bits >= many * 0.9995:
            return f"{bits / many:.3g} {unit}"
    return f"{bits / 1e3:.3g} kbit/s"


def _row(cells: tuple[str, ...]) -> str:
    columns = (
        cell.rjust(width) if width > 0 else cell.ljust(-width)
        for cell, width in zip(cells, WIDTHS, strict=False)
    )
    return "  ".join(columns).rstrip()
