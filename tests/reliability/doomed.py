"""Executors that end themselves by SIGKILL at one point of their work: `python -m tests.reliability.doomed`.

The variable DIE_AT says where: `POINT`, `POINT:MODEL` for responses of one model only, `POINT:MODEL:N` at the
N-th time. The services know nothing of it: their functions are wrapped here, in the doomed process alone.
"""

import functools
import inspect
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
from services import cli
from services.config import Route
from services.eventlog.kafka_lane import Lane
from services.eventlog.kafka_writer import KafkaWriter
from services.executor import executor as executor_module
from services.executor.beats import Beats
from services.executor.engine import Engine
from services.executor.executor import Executor
from services.executor.history import History
from services.executor.liveness import Liveness
from services.executor.partition import Partition
from services.executor.run import Run
from services.executor.scribe import Draft, Ending
from services.executor.work import Worker

VARIABLE = "DIE_AT"
Ids = Iterable[str]
Pick = Callable[..., Ids | bool]
"""Of the wrapped call's arguments: the responses that it is about (none: not here), or just whether."""


class Point(NamedTuple):
    """Before or after which call to die, and for whom."""

    owner: Any
    function: str
    after: bool
    pick: Pick


def _records(lanes: Iterable[Lane], kind: bytes, terminal: bool = False) -> list[str]:
    """The responses of which the batches under way hold such a record."""
    found = []
    for lane in lanes:
        for queued in (*(lane.batch.queued if lane.batch else ()), *lane.queue):
            headers = dict(queued.record.headers)
            if headers.get("kind") == kind and (not terminal or "terminal" in headers):
                found.append(queued.record.key.decode().split("/")[0])
    return found


def _claimed(attempts: Callable[[int], bool]) -> Pick:
    return lambda _engine, _partition, id, attempt: [id] if attempts(attempt) else []


def _won(attempts: Callable[[int], bool]) -> Pick:
    return lambda _engine, _partition, state, _sent: [state.id] if attempts(state.attempt) else []


def _drafted(terminal: bool) -> Pick:
    return lambda run, drafts: [run.id] if any(bool(d.terminal) is terminal for d in drafts) else []


def _beginning(run: Run, drafts: Iterable[Draft]) -> list[str]:
    return [run.id] if any(draft.type == IN_PROGRESS for draft in drafts) else []


def _first(attempt: int) -> bool:
    return attempt == 1


def _later(attempt: int) -> bool:
    return attempt > 1


def _lost(run: Run, _scribe: object, ending: Ending) -> list[str]:
    return [run.id] if ending.type == "executor_lost" else []


