"""Where a new response goes that may go anywhere: without Idempotency-Key and predecessor. Pure."""

from collections.abc import Sequence


def place(healthy: Sequence[bool], held: Sequence[int], draw: float) -> int:
    """A partition, drawn among those whose leader is quick to answer; among all where none is.

    By partition: `healthy`, and `held`, how much is under way there. One that holds nothing is twice as
    likely as one that holds one: what a slow leader does not get done turns others away from it before it is
    known to be slow. `draw` is a fresh number from 0 to 1, without 1.
    """
    anywhere = not any(healthy)
    weights = [1 / (1 + n) if ok or anywhere else 0.0 for ok, n in zip(healthy, held, strict=True)]
    left = draw * sum(weights)
    for partition, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return partition
    return max(range(len(weights)), key=weights.__getitem__)
