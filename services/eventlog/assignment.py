"""Assigns the partitions of a consumer group to its members. Pure; both adapters use it."""

from collections import Counter
from collections.abc import Collection, Mapping


def assign(partitions: int, held: Mapping[str, Collection[int]]) -> dict[str, list[int]]:
    """Assign partitions 0 to `partitions` - 1 to the members; `held` has what each member held before.

    The members' counts differ by one at most. Within that balance a member keeps what it held, so a rebalance
    moves as few partitions as possible. The answer depends on the arguments alone, so any member may lead.
    """
    dealt = _keep(partitions, held)
    taken = {partition for kept in dealt.values() for partition in kept}
    load = Counter({member: len(kept) for member, kept in dealt.items()})
    for partition in range(partitions):
        if partition not in taken and dealt:
            poorest = min(dealt, key=lambda member: (load[member], member))
            dealt[poorest].append(partition)
            load[poorest] += 1
    return {member: sorted(mine) for member, mine in dealt.items()}


def _keep(partitions: int, held: Mapping[str, Collection[int]]) -> dict[str, list[int]]:
    """What each member keeps of what it held: at most its fair share. No partition is kept twice."""
    share, spare = divmod(partitions, len(held)) if held else (0, 0)
    taken: set[int] = set()
    kept: dict[str, list[int]] = {}
    for member in sorted(held, key=lambda member: (-len(held[member]), member)):
        mine = sorted(p for p in set(held[member]) - taken if p < partitions)
        over = len(mine) > share and spare > 0
        spare -= over
        kept[member] = mine[: share + over]
        taken.update(kept[member])
    return kept
