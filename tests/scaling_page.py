"""docs/scaling.md: what it takes from the code, made anew.

    python -m tests.scaling_page     writes the page; `python -m bench scaling --write` calls it

Each block that begins with `$ rejoinder plan` shows what that command prints. The table has a column for each
of `LOADS`, and one of the constants a row for each.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from services.planning.costs import MEANINGS, Costs, measured_costs
from services.planning.demand import demand_of
from services.planning.figures import Figures, figures_of
from services.planning.sizing import plan
from services.terminal.plan import in_bits, in_bytes, plan_lines

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
LOADS = (
    "--streams 1000 --stored 10000000 --events-days 1",
    "--streams 100000 --stored 1000000000 --events-days 1",
    "--streams 1000000 --stored 10000000000 --events-days 1",
)
_COMMAND = re.compile(r"(```console\n\$ rejoinder plan ([^\n]*)\n)(.*?)(```)", re.DOTALL)
_MADE = re.compile(r"(<!-- (\w+): made of the code -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def made(page: str, costs: Costs) -> str:
    """The page with everything that is made of the code."""
    tables = {"table": _table(costs), "constants": _constants(costs)}
    page = _COMMAND.sub(lambda found: found[1] + "".join(_output(found[2], costs)) + found[4], page)
    return _MADE.sub(
        lambda found: found[1] + "".join(f"{line}\n" for line in tables[found[2]]) + found[4], page
    )


def write(costs: Costs) -> None:
    """Write the page anew."""
    PAGE.write_text(made(PAGE.read_text(), costs))


def planned(arguments: str, costs: Costs) -> Figures:
    """What `rejoinder plan` with these arguments finds."""
    words = arguments.split()
    given = {
        flag.removeprefix("--").replace("-", "_"): text
        for flag, text in zip(words[::2], words[1::2], strict=True)
    }
    return figures_of(plan(demand_of(given), costs), costs)


def _output(arguments: str, costs: Costs) -> Iterator[str]:
    return (f"{line}\n" for line in plan_lines(planned(arguments, costs)))


def _table(costs: Costs) -> Iterator[str]:
    found = [planned(load, costs) for load in LOADS]
    yield f"| | {' | '.join(f'{one.demand.streams:,} streams' for one in found)} |"
    yield "|---|" + "---:|" * len(found)
    for name, cells in _rows(found).items():
        yield f"| {name} | {' | '.join(cells)} |"


def _rows(found: list[Figures]) -> Mapping[str, list[str]]:
    services = list(found[0].services)
    return {
        "events a second": [f"{one.demand.events:,.0f}" for one in found],
        "responses begun a second": [f"{one.demand.responses:,.0f}" for one in found],
        "responses stored": [f"{one.demand.kept:,}" for one in found],
        **{
            f"{name}: processes, cores": [
                f"{one.services[name].processes:,}, {one.services[name].cores:,.1f}" for one in found
            ]
            for name in services
        },
        "cores in all": [f"{one.cores:,.0f}" for one in found],
        "shards × replicas": [f"{one.deployment.shards:,} × {one.deployment.replicas}" for one in found],
        "partitions": [f"{one.deployment.partitions:,}" for one in found],
        "disk, all replicas": [in_bytes(one.replicated) for one in found],
        "of it in `responses.events`": [
            in_bytes(one.disk["responses.events"] * one.deployment.replication) for one in found
        ],
        "disk of a broker": [in_bytes(one.broker_disk) for one in found],
        "store of a replay": [in_bytes(one.store) for one in found],
        "network to clients": [in_bits(one.network.clients) for one in found],
        "network into brokers": [in_bits(one.network.written) for one in found],
        "out of brokers": [in_bits(one.network.read) for one in found],
        "between brokers": [in_bits(one.network.copied) for one in found],
        "what decides the brokers": [one.services["broker"].decided_by for one in found],
    }


def _constants(costs: Costs) -> Iterator[str]:
    yield f"In use: {costs.machine}."
    yield ""
    yield "| constant | value | what it is | measured by |"
    yield "|---|---:|---|---|"
    for name, meaning in MEANINGS.items():
        yield f"| `{name}` | {getattr(costs, name):,.4g} | {meaning.description} | {meaning.measured_by} |"


def main() -> None:
    """Write the page with the costs in use."""
    write(measured_costs())


if __name__ == "__main__":
    main()
