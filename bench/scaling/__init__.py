"""Measures every constant of `rejoinder plan`, and prints them beside those of services/planning/costs.toml.

installation   a broker and its services, which may be several executors and shards
fitting        costs from measurements, by least squares
log            what brokers and their clients pay for a request and a record
system         what each service pays for a busy process, an event, a response and an open stream
sizes          what a response leaves in each topic
check          an installation beside what the plan says of it

`--write` puts what was measured into costs.toml, and has docs/scaling.md made anew. What `library`,
`counting` and `webhooks` measure is not measured again here: those figures stay as they are in the file.
"""

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import psutil
from msgspec.structs import asdict

from bench.scaling import check, log, system
from bench.target import BROKER
from services import planning
from services.planning.costs import ELSEWHERE, MEANINGS, Costs, costs_of, measured_costs
from tests import scaling_page

FILE = Path(planning.__file__).with_name("costs.toml")
HEAD = (
    "# What a unit of work costs; costs.py says in which unit. `python -m bench scaling --write` writes it.\n"
)
PASSED = 4
"""How often an event passes the one broker: it comes, and goes to executor, replay and projector."""
QUICK = 0.25
"""The part of the usual seconds that a quick run takes."""


def run(*, quick: bool, write: bool) -> None:
    """Print the table of constants; with `write` put them into the file."""
    known = measured_costs()
    found = measured(QUICK if quick else 1.0, known)
    print("\n| constant | in use | measured | ratio |\n|---|---:|---:|---:|")
    for name in MEANINGS:
        before, now = getattr(known, name), getattr(found, name)
        print(f"| {name} | {before:.4g} | {now:.4g} | {now / before if before else 0:.2f} |", flush=True)
    if write:
        FILE.write_text(text(found))
        scaling_page.write(costs_of(text(found)))


def measured(part: float, known: Costs) -> Costs:
    """All costs; those that other sections measure as they are `known`."""
    print(
        "\n## Scaling\n\n| streams × events | responses | process | cores |\n|---|---:|---|---:|", flush=True
    )
    services = system.measured(part)
    print("\n| brokers | writers | readers | events/s | appends/s | fetches/s | brokers, cores | clients |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    record_us = services.event_us[BROKER] / PASSED
    client = log.measured(services.idle_cores[BROKER], record_us, part)
    elsewhere = {
        name: getattr(known, name) for name, meaning in MEANINGS.items() if meaning.measured_by == ELSEWHERE
    }
    own = {**_of_services(services), **_of_sizes(services), **asdict(client), **elsewhere}
    own["record_us"] = record_us
    return Costs(machine=_machine(), **{name: own[name] for name in MEANINGS})


def _of_services(found: system.SystemCosts) -> Mapping[str, float]:
    base = {f"{name}_base_mib": size for name, size in found.base_mib.items()}
    busy = {f"{name}_busy_cores": found.busy_cores[name] for name in ("executor", "replay", "projector")}
    events = {f"{name}_event_us": found.event_us[name] for name in ("executor", "projector")}
    names = ("executor", "replay", "projector", "ingest", "webhooks", BROKER)
    responses = {f"{name}_response_us": found.response_us[name] for name in names}
    return {
        **base,
        **busy,
        **events,
        **responses,
        "replay_event_us": found.fold_us,
        "delivery_us": max(0.0, found.event_us["replay"] - found.fold_us),
        "responses_event_us": found.over_http_us["responses"],
        "chat_event_us": found.over_http_us["chat"],
        "executor_stream_kib": found.stream_kib["executor"],
        "reader_kib": found.stream_kib["replay"],
        "process_idle_cores": sum(found.idle_cores[name] for name in system.SERVICES) / len(system.SERVICES),
        "broker_idle_cores": found.idle_cores[BROKER],
    }


def _of_sizes(found: system.SystemCosts) -> Mapping[str, float]:
    left = found.sizes
    return {
        "record_bytes": left.event["events"] - left.event_json,
        "frame_bytes": left.frame,
        "opening_bytes": max(0.0, left.response["events"] - left.request),
        "transcript_bytes": left.response["transcripts"],
        "transcript_event_bytes": left.event["transcripts"],
        "object_bytes": left.response["responses"],
        "object_event_bytes": left.event["responses"],
        "index_bytes": left.response["index"],
        "closing_bytes": left.response["closings"],
        "row_bytes": left.row,
    }


def _machine() -> str:
    gib = psutil.virtual_memory().total >> 30
    load, _, _ = os.getloadavg()
    day = datetime.now(UTC).date()
    what = f"{os.cpu_count()} cores, {gib} GiB, Python {platform.python_version()}"
    return f"{what}, {day}, load {load:.1f} at the end"


def text(costs: Costs) -> str:
    """The file of these costs: four digits of each, a paragraph for each service."""
    lines, group = [HEAD, f'machine = "{costs.machine}"\n'], ""
    for name in MEANINGS:
        first = name.partition("_")[0]
        lines += ["\n"] * (first != group)
        lines.append(f"{name} = {float(f'{getattr(costs, name):.4g}')}\n")
        group = first
    return "".join(lines)


__all__ = ["check", "measured", "run", "text"]
