"""`python -m bench`: everything in one run, 25 minutes; `--quick` ten. Prints Markdown.

streams      many slow streams beside a server in memory, and short ones
idle         what there is to pay while nothing happens
upstream     what an upstream on HTTP costs the executor beside model echo
fanout       one stream to many readers, beside Nchan
replay       a long response read from its start by many, beside a static file; resumes after a start
crowd        5,000 open streams on one replay: memory, a storm of reconnects, readers that take nothing
throughput   events per CPU-second of the whole system and of the rival, their ratio, and the flatness of both
latency      from the backend to a client, at a steady pace
overload     five times more requests than there is room for: the admitted, the refused, a neighbour, memory
limits       the log's client by itself
counting     closings that analytics counts per CPU-second
webhooks     ends announced at once, until all are delivered
library      what replay's start, its memory and its reads cost with many stored responses
scaling      only by name: the constants of `rejoinder plan`; `--write` puts them into its file, `--check`
             holds the plan against two executors and three shards
"""

import argparse
import asyncio
import os
import platform
import signal
import sys
import time
from collections.abc import Collection
from contextlib import ExitStack

import psutil

from bench import (
    counting,
    crowd,
    fanout,
    hooks,
    latency,
    library,
    limits,
    overload,
    replay,
    resume,
    scaling,
    streams,
    target,
    throughput,
    upstream,
)
from bench.throughput import Bounds, Cell

SECTIONS = (
    "streams",
    "idle",
    "upstream",
    "fanout",
    "replay",
    "crowd",
    "throughput",
    "latency",
    "overload",
    "limits",
    "counting",
    "webhooks",
    "library",
)
ALONE = "scaling"
"""A section of five minutes that a run of everything leaves out."""
COMPILED_S = 40.0
"""Seconds of load until the broker's Java is compiled, on two cores: before, that is half of its CPU."""


def main() -> None:
    """Run the chosen sections and print their tables."""
    given = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the targets end as well
    began = time.monotonic()
    memory = psutil.virtual_memory().total >> 30
    print(f"{os.cpu_count()} cores, {memory} GiB, Python {platform.python_version()}")
    sections = [given.section] if given.section else list(SECTIONS)
    if "streams" in sections:
        _streams(given)
    if "idle" in sections:
        with target.rejoinder() as rejoinder:
            latency.measure(rejoinder, _pace(10_000, 10 if given.quick else COMPILED_S))
            streams.idle(rejoinder, *((10, 20) if given.quick else (120, 60)))
    if "upstream" in sections:
        upstream.run()
    if "fanout" in sections:
        with target.rejoinder() as rejoinder:
            latency.measure(rejoinder, _pace(10_000, 10 if given.quick else COMPILED_S))
            fanout.run(rejoinder)
    if "replay" in sections:
        replay.run(10_000 if given.quick else replay.EVENTS)
        resume.run()
    if "crowd" in sections:
        with target.rejoinder(*crowd.FLAGS) as rejoinder:
            crowd.run(rejoinder, *((500, 50) if given.quick else (crowd.READERS, crowd.STALLED)))
    if "throughput" in sections:
        _throughput(given)
    if "latency" in sections:
        _latency(given)
    if "overload" in sections:
        with target.rejoinder(*overload.FLAGS) as rejoinder:
            overload.run(rejoinder, given.seconds or (15 if given.quick else 40))
    asyncio.run(_alone(given, sections))
    fine = True
    if ALONE in sections:
        fine = scaling.check.run(quick=given.quick) if given.check else _scaling(given)
    print(f"\n{time.monotonic() - began:.0f} s in all")
    sys.exit(not fine)


def _scaling(given: argparse.Namespace) -> bool:
    scaling.run(quick=given.quick, write=given.write)
    return True


async def _alone(given: argparse.Namespace, sections: Collection[str]) -> None:
    """What is measured of one part, on a broker of its own."""
    if "limits" in sections:
        await limits.run(40_000 if given.quick else 200_000)
    if "counting" in sections:
        await counting.run(40_000 if given.quick else 100_000)
    if "webhooks" in sections:
        await hooks.run(2_000 if given.quick else 10_000)
    if "library" in sections:
        await library.run(given.stored or ((20_000,) if given.quick else (100_000, 1_000_000)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("section", nargs="?", choices=(*SECTIONS, ALONE), help="only this section")
    parser.add_argument("--quick", action="store_true", help="fewer cells, smaller ones")
    parser.add_argument("--events", type=int, nargs="+", help="throughput: lengths of the responses")
    parser.add_argument("--at-once", type=int, nargs="+", help="throughput: how many at once")
    parser.add_argument("--no-rival", action="store_true", help="streams, throughput: rejoinder alone")
    parser.add_argument("--rate", type=int, nargs="+", help="latency: events per second to pace")
    parser.add_argument("--stored", type=int, nargs="+", help="library: how many stored responses")
    parser.add_argument("--write", action="store_true", help="scaling: put what was measured into the file")
    parser.add_argument("--check", action="store_true", help="scaling: hold the plan against an installation")
    parser.add_argument("--seconds", type=float, help="seconds at most per cell, or of each pace")
    return parser.parse_args()


def _streams(given: argparse.Namespace) -> None:
    with target.rejoinder() as ours, ExitStack() as others:
        peer = None if given.no_rival else others.enter_context(target.agentserver())
        warm_up = latency.Pace(100, 10 if given.quick else COMPILED_S)
        latency.measure(ours, warm_up)
        streams.run(ours, peer)
        streams.short(ours, peer)


def _throughput(given: argparse.Namespace) -> None:
    lengths = given.events or ((1_000, 10_000) if given.quick else throughput.LENGTHS)
    at_once = given.at_once or ((50,) if given.quick else throughput.AT_ONCE)
    ours = Bounds(50_000 if given.quick else 100_000, given.seconds or (15 if given.quick else 30))
    theirs = Bounds(5_000 if given.quick else 20_000, given.seconds or (5 if given.quick else 8))
    with target.rejoinder() as rejoinder:
        cells = throughput.table(rejoinder, lengths, at_once, ours)
    rivals: list[Cell] = []
    if not given.no_rival:
        rivals = throughput.table_afresh(target.rival, lengths, at_once, theirs)
    print(throughput.compare(cells, rivals))
    print("\n`*`: cut by its time bound. For the rival, whose cost grows with every event, that flatters it.")


def _latency(given: argparse.Namespace) -> None:
    rates = given.rate or ((10_000,) if given.quick else (1_000, 10_000))
    seconds = given.seconds or (6 if given.quick else 15)
    print(f"\n## Latency from backend to client\n\n{latency.HEAD}", flush=True)
    with target.rejoinder() as rejoinder:
        latency.measure(rejoinder, _pace(max(rates), 10 if given.quick else COMPILED_S))
        for rate in rates:
            print(latency.measure(rejoinder, _pace(rate, seconds)).row(), flush=True)


def _pace(rate: int, seconds: float) -> latency.Pace:
    return latency.Pace(max(1, rate * latency.INTERVAL_MS // 1000), seconds)


if __name__ == "__main__":
    main()
