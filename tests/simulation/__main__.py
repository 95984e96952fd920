"""Run seeds from the command line."""

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.order import keep_order
from tests.simulation.plan import Plan
from tests.simulation.world import played

WORKERS = min(os.cpu_count() or 1, 4)


def outcome(seed: int) -> tuple[int, Counter[str], str]:
    """A seed, the promises it broke, and a digest of all that happened."""
    world = played(seed, Plan())
    return seed, world.broken, world.digest.hexdigest()[:16]


def one(seed: int, *, trace: bool) -> bool:
    """Play one seed and say what came of it."""
    world = played(seed, Plan(), trace=trace)
    print(f"seed {seed}: {dict(world.broken) or 'holds'} {world.digest.hexdigest()[:16]}")
    return bool(world.broken)


def many(seeds: range, *, digests: bool) -> bool:
    """Play many seeds on all cores; those that break a promise are printed."""
    total: Counter[str] = Counter()
    began = time.monotonic()
    with ProcessPoolExecutor(WORKERS) as pool:
        for seed, broken, digest in pool.map(outcome, seeds, chunksize=10):
            total += broken
            if broken:
                print(
                    f"seed {seed}: {dict(broken)}: python -m tests.simulation --seed {seed} --trace",
                    flush=True,
                )
            if digests:
                print(f"seed {seed}: {digest}")
    seconds = time.monotonic() - began
    print(f"{len(seeds)} seeds in {seconds:.1f} s on {WORKERS} cores, {total.total()} broken promises")
    return bool(total)


def main() -> int:
    """Parse the command line and play."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="print all that happens")
    parser.add_argument(
        "--digests", action="store_true", help="print a digest of all that happened in each seed"
    )
    options = parser.parse_args()
    if options.seed is not None:
        return one(options.seed, trace=options.trace)
    return many(range(options.first, options.first + options.seeds), digests=options.digests)


if __name__ == "__main__":
    keep_order("tests.simulation")
    sys.exit(main())
