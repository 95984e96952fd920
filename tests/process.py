"""A server as a child process: started, awaited, watched, ended. Blocking."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil

REJOINDER = str(Path(sys.executable).with_name("rejoinder"))
READY_S = 150
"""Seconds until a server must be ready: the first embedded broker of a machine downloads its jars."""
STOP_S = 40


class ServerProcess:
    """A command that prints `ready URL` once it serves, and everything that it starts."""

    def __init__(self, command: Sequence[str], log: Path, environ: Mapping[str, str] = {}) -> None:
        self._command = list(command)
        self._environ = {**os.environ, **environ}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.base_url = ""

    def __repr__(self) -> str:
        return f"<{' '.join(self._command)} at {self.base_url or 'nowhere yet'}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """The output of the process, over all starts."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Start the process and wait until it is ready. Raises RuntimeError with its log if it is not."""
        said_before = len(self.log)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environ
            )
        deadline = time.monotonic() + READY_S
        while (url := _ready(self.log[said_before:])) is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self!r} did not get ready:\n{self.log[said_before:]}")
            time.sleep(0.05)
        self.base_url = url

    def stop(self) -> int:
        """End the process as a terminal would, and return its exit status. Fails if a child stays behind."""
        if self._process is None:
            return 0
        tree = self.tree()
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        left = psutil.wait_procs(tree, timeout=STOP_S)[1]
        self._process = None
        assert not left, f"left behind: {left}"
        return status

    def kill(self) -> None:
        """Kill (SIGKILL) the process and everything that it started."""
        for process in self.tree():
            process.kill()
        if self._process is not None:
            self._process.wait()
        self._process = None

    def tree(self) -> list[psutil.Process]:
        """The process and all its descendants that live."""
        if self._process is None or self._process.poll() is not None:
            return []
        root = psutil.Process(self._process.pid)
        return [root, *root.children(recursive=True)]

    def titled(self, title: str) -> list[psutil.Process]:
        """Its processes with this title, such as `rejoinder executor`."""
        return [process for process in self.tree() if _title(process).startswith(title)]


def _ready(log: str) -> str | None:
    for line in log.splitlines():
        word, _, url = line.strip().partition(" ")
        if word == "ready" and url.startswith("http://"):
            return url.strip()
    return None


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
