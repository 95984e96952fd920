"""Many slow streams, as platforms have them: events per CPU-second beside a server in memory, in one run.

Each client POSTs with `stream: true` and reads the answer, the same against both. Both servers run all the
time; one idles while the other is measured. CPU is that of all processes of a target, from before the first
request until its work is done. The peer is what PyPI's `azure-ai-agentserver-responses` makes of an agent
(`bench/agentserver.py`): one process that keeps everything in memory.

Rejoinder's events carry the moment at which they left the backend (see `latency`), so its added latency is
that of the same streams.
"""

import argparse
import subprocess
import sys
import time
from array import array
from typing import ClassVar

import msgspec
import uvloop
from msgspec.structs import replace

from bench.latency import Latency, StampReader, summary
from bench.load import Load, Reader
from bench.target import Target, by_process
from bench.throughput import settled

OVERHEAD = 8
"""Events of a streamed answer besides one per word."""
BOUND_S = 60.0
"""Seconds that streams may take beyond their words."""


class Streams(msgspec.Struct, frozen=True):
    """So many streams at once, `words` in each, one every `interval_ms` (0: as fast as it goes).

    One begins when another ends, until there were `responses`; 0: there are no more than begin at once.
    """

    at_once: int
    interval_ms: int
    words: int
    responses: int = 0

    def __str__(self) -> str:
        pace = f"{1000 // self.interval_ms} a second" if self.interval_ms else f"{self.words:,}, no pause"
        return f"{self.at_once} × {pace}"


COMMON = (Streams(5, 20, 500), Streams(50, 20, 500), Streams(100, 10, 1_000), Streams(50, 0, 4_000))
SHORT = Streams(50, 0, 12, 2_000)
HEAD = """| streams × events | events per CPU-s | peer | ratio | p50, ms | p99 | µs of CPU an event |
|---|---:|---:|---:|---:|---:|---|"""


class Streamed(msgspec.Struct, frozen=True):
    """What came of the streams of one target. `cpu` in seconds, by process; `latency` of stamped ones."""

    events: int
    latency: Latency | None = None
    cpu: dict[str, float] = {}

    @property
    def per_cpu_second(self) -> float:
        """Events that arrived per CPU second of the target."""
        return self.events / sum(self.cpu.values())

    @property
    def parts(self) -> str:
        """µs of CPU an event: in all, and by process."""
        each = {name: used / self.events * 1e6 for name, used in self.cpu.items()}
        return f"{sum(each.values()):.0f}: {by_process(each)}"


class StreamedLoad(Load):
    """Clients that POST with `stream: true`, at `url`, and read the answer."""

    ask: ClassVar = {"stream": True}

    def __init__(self, url: str, path: str, streams: Streams, *, stamped: bool) -> None:
        steering = {"tokens": streams.words, "interval_ms": streams.interval_ms, "stamp": int(stamped)}
        super().__init__(url, streams.words + OVERHEAD, **steering)
        self.path = path
        self.ages: array[int] = array("q")
        self._stamped = stamped

    def reader(self) -> Reader:
        """A reader for one stream."""
        return StampReader(self.outcome, self.ages, 0) if self._stamped else super().reader()

    async def one(self) -> None:
        """Create a response, and read its stream to the end."""
        await self.read("POST", self.path, self.body)


def run(ours: Target, peer: Target | None, common: tuple[Streams, ...] = COMMON) -> None:
    """Print the table. Rejoinder's broker must be warm."""
    print(f"\n## Many streams: POST with `stream: true`\n\n{HEAD}", flush=True)
    for streams in common:
        found = stream(ours, streams, stamped=True)
        assert found.latency is not None
        beside = stream(peer, streams, stamped=False).per_cpu_second if peer is not None else 0.0
        rival = f"{beside:,.0f} | {found.per_cpu_second / beside:.2f} : 1" if beside else "|"
        ages = f"{found.latency.p50:.1f} | {found.latency.p99:.1f}" if streams.interval_ms else "|"
        print(f"| {streams} | {found.per_cpu_second:,.0f} | {rival} | {ages} | {found.parts} |", flush=True)


def short(ours: Target, peer: Target | None, streams: Streams = SHORT) -> None:
    """Print what a short response costs: HTTP, its appends, its claim and its views."""
    events = streams.words + OVERHEAD
    print(f"\n## Responses of {events} events, {streams.at_once} at once\n")
    print("| | ms of CPU a response | µs by process |\n|---|---:|---|")
    for target in (ours, peer):
        if target is not None:
            found = stream(target, streams, stamped=False)
            cost = sum(found.cpu.values()) / streams.responses * 1000
            each = {name: used / streams.responses * 1e6 for name, used in found.cpu.items()}
            print(f"| {target.name} | {cost:.2f} | {by_process(each)} |", flush=True)


def idle(target: Target, after: float, seconds: float) -> None:
    """Print what a target costs that has nothing to do. It rests for `after` seconds first: the broker's Java
    goes on compiling what the load before was.
    """
    time.sleep(after)
    each = resting(target, seconds)
    parts = ", ".join(f"{name} {share:.1%}" for name, share in each.items())
    services = sum(each.values()) - each["broker"]
    print(f"\n## Idle\n\nservices {services:.1%} of a core, broker {each['broker']:.1%}: {parts}", flush=True)


def resting(target: Target, seconds: float) -> dict[str, float]:
    """The cores that each process takes while nothing happens, once what came before is done."""
    begin = settled(target)
    time.sleep(seconds)
    return {name: (used - begin.get(name, 0.0)) / seconds for name, used in target.cpu().items()}


def load_command(url: str, streams: Streams, *flags: str) -> list[str]:
    """The command that reads `streams` at `url`, in a process of its own."""
    command = [sys.executable, "-m", "bench.streams", url, f"--at-once={streams.at_once}"]
    command += [f"--interval-ms={streams.interval_ms}", f"--words={streams.words}"]
    return [*command, f"--responses={streams.responses}", *flags]


def stream(target: Target, streams: Streams, *, stamped: bool) -> Streamed:
    """Read `streams` of one target to their ends."""
    begin = target.cpu()
    command = load_command(target.base_url, streams, f"--path={target.path}", *["--stamped"] * stamped)
    bound = BOUND_S + 3 * streams.words * streams.interval_ms / 1000
    printed = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=bound).stdout
    found = msgspec.json.decode(printed.splitlines()[-1], type=Streamed)
    used = settled(target)
    return replace(found, cpu={name: seconds - begin.get(name, 0.0) for name, seconds in used.items()})


async def _load(url: str, path: str, streams: Streams, *, stamped: bool) -> None:
    load = StreamedLoad(url, path, streams, stamped=stamped)
    responses = streams.responses or streams.at_once
    outcome = await load.run(streams.at_once, responses, BOUND_S + streams.words, leave=True)
    latency = summary(load.ages, outcome.seconds) if load.ages else None
    print(msgspec.json.encode(Streamed(outcome.events, latency)).decode(), flush=True)


def main() -> None:
    """The streams of one target, from the command line; prints lines of JSON, the last one a `Streamed`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--path", default=Load.path)
    parser.add_argument("--at-once", type=int, required=True)
    parser.add_argument("--interval-ms", type=int, required=True)
    parser.add_argument("--words", type=int, required=True)
    parser.add_argument("--responses", type=int, default=0)
    parser.add_argument("--stamped", action="store_true")
    given = parser.parse_args()
    streams = Streams(given.at_once, given.interval_ms, given.words, given.responses)
    uvloop.run(_load(given.url, given.path, streams, stamped=given.stamped))


if __name__ == "__main__":
    main()
