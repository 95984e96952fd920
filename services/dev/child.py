"""Keeps a service alive as a child process, and passes its output on with its name before every line.

`keep` starts the child, and starts it again whenever it ends by itself: at once if it ran well, after a
growing pause if it keeps ending. A child whose settings are wrong is not started again. Cancelling `keep`
stops the child: SIGTERM, then SIGKILL if it does not end in time. The child reads its standard input, whose
other end only this process holds, so it ends with this process, however that dies.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TextIO

import structlog

from schemas.errors import RejoinderError
from services.backoff import Backoff

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before another start after a quick end: twice as long for each in a row, up to the longest."""
RAN_WELL_S = 30.0
"""Seconds that a child must have run for its end not to be a quick one."""
BAD_SETTINGS = 2
"""The exit status of a command whose settings are wrong."""

log = structlog.get_logger()


class ChildRefused(RejoinderError):
    """A service cannot run with these settings. Its own output says why."""


class Child:
    """One service: `command`, run with `environ`. Its output goes to `sink`."""

    def __init__(self, name: str, command: Iterable[str], environ: Mapping[str, str], sink: TextIO) -> None:
        self.name = name
        self._command = list(command)
        self._environ = dict(environ)
        self._sink = sink
        self._process: asyncio.subprocess.Process | None = None

    def __repr__(self) -> str:
        return f"<child {self.name} pid={self.pid}>"

    @property
    def pid(self) -> int:
        """The child's process id while it lives, else 0."""
        return self._process.pid if self._process and self._process.returncode is None else 0

    async def keep(self, stop_s: float) -> None:
        """Keep the child running until cancelled, then stop it in `stop_s` seconds. Raises ChildRefused."""
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            began = time.monotonic()
            status = await self._run(stop_s)
            if status == BAD_SETTINGS:
                raise ChildRefused(f"{self.name} cannot start: see its line above")
            ran_well = time.monotonic() - began > RAN_WELL_S
            if ran_well:
                backoff.succeeded()
            pause = 0.0 if ran_well else backoff.pause()
            log.warning("service ended, starting it again", service=self.name, status=status, pause_s=pause)
            await asyncio.sleep(pause)

    def kill(self) -> None:
        """Kill the child (SIGKILL), if it lives."""
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def _run(self, stop_s: float) -> int:
        """Run the child once. Returns its exit status, or the negative number of the signal that ended it."""
        process = self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environ,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # else a terminal's Ctrl-C would reach the child too, out of our order
        )
        log.info("service started", service=self.name, pid=process.pid)
        copying = asyncio.create_task(self._copy(process))
        try:
            return await process.wait()
        finally:
            await asyncio.shield(self._stop(process, stop_s))
            await copying

    async def _stop(self, process: asyncio.subprocess.Process, stop_s: float) -> None:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(stop_s):
                    await process.wait()
            except TimeoutError:
                log.warning("service did not stop in time, killed", service=self.name, after_s=stop_s)
                self.kill()
                await process.wait()

    async def _copy(self, process: asyncio.subprocess.Process) -> None:
        """Pass the child's output on, in whole lines."""
        assert process.stdout is not None
        rest = b""
        while chunk := await process.stdout.read(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            self._say(lines)
        self._say([rest] if rest else [])

    def _say(self, lines: Iterable[bytes]) -> None:
        text = "".join(f"{self.name:9} | {line.decode(errors='replace')}\n" for line in lines)
        self._sink.write(text)
        self._sink.flush()


def service_command(name: str) -> list[str]:
    """The command for a service that ends with this process. `-P`: Python imports nothing from the working
    directory.
    """
    return [sys.executable, "-P", "-m", "services.cli", name, "--with-parent"]
