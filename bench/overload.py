"""Sends five times more requests than there is room for, and times the admitted, the refused and a neighbour.

The slots are few and the responses paced (`echo.interval_ms`), so that slots are short, and not the machine.
Two tenants post streamed background responses at a steady rate, whatever the answers:

    unloaded   the loud tenant asks for a fifth of what the slots can do, the quiet one for a few
    overload   the loud tenant asks for five times what the slots can do, the quiet one for as few as before

Latencies are from before the connection is opened to the last byte: of the whole stream of an admitted
response, else of the 429. `GET /livez` at intervals shows how long the machine itself makes a request wait in
the same seconds. The load is in a process of its own.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec
import uvloop
from msgspec import Struct, field

from bench.target import Target

SLOTS = 40
MAX_QUEUE = 50
"""Five quarters of the slots, as in the defaults."""
FLAGS = ("--slots", str(SLOTS), "--max-queue", str(MAX_QUEUE))
TOKENS, INTERVAL_MS = 10, 200
USABLE = SLOTS - SLOTS // 10
"""The slots that one tenant may have."""
CAPACITY = USABLE * 1000 / (TOKENS * INTERVAL_MS)
"""Responses per second that these slots can do."""
TIMES = 5
QUIET_RATE = 1.5
"""Needs three slots, of the four that the loud tenant never gets."""
PULSE_RATE = 20.0
WARM_UP_S = 5.0


class Outcome(Struct):
    """Seconds that each request of a tenant took, by its outcome."""

    completed: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Any other outcome, which must not happen."""


class Phase(Struct):
    """The figures of one phase; by process the CPU seconds, and the memory (MiB) at start, middle and end."""

    loud: Outcome
    quiet: Outcome
    livez: list[float]
    """Seconds that each empty request took."""
    cpu: dict[str, float] = {}
    rss: list[dict[str, float]] = field(default_factory=list)


class Client:
    """One tenant: posts at a steady rate, and waits for every answer to end."""

    def __init__(self, base_url: str, tenant: str) -> None:
        url = urlsplit(base_url)
        self._host, self._port = url.hostname or "", url.port or 80
        steering = f'{{"echo.tokens":"{TOKENS}","echo.interval_ms":"{INTERVAL_MS}"}}'
        body = f'{{"model":"echo","input":"hi","background":true,"stream":true,"metadata":{steering}}}'
        self._request = (
            f"POST /v1/responses HTTP/1.1\r\nhost: {self._host}\r\nconnection: close\r\n"
            f"x-rejoinder-tenant: {tenant}\r\ncontent-length: {len(body)}\r\n\r\n{body}"
        ).encode()
        self.outcome = Outcome()

    async def run(self, rate: float, seconds: float) -> Outcome:
        """`rate` requests a second for `seconds`."""
        begin = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, begin + number / rate - time.monotonic()))
                tasks.create_task(self._post())
        return self.outcome

    async def _post(self) -> None:
        answer, took = await _exchange(self._host, self._port, self._request)
        if answer.startswith(b"HTTP/1.1 429 "):
            self.outcome.refused.append(took)
        elif answer.endswith(b"\r\n0\r\n\r\n") and b"event: response.completed" in answer:
            self.outcome.completed.append(took)
        else:
            self.outcome.wrong.append(answer[-300:].decode(errors="replace"))


async def pulse(base_url: str, seconds: float) -> list[float]:
    """Send `GET /livez` `PULSE_RATE` times a second for `seconds`. Returns the seconds that each took."""
    url = urlsplit(base_url)
    request = f"GET /livez HTTP/1.1\r\nhost: {url.hostname}\r\nconnection: close\r\n\r\n".encode()
    took: list[float] = []
    for _ in range(int(PULSE_RATE * seconds)):
        took.append((await _exchange(url.hostname or "", url.port or 80, request))[1])
        await asyncio.sleep(1 / PULSE_RATE)
    return took


