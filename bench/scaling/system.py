"""What the services cost: CPU by process under loads that differ in one thing, and memory.

slow, quick     streams of model echo, read by one client each: what a busy process, an event and a
                response cost, by least squares over these two and the next
short           as slow, in responses of a second
unread          as slow, and nobody reads: the fold alone
responses, chat   as slow, from an upstream on HTTP
open            streams that hardly say anything: memory
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from bench import latency, upstream
from bench.load import OVERHEAD as CREATED_OVERHEAD
from bench.scaling.fitting import solved
from bench.scaling.installation import Installation, installation
from bench.scaling.sizes import Sizes, sizes
from bench.streams import OVERHEAD, Streams, load_command, resting, stream
from bench.target import Target
from bench.throughput import settled
from tests.api import Api

SLOW, QUICK, SHORT = Streams(50, 20, 500), Streams(100, 10, 1_000), Streams(50, 20, 50, 500)
HTTP_WORDS = 300
OPEN, OPEN_INTERVAL_MS, OPEN_WORDS, OPEN_S = 400, 500, 30, 8.0
COMPILED_S, REST_S, IDLE_S = 30.0, 15.0, 8.0
"""Seconds until the broker's Java is compiled, until what that load left is packed, and of a measurement."""
SERVICES = ("ingest", "replay", "executor", "projector", "analytics", "webhooks")


class Used(Struct, frozen=True):
    """What a load did, and the CPU seconds by process."""

    seconds: float
    events: int
    responses: int
    cpu: Mapping[str, float]

    @property
    def row(self) -> tuple[float, float, float]:
        """Seconds, events and responses."""
        return self.seconds, self.events, self.responses


class SystemCosts(Struct, frozen=True):
    """By process: cores at rest, cores of a busy one, µs an event and a response, MiB; and what differs.

    `event_us` is of an event that one client reads, `fold_us` of replay for one that nobody reads.
    """

    idle_cores: Mapping[str, float]
    busy_cores: Mapping[str, float]
    event_us: Mapping[str, float]
    response_us: Mapping[str, float]
    fold_us: float
    over_http_us: Mapping[str, float]
    base_mib: Mapping[str, float]
    stream_kib: Mapping[str, float]
    sizes: Sizes


def measured(part: float = 1.0) -> SystemCosts:
    """Measure all, with `part` of the usual seconds."""
    with tempfile.TemporaryDirectory(prefix="rejoinder-bench-") as name:
        folder = Path(name)
        with upstream.upstream(folder) as url:
            config = folder / "rejoinder.toml"
            config.write_text(upstream.CONFIG.format(url=url))
            with installation(folder, config=str(config)) as (ours, target):
                return _measured(ours, target, part)


def _measured(ours: Installation, target: Target, part: float) -> SystemCosts:
    base = {name: target.rss()[name] for name in SERVICES}
    latency.measure(target, latency.Pace(100, COMPILED_S * part))
    time.sleep(REST_S * part)
    idle = resting(target, IDLE_S * part)
    stream_kib = _open(target, part)
    loads = [_read(target, _shorter(streams, part)) for streams in (SLOW, QUICK, SHORT)]
    unread = _unread(target, _shorter(SLOW, part))
    fitted = {
        name: solved(
            [load.row for load in loads],
            [max(0.0, load.cpu[name] - idle[name] * load.seconds) for load in loads],
        )
        for name in loads[0].cpu
    }
    busy, response = fitted["replay"][0], fitted["replay"][2]
    folded = unread.cpu["replay"] - busy * unread.seconds - response * unread.responses
    words = int(HTTP_WORDS * part)
    each = {
        kind: upstream.measure(target, kind, SLOW.at_once, SLOW.interval_ms, words) for kind in upstream.KINDS
    }
    return SystemCosts(
        idle_cores=idle,
        busy_cores={name: costs[0] for name, costs in fitted.items()},
        event_us={name: costs[1] * 1e6 for name, costs in fitted.items()},
        response_us={name: costs[2] * 1e6 for name, costs in fitted.items()},
        fold_us=max(0.0, folded / unread.events * 1e6),
        over_http_us={kind: max(0.0, cost - each["echo"]) for kind, cost in each.items()},
        base_mib=base,
        stream_kib=stream_kib,
        sizes=sizes(ours),
    )


def _shorter(streams: Streams, part: float) -> Streams:
    """The same with fewer words, or fewer responses."""
    if streams.responses:
        return Streams(streams.at_once, streams.interval_ms, streams.words, int(streams.responses * part))
    return Streams(streams.at_once, streams.interval_ms, int(streams.words * part))


def _read(target: Target, streams: Streams) -> Used:
    found = stream(target, streams, stamped=False)
    return _said(streams, found.events, found.cpu)


def _unread(target: Target, streams: Streams) -> Used:
    begin = target.cpu()
    command = [sys.executable, "-m", "bench.scaling.unread", target.base_url, f"--at-once={streams.at_once}"]
    command += [f"--interval-ms={streams.interval_ms}", f"--words={streams.words}"]
    bound = 60 + streams.words * streams.interval_ms / 500
    printed = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=bound).stdout
    used = {name: now - begin[name] for name, now in settled(target).items()}
    api = Api(target.base_url)
    for id in json.loads(printed):
        assert api.get(id).json["status"] == "completed", id
    return _said(streams, streams.at_once * (streams.words + CREATED_OVERHEAD), used)


def _said(streams: Streams, events: int, cpu: Mapping[str, float]) -> Used:
    responses = streams.responses or streams.at_once
    seconds = responses / streams.at_once * (streams.words + OVERHEAD) * streams.interval_ms / 1000
    for name, used in cpu.items():
        print(f"| {streams} | {responses} | {name} | {used / seconds:.3f} |", flush=True)
    return Used(seconds, events, responses, cpu)


def _open(target: Target, part: float) -> Mapping[str, float]:
    """KiB by process that each of many open streams takes."""
    at_once = int(OPEN * part)
    before = target.rss()
    command = load_command(target.base_url, Streams(at_once, OPEN_INTERVAL_MS, OPEN_WORDS))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as load:
        time.sleep(OPEN_S)
        held = target.rss()
        if load.wait(60 + OPEN_WORDS * OPEN_INTERVAL_MS / 1000):
            raise RuntimeError("the open streams failed")
    return {name: max(0.0, held[name] - before[name]) / at_once * 1024 for name in ("executor", "replay")}