POINTS: dict[str, Point] = {
    "accepted is read": Point(Partition, "accept", True, lambda _p, state, *_: [state.id]),
    "before the claim": Point(Engine, "claim", False, _claimed(_first)),
    "the claim is queued": Point(Engine, "claim", True, _claimed(_first)),
    "the claim is on the wire": Point(
        KafkaWriter, "_exchange", False, lambda _w, _n, lanes: _records(lanes, b"claimed")
    ),
    "the claim is acknowledged": Point(
        KafkaWriter, "_answered", False, lambda _w, lanes, _a: _records(lanes, b"claimed")
    ),
    "the claim is read back": Point(Engine, "_won", False, _won(_first)),
    "the run is made": Point(Engine, "_won", True, _won(_first)),
    "before the accepted value": Point(Worker, "_accepted", False, lambda _w, _p, state: [state.id]),
    "before in_progress": Point(Run, "_post", False, _beginning),
    "after in_progress": Point(Run, "_post", True, _beginning),
    "before the upstream call": Point(Run, "narrate", False, lambda run, *_: [run.id]),
    "the upstream has answered": Point(Run, "_write", False, lambda run, _s, _b: [run.id]),
    "the first events are queued": Point(Run, "_write", True, lambda run, _s, _b: [run.id]),
    "an event is made, not queued": Point(Run, "_post", False, _drafted(False)),
    "an event is queued": Point(Run, "_post", True, _drafted(False)),
    "an event is on the wire": Point(
        KafkaWriter, "_exchange", False, lambda _w, _n, lanes: _records(lanes, b"event")
    ),
    "an event is acknowledged": Point(
        KafkaWriter, "_answered", False, lambda _w, lanes, _a: _records(lanes, b"event")
    ),
    "an event is read back": Point(Run, "read_back", True, lambda run, _n: [run.id]),
    "before the terminal append": Point(Run, "_post", False, _drafted(True)),
    "the terminal is queued": Point(Run, "_post", True, _drafted(True)),
    "the terminal is on the wire": Point(
        KafkaWriter, "_exchange", False, lambda _w, _n, lanes: _records(lanes, b"event", terminal=True)
    ),
    "the terminal is acknowledged": Point(
        KafkaWriter, "_answered", False, lambda _w, lanes, _a: _records(lanes, b"event", terminal=True)
    ),
    "the terminal is read back": Point(Engine, "_closed", False, lambda _e, _p, id, *_: [id]),
    "the run is over": Point(Engine, "_done", True, lambda _e, run: [run.id]),
    "before the watermark commit": Point(
        executor_module, "commit", False, lambda steward, *_: any(steward.watermarks())
    ),
    "after the watermark commit": Point(executor_module, "commit", True, lambda *_: True),
    "before a beat": Point(Beats, "_record", False, lambda *_: True),
    "a beat is read back": Point(Liveness, "beat", True, lambda me, id: id == me._me),
    "before a takeover": Point(Engine, "claim", False, _claimed(_later)),
    "the takeover is queued": Point(Engine, "claim", True, _claimed(_later)),
    "the takeover is read back": Point(Engine, "_won", False, _won(_later)),
    "before the past is read": Point(History, "past", False, lambda _h, _p, id, *_: [id]),
    "the past is read": Point(
        Worker, "_past", True, lambda _w, _p, state: [state.id] if _later(state.attempt) else []
    ),
    "before executor_lost": Point(Run, "finish", False, _lost),
    "executor_lost is queued": Point(Run, "finish", True, _lost),
    "before draining": Point(Executor, "_drain", False, lambda *_: True),
    "before the last beat": Point(Beats, "leave", False, lambda *_: True),
}  # fmt: skip


class Doom:
    """Counts down to the end of this process."""

    def __init__(self, text: str) -> None:
        self.point, _, rest = text.partition(":")
        self.model, _, times = rest.partition(":")
        self.times = int(times or 1)
        self.models: dict[str, str] = {}

    def met(self, about: Ids | bool) -> None:
        """The point was reached, about these responses."""
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

    def wrap(self, point: Point) -> None:
        """Die before, or after, the wrapped function."""
        wrapped = getattr(point.owner, point.function)
        if inspect.iscoroutinefunction(wrapped):
            around = self._around_async(wrapped, point)
        else:
            around = self._around(wrapped, point)
        setattr(point.owner, point.function, functools.wraps(wrapped)(around))

    def _around(self, wrapped: Callable[..., Any], point: Point) -> Callable[..., Any]:
        def around(*args: Any, **kwargs: Any) -> Any:
            if not point.after:
                self.met(point.pick(*args))
            result = wrapped(*args, **kwargs)
            if point.after:
                self.met(point.pick(*args))
            return result

        return around

    def _around_async(self, wrapped: Callable[..., Any], point: Point) -> Callable[..., Any]:
        async def around(*args: Any, **kwargs: Any) -> Any:
            if not point.after:
                self.met(point.pick(*args))
            result = await wrapped(*args, **kwargs)
            if point.after:
                self.met(point.pick(*args))
            return result

        return around


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
            executor()
        os.write(1, f"{pid}\n".encode())
        Thread(target=_tell, args=(pid,), daemon=True).start()


def _tell(pid: int) -> None:
    _, status = os.waitpid(pid, 0)
    os.write(1, f"{pid} {os.waitstatus_to_exitcode(status)}\n".encode())


def executor() -> None:
    """Be `rejoinder executor` until the point is reached."""
    doom = Doom(os.environ[VARIABLE])
    accept = Partition.accept

    def learning(partition: Partition, state: Any, value: bytes | None, route: Route | None) -> None:
        doom.learn(state, value)
        accept(partition, state, value, route)

    Partition.accept = learning  # type: ignore[assignment, method-assign]
    doom.wrap(POINTS[doom.point])
    os._exit(cli.run(["executor", "--with-parent"]))


if __name__ == "__main__":
    nursery()
