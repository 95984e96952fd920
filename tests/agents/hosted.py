"""Starts a hosted agent in its own process, waits until it answers, and ends it."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.broker.tcp import free_port

READY_TIMEOUT = 60.0
"""Seconds that an agent may take to answer; its libraries take some of them to load."""
ROOT = Path(__file__).parents[2]


class HostedAgent:
    """A running agent at `url`. `journal` is what it wrote down of its runs."""

    def __init__(self, url: str, journal: Path, process: "subprocess.Popen[bytes]") -> None:
        self.url = url
        self.process = process
        self._journal = journal

    def __repr__(self) -> str:
        return f"<HostedAgent {self.url} pid={self.process.pid}>"

    @property
    def journal(self) -> list[str]:
        """Lines `begun ID`, `ended ID`, `stopped ID`, as they happened; ids are the agent's own."""
        return self._journal.read_text().splitlines() if self._journal.exists() else []


@contextmanager
def hosted_agent(
    directory: Path, program: str = "tests.agents.steps", port: int = 0
) -> Iterator[HostedAgent]:
    """Run `program` with its state under `directory`, until the block ends."""
    port = port or free_port()
    journal = directory / "journal"
    quiet = {"OTEL_SDK_DISABLED": "true", "AGENTSERVER_STATE_ROOT": str(directory / "state")}
    with (directory / "agent.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", program, str(port), str(journal)],
            cwd=ROOT,
            env=os.environ | quiet,
            stdout=output,
            stderr=output,
        )
    agent = HostedAgent(f"http://127.0.0.1:{port}", journal, process)
    try:
        _wait_until_ready(agent, directory / "agent.log")
        yield agent
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(agent: HostedAgent, log: Path) -> None:
    give_up = time.monotonic() + READY_TIMEOUT
    while True:
        try:
            with urllib.request.urlopen(f"{agent.url}/readiness", timeout=5):
                return
        except OSError:
            if agent.process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"the agent did not start:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.05)
