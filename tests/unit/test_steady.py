"""The clock of upper bounds: what it counts, and what it leaves out."""

import os
import signal
import subprocess
import sys
import time

from tests.steady import LATE, steady

STOPPED_S = 1.0
PROGRAM = """
import time
from tests.steady import steady

wall, shown = time.monotonic(), steady()
print("running", flush=True)
input()
print(time.monotonic() - wall - (steady() - shown), flush=True)
"""


def test_it_goes_like_any_clock_while_the_machine_runs() -> None:
    gone = 0.0
    while gone < 2 * LATE:  # a machine that stands still just now takes longer
        wall, shown = time.monotonic(), steady()
        time.sleep(LATE)
        gone += (passed := steady() - shown)
        assert passed <= time.monotonic() - wall + 0.001


def test_what_a_process_did_not_run_for_does_not_count() -> None:
    program = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(STOPPED_S)
        os.kill(process.pid, signal.SIGCONT)
        left_out = float(process.communicate(b"\n")[0])
    assert left_out >= STOPPED_S - 2 * LATE  # the signals take effect in their own time
