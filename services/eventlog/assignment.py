"""Who owns which partition of a group: a pure decision, shared by both adapters."""

from collections import Counter
from collections.abc import Collection, Mapping


def assign(partitions: int, held: Mapping[str, Collection[int]]) -> dict[str, list[int]]:
    """Deal `partitions` out to the members, given what each of them `held` before.

    Balanced to within one, and everybody keeps what the balance allows: a rebalance moves the fewest
    partitions. The same input gives the same answer, whoever leads the group.
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
    """What each member keeps: at most its fair share, and nobody the same partition as another."""
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
