"""`rejoinder usage`: what has ended in the last hours, from the topic `usage`, as a table with bars.

A row is appended after all that it counts has ended, so whoever reads on from the beginning of a range meets
every row of that range as it stands. No group is joined, and nothing is committed.
"""

import asyncio
import os
import sys
from datetime import timedelta

import msgspec

from schemas.errors import SettingsError
from schemas.usage import MINUTE_MS, UsageRow, add
from services.analytics.index import UsageGroup
from services.analytics.reader import UsageReader
from services.connect import connect, topic_names
from services.process import until_stopped, while_wanted
from services.settings import Settings
from services.terminal.printing import say, say_json, until_enough
from services.terminal.usage_table import EIGHTHS, table

Groups = dict[UsageGroup, UsageRow]


def usage(settings: Settings, *, last: timedelta, tenant: str, as_json: bool, now_ms: int) -> int:
    """Print what ended within the `last` time, of one `tenant` or of all (""). Returns 0.

    Raises SettingsError, LogError.
    """
    if last <= timedelta():
        raise SettingsError("--last takes a time above 0, such as 30m, 1h or 2d")
    since = max(0, now_ms - last // timedelta(milliseconds=1))
    groups = until_stopped(lambda stop: _groups(settings, since, now_ms, stop))
    if groups is not None:
        wanted = {group: row for group, row in groups.items() if tenant in ("", group.tenant)}
        until_enough(lambda: _print(wanted, as_json=as_json))
    return 0


async def _groups(settings: Settings, since: int, now_ms: int, stop: asyncio.Event) -> Groups | None:
    log = connect(settings, "usage")
    try:
        reader = UsageReader(log, topic_names(settings).usage, now_ms, lambda: now_ms)
        if stop.is_set() or await while_wanted(_caught_up(reader, since), stop) is None:
            return None
        groups: Groups = {}
        for sums in reader.index.sums(since // MINUTE_MS, now_ms // MINUTE_MS + 2):
            for group, row in sums.items():
                add(groups.setdefault(group, UsageRow(counted={})), row)
        return groups
    finally:
        await log.close()


async def _caught_up(reader: UsageReader, since: int) -> bool:
    await reader.catch_up(since // MINUTE_MS * MINUTE_MS)
    return True


def _print(groups: Groups, *, as_json: bool) -> None:
    if as_json:
        for group, row in sorted(groups.items(), key=lambda one: [part or "" for part in one[0]]):
            row.counted.clear()
            say_json(msgspec.json.encode({**group._asdict(), **msgspec.to_builtins(row)}))
        return
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in table(groups, coloured=coloured, blocks=_has_blocks()):
        say(f"{line}\n")


def _has_blocks() -> bool:
    try:
        EIGHTHS.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return False
    return True
