"""Services that end themselves by SIGKILL at one point of their work.

    python -m tests.reliability.doomed            forks doomed executors as it is told to
    python -m tests.reliability.doomed ingest     is such a service

The variable DIE_AT says where: `POINT`, `POINT:MODEL` for responses of one model only, `POINT:MODEL:N` at the
N-th time. The services do not know of it: the doomed process watches their named points (`services.points`).
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from threading import Thread
from typing import Any, NamedTuple

import msgspec

from schemas.events import IN_PROGRESS
from schemas.ids import ResponseId
from services import cli, points
from services.eventlog.kafka_lane import Lane
from services.executor.run import Run
from services.executor.scribe import Draft, Ending
from services.points import Point
from tests.written import kind_of

VARIABLE = "DIE_AT"
Ids = Iterable[str]
Pick = Callable[..., Ids | bool]
"""Of a named point's subjects: the responses that it is about (none: not here), or just whether."""


class Death(NamedTuple):
    """At which named point to die, and for which responses."""

    point: Point
    pick: Pick


def _records(kind: str, terminal: bool = False) -> Pick:
    """The responses of which the batches under way hold such a record."""

    def pick(lanes: Iterable[Lane]) -> list[str]:
        found = []
        for lane in lanes:
            for queued in (*(lane.batch.queued if lane.batch else ()), *lane.queue):
                ends = "terminal" in dict(queued.record.headers)
                if kind_of(queued.record) == kind and (ends or not terminal):
                    found.append(queued.record.key.decode().split("/")[0])
        return found

    return pick


def _first(id: str, attempt: int) -> list[str]:
    return [id] if attempt == 1 else []


def _later(id: str, attempt: int) -> list[str]:
    return [id] if attempt > 1 else []


def _begun(run: Run) -> list[str]:
    return _first(run.id, run.attempt)


def _drafted(terminal: bool) -> Pick:
    return lambda run, drafts: [run.id] if any(bool(d.terminal) is terminal for d in drafts) else []


def _beginning(run: Run, drafts: Iterable[Draft]) -> list[str]:
    return [run.id] if any(draft.type == IN_PROGRESS for draft in drafts) else []


def _lost(run: Run, ending: Ending) -> list[str]:
    return [run.id] if ending.type == "executor_lost" else []


def _of(run: Run, *_: object) -> list[str]:
    return [run.id]


def _id(id: str) -> list[str]:
    return [id]


def _any(*_: object) -> bool:
    return True


POINTS: dict[str, Death] = {
    "accepted is read": Death("accepted read", lambda _p, state, _v: [state.id]),
    "before the claim": Death("claim made", _first),
    "the claim is queued": Death("claim queued", _first),
    "the claim is on the wire": Death("request made", _records("claimed")),
    "the claim is acknowledged": Death("request answered", _records("claimed")),
    "the claim is read back": Death("claim won", _first),
    "the run is made": Death("run begun", _begun),
    "before the accepted value": Death("accepted wanted", _of),
    "before in_progress": Death("events made", _beginning),
    "after in_progress": Death("events queued", _beginning),
    "before the upstream call": Death("upstream wanted", _of),
    "the upstream has answered": Death("upstream heard", _of),
    "the first events are queued": Death("upstream written", _of),
    "an event is made, not queued": Death("events made", _drafted(terminal=False)),
    "an event is queued": Death("events queued", _drafted(terminal=False)),
    "an event is on the wire": Death("request made", _records("event")),
    "an event is acknowledged": Death("request answered", _records("event")),
    "an event is read back": Death("event read back", _of),
    "before the terminal append": Death("events made", _drafted(terminal=True)),
    "the terminal is queued": Death("events queued", _drafted(terminal=True)),
    "the terminal is on the wire": Death("request made", _records("event", terminal=True)),
    "the terminal is acknowledged": Death("request answered", _records("event", terminal=True)),
    "the terminal is read back": Death("response closed", _id),
    "the run is over": Death("run over", _of),
    "before the watermark commit": Death("checkpoints due", _any),
    "after the watermark commit": Death("checkpoints committed", _any),
    "before a beat": Death("beat due", _any),
    "a beat is read back": Death("beat read back", _any),
    "before a takeover": Death("claim made", _later),
    "the takeover is queued": Death("claim queued", _later),
    "the takeover is read back": Death("claim won", _later),
    "before the past is read": Death("past wanted", _id),
    "the past is read": Death("past read", _id),
    "before executor_lost": Death("end made", _lost),
    "executor_lost is queued": Death("end queued", _lost),
    "before draining": Death("draining", _any),
    "before the last beat": Death("last beat due", _any),
}
AT_INGEST: dict[str, Death] = {
    "a create is taken": Death("create taken", _any),
    "before an append": Death("append due", _any),
    "an append is acknowledged": Death("append acknowledged", _any),
}
AT_THE_DOOR: dict[str, Death] = {
    "before the hop": Death("hop due", _any),
    "behind the hop": Death("hop over", _any),
}


class Doom:
    """Counts down to the end of this process."""

    def __init__(self, text: str) -> None:
        self.point, _, rest = text.partition(":")
        self.model, _, times = rest.partition(":")
        self.times = int(times or 1)
        self.models: dict[str, str] = {}

    def met(self, about: Ids | bool) -> None:
        """Note that the point was reached, about these responses."""
        if isinstance(about, bool):
            hit = about
        else:
            hit = any(not self.model or self.models.get(id) == self.model for id in about)
        self.times -= hit
        if hit and self.times == 0:
            os.write(2, f"doomed at {self.point}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def learn(self, state: Any, value: bytes | None) -> None:
        """Which model a response asks for."""
        id: ResponseId = state.id
        self.models[id] = msgspec.json.decode(value or b"{}").get("request", {}).get("model", "")

    def watch(self, point: Point, *subjects: Any) -> None:
        """The work has come to a named point."""
        if point == "accepted read":
            self.learn(*subjects[1:])
        death = (POINTS | AT_INGEST | AT_THE_DOOR)[self.point]
        if point == death.point:
            self.met(death.pick(*subjects))


def nursery() -> None:
    """Fork a doomed executor for every line of standard input (its variables and its log, as JSON).

    Says `PID STATUS` when one ends: a status below 0 is the signal. What takes a second is imported once.
    All of them end with the nursery, whose end of a pipe is their standard input.
    """
    import_module("services.executor.app")
    watched, held = os.pipe()
    for line in sys.stdin:
        environ, log = msgspec.json.decode(line, type=tuple[dict[str, str], str])
        pid = os.fork()
        if not pid:
            os.close(held)
            os.dup2(watched, 0)
            sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(sink, 1)
            os.dup2(sink, 2)
            os.environ.update(environ)
            be("executor")
        os.write(1, f"{pid}\n".encode())
        Thread(target=_tell, args=(pid,), daemon=True).start()


def _tell(pid: int) -> None:
    _, status = os.waitpid(pid, 0)
    os.write(1, f"{pid} {os.waitstatus_to_exitcode(status)}\n".encode())


def be(service: str) -> None:
    """Be `rejoinder SERVICE` until the point is reached."""
    points.watch = Doom(os.environ[VARIABLE]).watch
    os._exit(cli.run([service, "--with-parent"]))


if __name__ == "__main__":
    if sys.argv[1:]:
        be(sys.argv[1])
    nursery()
