"""Plants: what takes a rule away, how its absence shows, and in what kind of trouble."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from tests.simulation.plan import Plan, only
from tests.simulation.world import simulate

Plant = Callable[[], AbstractContextManager[Any]]
TROUBLED = Plan(trouble=0.2, targets="x")
DYING = Plan(faults=only(kill=3, pause=4, expel=2), targets="x", rate=0.8, cancels=0.1, deletes=0)
REPEATED = Plan(
    repeats=1,
    unsure=0.8,
    cancels=0.8,
    deletes=0.1,
    faults=only(kill=6, restart=1, expel=2, compact=3),
    targets="xp",
)
OUTRUN = Plan(
    faults=only(stun=3, expel=1), acts={"x": ("claimed",)}, targets="x", rate=1.5, responses=20, max_queue=30
)
"""Executors stop when they send a claim, and go on when another's has won."""
ZOMBIES = Plan(
    faults=only(follow=20, stun=2),
    acts={"x": ("call",)},
    targets="xr",
    rate=5,
    trouble=0,
    words=80,
    responses=12,
    kinds={"repeatable": 1},
    cancels=0,
    deletes=0,
    memories=(15_000,),
)
"""Executors are isolated when they call, run on, and come back when another has begun anew. Readers that come
then read the records of both.
"""
TARDY = Plan(
    faults=only(stun=1),
    acts={"i": ("accepted",)},
    targets="i",
    rate=1,
    acceptance_ms=3_000,
    repeats=1,
    responses=12,
    max_queue=20,
    words=2,
)
"""Ingests stop when they append an `accepted`: it comes when it is void, and its twin may have closed."""
NARROW = Plan(
    places=1,
    trouble=0.1,
    faults=only(kill=2, pause=2, expel=3, restart=1),
    targets="x",
    responses=20,
    max_queue=30,
    words=20,
)
"""Each executor may make one call at a time of each upstream, and executors die."""
LASTING = Plan(acceptance_ms=2_000, words=40, max_queue=40)
"""Responses outlive the acceptance window: a reader that starts has not seen where some of them began."""
UPGRADING = Plan(
    upgraded_s=25,
    seven=0,
    seconds=50,
    faults=only(restart=4, kill=3, pause=1, expel=1, reader=2, follow=6, compact=1),
    rate=1,
    words=20,
    responses=14,
    max_queue=20,
)
"""Processes of the version before and of today read and write one log; then only today's are left."""
GROWING = Plan(
    grown=5,
    keyed=0.4,
    repeats=0.2,
    returns=0.9,
    absence=12,
    responses=16,
    max_queue=30,
    deletes=0.05,
    words=60,
    faults=only(follow=12, kill=2, pause=2, expel=2, restart=1, reader=3, compact=1),
    rate=1,
)
"""Partitions are added, and clients come back with their keys."""
DELETING = Plan(deletes=0.9, repeats=0.6, targets="xp")
OVERTAKEN = Plan(
    seconds=60,
    deletes=1,
    responses=30,
    max_queue=40,
    targets="p",
    faults=only(restart=1),
    rate=0.5,
    overtaken=0.04,
    words=4,
    kinds={"resumable": 1},
)
"""Late records reach the views when no other projector lives: one that starts then must find them."""
MIXED = Plan(
    kinds={"mixed": 3, "resumable": 1},
    words=16,
    rate=2,
    trouble=0.2,
    responses=20,
    max_queue=30,
    deletes=0,
    cancels=0.05,
    faults=only(stun=6, kill=3),
    acts={"x": ("event",)},
    targets="x",
)
"""Items take turns, and executors die at every point of their events."""
READING = Plan(faults=only(follow=12, kill=3, pause=3, expel=3, slow=3, reader=3), rate=2)
EPHEMERAL = Plan(
    unstored=1,
    ephemeral=1,
    acceptance_ms=3_000,
    words=3,
    responses=14,
    max_queue=20,
    deletes=0.05,
    seconds=50,
    faults=only(follow=30, kill=2, pause=2, reader=2, expel=1, compact=1),
    targets="xpr",
    rate=3,
)
"""All responses are ephemeral, while all processes die and others come."""
EPHEMERAL_ASKED = Plan(unstored=1, ephemeral=1, chained=0.8, cancels=0.6, targets="ir")
"""The same, and what is asked of ingest leads there."""
ASKING = Plan(repeats=0.8, unsure=0.4, faults=only(pause=6, kill=3, reader=2, slow=2), targets="ir", rate=1)
"""Trouble for ingest and for the replays that it asks."""
ADMITTING = Plan(
    max_queue=2, most_open=6, responses=30, kinds={"resumable": 1}, words=60, cancels=0, unsure=0, faults={}
)
"""Many POSTs, little room, and no process dies: three ingests admit two each at most."""


class Rule(Struct, frozen=True):
    """A rule, what takes it away, and how its absence shows."""

    name: str
    number: str
    plant: Plant
    shows: tuple[str, ...]
    """First words of the promises that may be found broken; each of them alone is enough."""
    plan: Plan = field(default_factory=Plan)
    seeds: int = 60

    def is_shown_by(self, broken: str) -> bool:
        """Whether this promise, which was found broken, is one by which the rule's absence shows."""
        return any(re.match(rf"{re.escape(first)}(?!\w)", broken) for first in self.shows)


RULES: dict[str, Rule] = {}
SEEN = Path(__file__).with_name("seen.json")
"""The seed that noticed each plant when `--remember` was given last. It is tried first, which saves nearly
all of the hunt as long as the code plays that seed as it did then.
"""


def rule(
    number: str, *shows: str, plan: Plan | None = None, seeds: int = 60
) -> Callable[[Callable[[], Iterator[None]]], Plant]:
    """Register a plant under its function's name."""

    def register(function: Callable[[], Iterator[None]]) -> Plant:
        plant = contextmanager(function)
        name = function.__name__.replace("_", "-")
        assert name not in RULES
        RULES[name] = Rule(name, number, plant, shows or (number,), plan or Plan(), seeds)
        return plant

    return register


def remembered() -> dict[str, int]:
    """By a plant's name, the seed that noticed it."""
    return msgspec.json.decode(SEEN.read_bytes(), type=dict[str, int]) if SEEN.exists() else {}


def found(rule: Rule, first: int | None = None) -> tuple[int, Counter[str]] | None:
    """A seed that notices, and what it noticed; None when none does.

    The first one from `first` on; without that, the one that is remembered, or else the first from 0 on.
    """
    known = [seed for seed in [remembered().get(rule.name)] if first is None and seed is not None]
    with rule.plant():
        for seed in chain(known, range(first or 0, (first or 0) + rule.seeds)):
            broken = simulate(seed, rule.plan)
            seen = {what: n for what, n in broken.items() if rule.is_shown_by(what)}
            if seen:
                return seed, Counter(seen)
    return None
