"""Named points of the services' work. At a point nothing happens, unless a test watches.

    points.at("events queued", run, drafts)

A test that kills a process, takes a rule away or waits for something uses these names (tests/points.py), so
that code can move and the test stays. Each point is told with its subjects, which stand beside its name here.

    hop due                visit                  a create is about to be handed to ingest
    hop over               visit                  ingest has answered
    create taken           id, order              ingest has all of it
    append due             id, record             of a command
    append acknowledged    id, record
    client left            visit, making          it is gone; `making` is its create under way, if it is
    accepted read          partition, state, value
    claim made             id, attempt            a claim is decided
    claim queued           id, attempt
    claim won              id, attempt            it was read back, and counts
    run begun              run
    accepted wanted        run                    before the request is looked up
    past wanted            id                     before the log is read for what counted
    past read              id
    upstream wanted        run                    before the upstream is called
    upstream heard         run                    it has said something
    upstream written       run                    and that is queued
    events made            run, drafts            before they are queued
    events queued          run, drafts
    end made               run, ending            we end the response ourselves
    end queued             run, ending
    event read back        run
    response closed        id                     as the fold shows
    run over               run
    request made           lanes                  one Produce request of the writer
    request answered       lanes
    closings due           partition, dues        before the announcer sends them together, in this order
    usage counted          changes                a batch of closings is counted, and nothing of it is written
    usage due              group, pairs           before names, rows or the mark are appended
    usage written          group, pairs           and when they are acknowledged
    usage acknowledged     changes                the batch is: its offsets may be committed
    deliveries due         partition, records     of webhooks, before they are appended
    attempt due            delivery               of a webhook, before it is sent
    attempt over           delivery               before its outcome is appended
    checkpoints due        checkpoints            before they are committed
    checkpoints committed  checkpoints
    beat due
    beat read back                                one of mine
    following              partitions, tail       before newly owned partitions are followed
    draining               executor
    handing over           executor               what still runs is to be stopped
    last beat due
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

Point = Literal[
    "hop due",
    "hop over",
    "create taken",
    "append due",
    "append acknowledged",
    "client left",
    "accepted read",
    "claim made",
    "claim queued",
    "claim won",
    "run begun",
    "accepted wanted",
    "past wanted",
    "past read",
    "upstream wanted",
    "upstream heard",
    "upstream written",
    "events made",
    "events queued",
    "end made",
    "end queued",
    "event read back",
    "response closed",
    "run over",
    "request made",
    "request answered",
    "closings due",
    "usage counted",
    "usage due",
    "usage written",
    "usage acknowledged",
    "deliveries due",
    "attempt due",
    "attempt over",
    "checkpoints due",
    "checkpoints committed",
    "beat due",
    "beat read back",
    "following",
    "draining",
    "handing over",
    "last beat due",
]
POINTS: tuple[Point, ...] = get_args(Point)

watch: Callable[..., Any] | None = None
"""The function that a test has set. It is called at every point, with name and subjects. Code that each event
passes asks first whether it is set (`if points.watch`): that takes 15 ns, a call of `at` 70 (`python -m
timeit`).
"""


def at(name: Point, *subjects: object) -> None:
    """Tell the watching test, if any, that the work has come to this point."""
    if watch is not None:
        watch(name, *subjects)
