"""The load of responses that nobody reads; prints their ids once they should have ended.

python -m bench.scaling.unread http://127.0.0.1:8000 --at-once 50 --interval-ms 20 --words 500
"""

import argparse
import asyncio
import json

import uvloop

from bench.load import OVERHEAD, Load


async def _create(url: str, at_once: int, interval_ms: int, words: int) -> None:
    load = Load(url, words + OVERHEAD, tokens=words, interval_ms=interval_ms)
    ids = await asyncio.gather(*(load.created() for _ in range(at_once)))
    await asyncio.sleep((words + OVERHEAD) * interval_ms / 1000)
    print(json.dumps(ids), flush=True)


def main() -> None:
    """One load, from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--at-once", type=int, required=True)
    parser.add_argument("--interval-ms", type=int, required=True)
    parser.add_argument("--words", type=int, required=True)
    given = parser.parse_args()
    uvloop.run(_create(given.url, given.at_once, given.interval_ms, given.words))


if __name__ == "__main__":
    main()
