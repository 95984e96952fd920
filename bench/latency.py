"""Added latency per event: from leaving the backend, in the executor, to arriving at a client.

Many responses tick at a steady pace (`echo.interval_ms`), and each event carries the moment at which it left
(`echo.stamp`, ns since the epoch; one machine, one clock). Clients read the live streams in a process of
their own. Between the two lie the append, the broker, replay's read of the log, the fan-out and HTTP.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from array import array

import msgspec
import uvloop

from bench.load import OVERHEAD, Load, Outcome, Reader
from bench.target import Target, by_process

INTERVAL_MS = 10
WARM_UP_S = 2.0
"""The first seconds of a pace, in which no stamp is read."""
_STAMP = re.compile(rb'"stamp":([0-9]+)')


class Pace(msgspec.Struct, frozen=True):
    """`streams` responses at once, each with an event every `interval_ms`, for `seconds`."""

    streams: int
    seconds: float
    interval_ms: int = INTERVAL_MS


class Latency(msgspec.Struct, frozen=True):
    """The figures of one pace. Latencies in ms; `cpu` in seconds, by process."""

    events: int
    per_second: float
    p50: float
    p90: float
    p99: float
    worst: float
    cpu: dict[str, float] = {}

    def row(self) -> str:
        """One line of the table."""
        ages = f"{self.p50:.1f} | {self.p90:.1f} | {self.p99:.1f} | {self.worst:.0f}"
        each = {name: seconds / self.events * 1e6 for name, seconds in self.cpu.items()}
        return f"| {self.per_second:,.0f} | {ages} | {sum(each.values()):.0f} | {by_process(each)} |"


HEAD = """| events/s | p50, ms | p90 | p99 | worst | µs of CPU per event | by process |
|---:|---:|---:|---:|---:|---:|---|"""


class StampReader(Reader):
    """Takes the age of every event at its arrival."""

    def __init__(self, outcome: Outcome, ages: "array[int]", from_ns: int) -> None:
        super().__init__(outcome)
        self._ages = ages
        self._from_ns = from_ns
        self._held = b""

    def data_received(self, data: bytes) -> None:
        """Read the stamps of all whole frames in `data`."""
        now = time.time_ns()
        super().data_received(data)
        whole, _, self._held = (self._held + data).rpartition(b"\n")
        if now > self._from_ns:
            self._ages.extend(now - int(stamp) for stamp in _STAMP.findall(whole))


class PacedLoad(Load):
    """Reads `pace.streams` stamped streams at once, and takes no stamp of the first seconds."""

    def __init__(self, base_url: str, pace: Pace) -> None:
        ticks = int(pace.seconds * 1000 / pace.interval_ms)
        super().__init__(base_url, ticks + OVERHEAD, tokens=ticks, interval_ms=pace.interval_ms, stamp=1)
        self.ages: array[int] = array("q")
        self._from_ns = time.time_ns() + int(WARM_UP_S * 1e9)

    def reader(self) -> Reader:
        """A reader for one stream."""
        return StampReader(self.outcome, self.ages, self._from_ns)


def measure(target: Target, pace: Pace) -> Latency:
    """One pace against one target."""
    begin = target.cpu()
    command = [sys.executable, "-m", "bench.latency", target.base_url, f"--streams={pace.streams}"]
    command += [f"--seconds={pace.seconds}", f"--interval-ms={pace.interval_ms}"]
    printed = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, timeout=pace.seconds * 3 + 60
    ).stdout
    used = target.cpu()
    found = msgspec.json.decode(printed.splitlines()[-1], type=Latency)
    cpu = {name: used[name] - begin.get(name, 0.0) for name in used}
    # CPU was measured over the whole run, stamps were not: scale it to the stamped events.
    share = found.events / json.loads(printed.splitlines()[0])["events"]
    return msgspec.structs.replace(found, cpu={name: seconds * share for name, seconds in cpu.items()})


def summary(ages: "array[int]", seconds: float) -> Latency:
    """The figures of `ages` (ns), which came in so many seconds."""
    ordered = sorted(ages)

    def at(share: float) -> float:
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] / 1e6

    return Latency(len(ordered), len(ordered) / seconds, at(0.5), at(0.9), at(0.99), at(1))


async def _run(base_url: str, pace: Pace) -> None:
    load = PacedLoad(base_url, pace)
    outcome = await load.run(pace.streams, pace.streams, pace.seconds * 2 + 20)
    print(msgspec.json.encode(summary(load.ages, outcome.seconds - WARM_UP_S)).decode(), flush=True)


def main() -> None:
    """One paced load, from the command line; prints its outcome and its latency, a line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base_url")
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--interval-ms", type=int, default=INTERVAL_MS)
    given = parser.parse_args()
    uvloop.run(_run(given.base_url, Pace(given.streams, given.seconds, given.interval_ms)))


if __name__ == "__main__":
    main()
