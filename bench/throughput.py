"""Events per CPU-second of a whole system, over response lengths and concurrency.

One cell: `at_once` clients create background responses of `events` events and read them to the end
(bench/load.py). CPU is that of all processes of the target, from before the first request until its work is
done; the load's own is left out. A cell that takes longer than its bound is cut: what had arrived by then
counts, and the rest is cancelled.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import msgspec

from bench.load import Outcome
from bench.target import Target

LENGTHS = (100, 1_000, 10_000, 50_000)
AT_ONCE = (1, 50, 400)
SETTLED_CPU = 0.05
"""CPU seconds per second below which a target is idle: its work is done, only beats and polls go on."""


class Bounds(msgspec.Struct, frozen=True):
    """How much a cell does: about `events`, at least `at_once` responses, at most `seconds`."""

    events: int
    seconds: float


WARM_UP = Bounds(100_000, 15)
"""The load before any measurement, until the broker's Java is compiled: before that it costs far more."""


SECONDS_PER_CLIENT = 0.04
"""Seconds more for a target that begins afresh: all clients must connect before any event arrives."""


class Cell(msgspec.Struct, frozen=True):
    """One measurement: what arrived, and the CPU seconds that it took, by process."""

    events: int
    at_once: int
    outcome: Outcome
    cpu: dict[str, float]

    @property
    def per_cpu_second(self) -> float:
        """Events that arrived at clients per CPU second of the whole target."""
        return self.outcome.events / max(sum(self.cpu.values()), 0.01)

    @property
    def per_second(self) -> float:
        """Events that arrived per second of wall clock."""
        return self.outcome.events / self.outcome.seconds

    @property
    def mark(self) -> str:
        """`*` if the cell was cut."""
        return " *" if self.outcome.cut else ""

    def row(self) -> str:
        """One line of the table."""
        each = {name: seconds / max(self.outcome.events, 1) * 1e6 for name, seconds in self.cpu.items()}
        parts = ", ".join(
            f"{name} {used:.1f}"
            for name, used in sorted(each.items(), key=lambda item: -item[1])
            if used > 0.01 * sum(each.values())
        )
        arrived = f"{self.outcome.events:,}{self.mark} | {self.per_second:,.0f} | {self.per_cpu_second:,.0f}"
        return f"| {self.events:,} | {self.at_once} | {arrived} | {parts} |"


HEAD = """| events | at once | arrived | per s | per CPU-s | µs of CPU per event |
|---:|---:|---:|---:|---:|---|"""


def measure(target: Target, events: int, at_once: int, bounds: Bounds, *, last: bool = False) -> Cell:
    """One cell. The `last` one of a target leaves it as it is."""
    responses = max(at_once, bounds.events // events)
    begin = target.cpu()
    load = subprocess.Popen(
        [
            *(sys.executable, "-m", "bench.load", target.base_url, f"--events={events}"),
            *(f"--at-once={at_once}", f"--responses={responses}", f"--seconds={bounds.seconds}"),
            *(["--leave"] if last else []),
        ],
        stdout=subprocess.PIPE,
    )
    assert load.stdout is not None
    line = load.stdout.readline()
    outcome = msgspec.json.decode(line, type=Outcome) if line else Outcome()
    used = target.cpu() if outcome.cut else settled(target)
    if load.wait(timeout=120) != 0:
        raise RuntimeError(f"the load failed against {target.name}: events={events}, at once={at_once}")
    if outcome.cut and not last:
        settled(target)
    return Cell(events, at_once, outcome, {name: used[name] - begin.get(name, 0.0) for name in used})


def settled(target: Target, patience: float = 30) -> dict[str, float]:
    """The CPU used once the target has no more to do (closing, projecting), or patience ran out."""
    deadline = time.monotonic() + patience
    used = target.cpu()
    while time.monotonic() < deadline:
        time.sleep(0.25)
        before, used = used, target.cpu()
        if sum(used.values()) - sum(before.values()) < SETTLED_CPU * 0.25:
            break
    return used


def table(target: Target, lengths: Sequence[int], at_once: Sequence[int], bounds: Bounds) -> list[Cell]:
    """All cells against one target, printed as they come."""
    print(f"\n## Throughput: {target.name}\n\n{HEAD}", flush=True)
    measure(target, 1_000, 20, WARM_UP)
    return list(_printed(measure(target, events, count, bounds) for count in at_once for events in lengths))


def table_afresh(
    start: Callable[[], AbstractContextManager[Target]],
    lengths: Sequence[int],
    at_once: Sequence[int],
    bounds: Bounds,
) -> list[Cell]:
    """All cells, each against a target of its own: for a target that a cut cell leaves unusable."""

    def cell(events: int, count: int) -> Cell:
        patient = Bounds(bounds.events, bounds.seconds + count * SECONDS_PER_CLIENT)
        with start() as target:
            return measure(target, events, count, patient, last=True)

    print(f"\n## Throughput: rival\n\n{HEAD}", flush=True)
    return list(_printed(cell(events, count) for count in at_once for events in lengths))


def _printed(cells: Iterator[Cell]) -> Iterator[Cell]:
    for cell in cells:
        print(cell.row(), flush=True)
        yield cell


def compare(ours: Sequence[Cell], rivals: Sequence[Cell]) -> str:
    """Ratio per cell, and flatness per concurrency."""
    others = {(cell.events, cell.at_once): cell for cell in rivals}
    lines = ["", "## Events per CPU-second", ""]
    lines += ["| events | at once | Rejoinder | rival | ratio |", "|---:|---:|---:|---:|---:|"]
    lines += [_compared(cell, others.get((cell.events, cell.at_once))) for cell in ours]
    flat = [*_flatness("Rejoinder", ours), *_flatness("rival", rivals)]
    if flat:
        lines += ["", "Flatness, events per CPU-second at 50,000 events against 1,000:", "", *flat]
    return "\n".join(lines)


def _compared(cell: Cell, other: Cell | None) -> str:
    line = f"| {cell.events:,} | {cell.at_once} | {cell.per_cpu_second:,.0f}{cell.mark} |"
    if other is None:
        return line + " | |"
    ratio = cell.per_cpu_second / max(other.per_cpu_second, 0.01)
    return line + f" {other.per_cpu_second:,.0f}{other.mark} | {ratio:.1f} : 1 |"


def _flatness(name: str, cells: Sequence[Cell]) -> Iterator[str]:
    found = {(cell.events, cell.at_once): cell.per_cpu_second for cell in cells}
    for count in sorted({cell.at_once for cell in cells}):
        short, long = found.get((1_000, count)), found.get((50_000, count))
        if short and long:
            yield f"- {name}, {count} at once: {long / short - 1:+.0%}"
