"""Sets in the same order every time: only then does a seed replay exactly, and a remembered seed notice."""

import os
import sys


def keep_order(module: str) -> None:
    """Run `python -m module` anew with this command line, unless Python hashes texts alike in every run."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        command = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONHASHSEED": "0"})