async def _exchange(host: str, port: int, request: bytes) -> tuple[bytes, float]:
    """The whole answer, or the error, and the seconds that it took."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        answer = await reader.read(-1)
    except ConnectionError as error:
        answer = repr(error).encode()
    finally:
        writer.close()
    return answer, time.monotonic() - began


def run(target: Target, seconds: float) -> None:
    """Run both phases, `seconds` each, and print a table of their figures."""
    _phase(target, CAPACITY / TIMES, WARM_UP_S)
    unloaded = _phase(target, CAPACITY / TIMES, seconds)
    overload = _phase(target, CAPACITY * TIMES, seconds)
    print(
        f"\noverload: {SLOTS} slots, max_queue {MAX_QUEUE}, {CAPACITY:.0f} responses/s at most of one tenant"
    )
    print("\n".join(_table(unloaded, overload, seconds)), flush=True)
    wrong = [*unloaded.loud.wrong, *unloaded.quiet.wrong, *overload.loud.wrong, *overload.quiet.wrong]
    if wrong or unloaded.loud.refused or overload.quiet.refused:
        refused = len(unloaded.loud.refused), len(overload.quiet.refused)
        sys.exit(f"refused unloaded {refused[0]}, of the quiet tenant {refused[1]}; wrong {wrong[:3]}")


def _phase(target: Target, rate: float, seconds: float) -> Phase:
    command = [sys.executable, "-m", "bench.overload", target.base_url]
    command += [f"--rate={rate}", f"--seconds={seconds}"]
    used, rss = target.cpu(), [target.rss()]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as load:
        try:
            time.sleep(seconds / 2)
            rss.append(target.rss())
            printed = load.communicate(timeout=seconds + 60)[0]
        except BaseException:
            load.kill()
            raise
    if load.returncode:
        sys.exit(f"the load ended with {load.returncode}")
    phase = msgspec.json.decode(printed, type=Phase)
    phase.rss = [*rss, target.rss()]
    phase.cpu = {name: total - used.get(name, 0.0) for name, total in target.cpu().items()}
    return phase


def _table(unloaded: Phase, overload: Phase, seconds: float) -> list[str]:
    asked = f"{CAPACITY / TIMES:,.0f} and {CAPACITY * TIMES:,.0f} requests/s"
    lines = [f"{asked:<34} {'unloaded':>10} {f'{TIMES} times':>10} {'ratio':>8}"]
    for name, of in (("admitted", "loud"), ("another tenant", "quiet")):
        calm, full = getattr(unloaded, of).completed, getattr(overload, of).completed
        for share in (0.5, 0.99):
            what = f"{name}, p{share * 100:.0f}, s ({len(calm):,}, {len(full):,})"
            lines.append(_row(what, at(calm, share), at(full, share)))
    done = [len(phase.loud.completed) / seconds for phase in (unloaded, overload)]
    lines.append(_row("let in, per second", *done))
    for share in (0.5, 0.99):
        calm, full = (at(phase.livez, share) * 1000 for phase in (unloaded, overload))
        lines.append(_row(f"GET /livez, p{share * 100:.0f}, ms ({len(overload.livez):,})", calm, full))
    refused = overload.loud.refused
    for share in (0.5, 0.99):
        what = f"429, p{share * 100:.0f}, ms ({len(refused):,})"
        lines.append(f"{what:<34} {'':>10} {at(refused, share) * 1000:>10.2f}")
    lines.append(f"\n{'':<34} {'CPU':>10} {'MiB before':>10} {'half-way':>8} {'after':>8} {'ratio':>8}")
    before, middle, after = overload.rss
    for name, cpu in sorted(overload.cpu.items()):
        held = f"{before[name]:>10.0f} {middle[name]:>8.0f} {after[name]:>8.0f}"
        lines.append(f"{name:<34} {cpu / seconds:>10.0%} {held} {after[name] / middle[name]:>8.2f}")
    return lines


def _row(what: str, calm: float, full: float) -> str:
    return f"{what:<34} {calm:>10.2f} {full:>10.2f} {full / calm if calm else 0:>8.2f}"


def at(values: Sequence[float], share: float) -> float:
    """The value that `share` of all are not above; 0 of none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


async def _load(base_url: str, rate: float, seconds: float) -> None:
    loud, quiet = Client(base_url, "loud"), Client(base_url, "quiet")
    outcomes = await asyncio.gather(
        loud.run(rate, seconds), quiet.run(QUIET_RATE, seconds), pulse(base_url, seconds)
    )
    print(msgspec.json.encode(Phase(*outcomes)).decode(), flush=True)


def main() -> None:
    """One phase's load, from the command line; prints its outcome, a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base_url")
    parser.add_argument("--rate", type=float, default=CAPACITY * TIMES)
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    uvloop.run(_load(given.base_url, given.rate, given.seconds))


if __name__ == "__main__":
    main()
