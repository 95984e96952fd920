"""The process between Rejoinder and the broker, so that no broker outlives the process that started it.

Run as a script: `python guard.py COMMAND…`, standard library only, so that it starts in 20 ms. It starts
COMMAND, prints its pid and ends with its exit code. Its standard input is a pipe whose other end only the
starter holds: when the starter is gone, by whatever death, the pipe ends, and COMMAND is ended (SIGTERM,
SIGKILL after 5 s). Should the guard itself be killed, Linux ends COMMAND by its parent-death signal. Linux
sends that signal when the thread that started the child ends. The guard's main thread lives as long as the
guard; a thread of the starter may be short-lived.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL when the starter is gone."""
_PR_SET_PDEATHSIG = 1


def main(command: list[str]) -> int:
    """Runs `command`; returns its exit code, 128 + n if signal n ended it."""
    die_with_parent = _death_signal_setter()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2, preexec_fn=die_with_parent)
    os.write(1, f"{child.pid}\n".encode())
    threading.Thread(target=_end_with_starter, args=(child,), daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


def _end_with_starter(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4096):
        pass
    child.terminate()
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        child.kill()


def _death_signal_setter() -> Callable[[], object] | None:
    """What the child calls between fork and exec; libc is loaded before the fork, where it may allocate."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
