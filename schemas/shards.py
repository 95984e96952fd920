"""Which partitions a shard of replays serves: a contiguous block of them.

    p · n div P = i     partition p of P belongs to shard i of n

A block and not `p mod n`: Kafka spreads leaders by `p mod brokers`, and with as many shards as brokers one
dead broker would lead all of a shard.
"""

import re
from collections.abc import Iterable

from msgspec import Struct

_SHARD = re.compile(r"(0|[1-9][0-9]{0,4})/([1-9][0-9]{0,4})")


class Shard(Struct, frozen=True):
    """Shard `index`, from 0 on, of `of` shards."""

    index: int
    of: int

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    def partitions(self, count: int) -> range:
        """Its partitions, of `count` (at least `of`)."""
        return range(-(-self.index * count // self.of), -(-(self.index + 1) * count // self.of))


def parse_shard(text: str) -> Shard | None:
    """A shard as settings name it, `0/3`; None if it is not one."""
    match = _SHARD.fullmatch(text.strip())
    if match is None or int(match[1]) >= int(match[2]):
        return None
    return Shard(int(match[1]), int(match[2]))


def partitions_of(shards: Iterable[Shard], count: int) -> frozenset[int]:
    """The partitions, of `count`, that belong to any of `shards`; all of them without a shard.

    Raises ValueError if there are more shards than partitions.
    """
    served: set[int] = set()
    named = list(shards)
    for shard in named:
        if shard.of > count:
            raise ValueError(f"{shard} is a shard of {shard.of}, and there are {count} partitions to share")
        served.update(shard.partitions(count))
    return frozenset(served) if named else frozenset(range(count))
