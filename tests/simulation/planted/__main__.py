"""Plant from the command line: every rule, or those that it names; say what was found."""

import argparse
import os
import re
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import msgspec

from tests.simulation.order import keep_order
from tests.simulation.planted import RULES, found
from tests.simulation.planted.registry import SEEN, remembered

PATIENCE = 120.0
"""Seconds of this machine's time for one rule."""


def main() -> int:
    """Plant what the command line names, or everything; say what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.planted")
    parser.add_argument("names", nargs="*", default=list(RULES), metavar="name", help="all without any")
    parser.add_argument("--first", type=int, help="look from this seed on, not at remembered ones")
    parser.add_argument("--remember", action="store_true", help=f"write what was found to {SEEN.name}")
    options = parser.parse_args()
    names, missed, seeds = options.names, 0, remembered()
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
        for name, what in zip(names, pool.map(partial(look, first=options.first), names), strict=True):
            print(f"{RULES[name].number} {name}: {what or 'not found'}", flush=True)
            missed += what is None or not what.startswith("seed ")
            if what is not None and (seed := re.match(r"seed (\d+)", what)):
                seeds[name] = int(seed[1])
    if options.remember:
        kept = {name: seeds[name] for name in sorted(seeds.keys() & RULES.keys())}
        SEEN.write_bytes(msgspec.json.format(msgspec.json.encode(kept)) + b"\n")
    return bool(missed)


def look(name: str, first: int | None) -> str | None:
    """Where the absence of a rule shows, in words; see `found`. One that cannot be planted says so."""
    signal.signal(signal.SIGVTALRM, _too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
    try:
        seen = found(RULES[name], first)
    except TooLong:
        return None
    except AttributeError as error:  # of the patch: the code has moved away under it
        return f"cannot be planted: {error}"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return seen and f"seed {seen[0]}: {dict(seen[1])}"


class TooLong(BaseException):
    """A world without a rule may go on for ever."""


def _too_long(*_: object) -> None:
    raise TooLong


if __name__ == "__main__":
    keep_order("tests.simulation.planted")
    sys.exit(main())
