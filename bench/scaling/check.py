"""Two executors and three shards on one machine, beside what the plan says of them: CPU by process."""

import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from bench import latency
from bench.scaling.installation import SHARD, Installation, installation
from bench.streams import OVERHEAD, Streams, load_command
from bench.target import Target
from bench.throughput import settled
from services.planning.costs import measured_costs
from services.planning.demand import Demand
from services.planning.deployment import Deployment
from services.planning.work import cores
from services.settings import SETTINGS

EXECUTORS, SHARDS = 2, 3
STREAMS = Streams(60, 20, 1_000)
COMPILED_S = 30.0
WITHIN = 0.25
STARTED_S, LATE = 0.5, 1.1
"""Seconds until the clients have started, and how much longer than they should streams may take."""
COUNTED = ("ingest", "replay", "executor", "projector", "broker")
"""What has a share of more than a hundredth here; the rest is in the sum."""


def run(*, quick: bool) -> bool:
    """Print the table. Returns whether the sum of all processes is within `WITHIN` of the plan's."""
    shards = SHARDS if SHARD in SETTINGS else 1
    streams = Streams(STREAMS.at_once, STREAMS.interval_ms, STREAMS.words // (4 if quick else 1))
    with (
        tempfile.TemporaryDirectory(prefix="rejoinder-bench-") as name,
        installation(Path(name), executors=EXECUTORS, shards=shards) as (ours, target),
    ):
        latency.measure(target, latency.Pace(100, COMPILED_S * (0.25 if quick else 1)))
        took = _used(ours, target, streams)
        partitions = ours.settings.partitions
    said = _said(streams, shards, partitions)
    print(f"\n## {EXECUTORS} executors, {shards} shards, one broker: {streams}\n")
    print("| process | the plan, cores | measured | ratio |\n|---|---:|---:|---:|")
    for service in COUNTED:
        print(
            f"| {service} | {said[service]:.3f} | {took[service]:.3f} | {took[service] / said[service]:.2f} |"
        )
    expected, found = sum(said.values()), sum(took.values())
    print(f"| all | {expected:.3f} | {found:.3f} | {found / expected:.2f} |", flush=True)
    return abs(found / expected - 1) <= WITHIN


def _said(streams: Streams, shards: int, partitions: int) -> Mapping[str, float]:
    """Cores by service, as the plan has them."""
    demand = Demand(
        streams=streams.at_once,
        events_per_s=1000 / streams.interval_ms,
        response_s=(streams.words + OVERHEAD) * streams.interval_ms / 1000,
        upstream="echo",
    )
    deployment = Deployment(
        executors=EXECUTORS,
        shards=shards,
        replicas=1,
        projectors=1,
        ingests=1,
        analytics=1,
        webhooks=1,
        brokers=1,
        replication=1,
        partitions=partitions,
    )
    return cores(demand, deployment, measured_costs())


def _used(ours: Installation, target: Target, streams: Streams) -> Mapping[str, float]:
    """Cores by process, while as many clients read at each replay."""
    begin = settled(target)
    each = streams.at_once // len(ours.base_urls)
    loads = [
        subprocess.Popen(load_command(url, replace(streams, at_once=each)), stdout=subprocess.PIPE)
        for url in ours.base_urls
    ]
    usual = (streams.words + OVERHEAD) * streams.interval_ms / 1000
    began = time.monotonic()
    printed = [load.communicate(timeout=3 * usual + 60)[0] for load in loads]
    if any(load.returncode for load in loads) or not all(printed):
        raise RuntimeError("the clients failed")
    took = time.monotonic() - began - STARTED_S
    if took > LATE * usual:
        print(f"\nthe streams took {took:.1f} s, not {usual:.1f}: the machine is too busy for this check")
    seconds = max(usual, took)
    return {name: (used - begin[name]) / seconds for name, used in settled(target).items()}
