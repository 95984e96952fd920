"""One stream to many readers, beside Nchan: deliveries per CPU-second, in one run.

Nchan is nginx's module for that, in C and in memory (Debian: `nginx`, `libnginx-mod-nchan`). It is measured
where it is installed. Its publisher posts events of the same size at the same pace. The readers of both are
the same. CPU and deliveries count from when all readers have come until the pace ends; the publisher's and
the readers' CPU is left out.
"""

import argparse
import asyncio
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
import uvloop
from msgspec.structs import replace

from bench.load import OVERHEAD, Load
from bench.nginx import installed, nginx
from bench.target import Target, by_process
from bench.throughput import settled

MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
LOCATIONS = """
    location = /publish { nchan_publisher; nchan_channel_id stream; nchan_message_buffer_length 100; }
    location = /read { nchan_subscriber eventsource; nchan_channel_id stream; }
"""
EVENT = b'{"type":"response.output_text.delta","item_id":"msg_%s","output_index":0,"content_index":0,%s' % (
    b"0" * 40,
    b'"delta":"jumps ","logprobs":[],"sequence_number":12345}',
)
SETTLE_S = 1.0
"""Seconds between the last reader's coming and the count's beginning."""


class Fan(msgspec.Struct, frozen=True):
    """One stream of an event every `interval_ms`, to so many `readers`, for `seconds`."""

    readers: int
    interval_ms: int
    seconds: float = 12


FANS = (Fan(100, 5), Fan(1_000, 25))
HEAD = """| readers × events/s | deliveries per CPU-s | replay alone | Nchan | ratio | its replay | µs each |
|---|---:|---:|---:|---:|---:|---|"""


class Delivered(msgspec.Struct, frozen=True):
    """How many events arrived, and the CPU seconds by process."""

    deliveries: int
    cpu: dict[str, float] = {}

    def per_cpu_second(self, *names: str) -> float:
        """Deliveries per CPU second of these processes; of all without any."""
        return self.deliveries / sum(used for name, used in self.cpu.items() if name in (names or self.cpu))


class FanLoad(Load):
    """Readers of one stream. It is a response of model echo, or what a publisher says to Nchan."""

    def __init__(self, url: str, fan: Fan, *, nchan: bool) -> None:
        lasts = int((fan.seconds + 30) * 1000 / fan.interval_ms)
        super().__init__(url, lasts + OVERHEAD, tokens=lasts, interval_ms=fan.interval_ms)
        self._fan = fan
        self._nchan = nchan

    async def fan(self) -> None:
        """Print a line when all readers have come, and the outcome at the end of the pace."""
        id = "" if self._nchan else await self.created()
        path = f"{self.path}/{id}?stream=true" if id else "/read"
        streams = [await self.open("GET", path) for _ in range(self._fan.readers)]
        publishing = asyncio.create_task(self._publish()) if self._nchan else None
        await asyncio.sleep(SETTLE_S)
        before = self.outcome.events
        print("come", flush=True)
        await asyncio.sleep(self._fan.seconds)
        print(msgspec.json.encode(Delivered(self.outcome.events - before)).decode(), flush=True)
        if publishing is not None:
            publishing.cancel()
        for transport, _ in streams:
            transport.abort()
        if id:  # what is measured next has the cores to itself
            await self.cancel(id)

    async def _publish(self) -> None:
        reading, writing = await asyncio.open_connection(self.host, self.port)
        head = b"POST /publish HTTP/1.1\r\nhost: x\r\nX-EventSource-Event: response.output_text.delta\r\n"
        request = head + b"content-length: %d\r\n\r\n" % len(EVENT) + EVENT
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            writing.write(request)
            answer = await reading.readuntil(b"\r\n\r\n")
            length = int(answer.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await reading.readexactly(length)
            due += self._fan.interval_ms / 1000
            await asyncio.sleep(max(0.0, due - clock()))


def run(ours: Target) -> None:
    """Print the table. Rejoinder's broker must be warm."""
    print(f"\n## One stream to many readers\n\n{HEAD}", flush=True)
    for fan in FANS:
        found = deliver(ours, fan)
        whole, replay = found.per_cpu_second(), found.per_cpu_second("replay")
        row = f"| {fan.readers:,} × {1000 // fan.interval_ms} | {whole:,.0f} | {replay:,.0f} "
        if MODULE.exists() and installed():
            with nchan() as theirs:
                beside = deliver(theirs, fan).per_cpu_second()
            row += f"| {beside:,.0f} | {whole / beside:.2f} : 1 | {replay / beside:.2f} : 1 "
        else:
            row += "| not installed | | "
        each = {name: used / found.deliveries * 1e6 for name, used in found.cpu.items()}
        print(f"{row}| {sum(each.values()):.1f}: {by_process(each, 1)} |", flush=True)


def deliver(target: Target, fan: Fan) -> Delivered:
    """One fan against one target."""
    command = [sys.executable, "-m", "bench.fanout", target.base_url, f"--readers={fan.readers}"]
    command += [f"--interval-ms={fan.interval_ms}", f"--seconds={fan.seconds}"]
    command += ["--nchan"] * (target.name == "nchan")
    load = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert load.stdout is not None
    load.stdout.readline()
    begin = target.cpu()
    line = load.stdout.readline()
    used = target.cpu()
    if load.wait(60) or not line:
        raise RuntimeError(f"the readers of {target.name} failed")
    settled(target)
    found = msgspec.json.decode(line, type=Delivered)
    return replace(found, cpu={name: seconds - begin.get(name, 0.0) for name, seconds in used.items()})


def nchan() -> AbstractContextManager[Target]:
    """Nginx with Nchan."""
    return nginx("nchan", LOCATIONS, MODULE)


def main() -> None:
    """The readers of one target, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--readers", type=int, default=1)
    parser.add_argument("--interval-ms", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--nchan", action="store_true")
    given = parser.parse_args()
    fan = Fan(given.readers, given.interval_ms, given.seconds)
    uvloop.run(FanLoad(given.url, fan, nchan=given.nchan).fan())


if __name__ == "__main__":
    main()
