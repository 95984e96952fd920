"""The world: one seeded run of real processes over a simulated log, and its outcome."""

import asyncio
import gc
import hashlib
import secrets
import time
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from random import Random
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace
from structlog.testing import capture_logs

from schemas.ids import ResponseId, partition_of
from schemas.installation import key_partitions_in
from schemas.records import ONE_HEADER, SEVEN_HEADERS, NewRecord
from services.eventlog import transcript
from services.eventlog.memory_partition import MemoryRecord
from services.eventlog.port import TopicPartition
from services.ingest import gauge
from services.settings import Settings
from tests.simulation import clients, door, ingest, processes, readers
from tests.simulation.answers import Answers
from tests.simulation.clockwork import play
from tests.simulation.faults import Faults, rejoin
from tests.simulation.log import SimLog
from tests.simulation.node import Node
from tests.simulation.plan import Plan
from tests.simulation.processes import NAMES, PARTITIONS, ROLES, Process
from tests.simulation.promises import EXECUTORS, PROJECTORS, SIGNS_OF_LIFE, VIEWS, Promises
from tests.simulation.truth import Story, Truth
from tests.simulation.upstream import Chains, Upstreams
from tests.stores import MemoryDisk

EPOCH = 1_700_000_000_000
LATE = 20
"""Seconds after which a late writer writes."""
DRAIN = 2
"""Seconds that a replay which is told to stop has for what is under way."""
CALM = 90
"""Seconds after the trouble within which everything must have come to its end."""


class World:
    """One seeded run. `broken` counts the promises that were not kept."""

    def __init__(self, seed: int, plan: Plan, *, trace: bool = False) -> None:
        self.rng = Random(seed)
        self.plan = plan
        self.settings = Settings(
            acceptance_ms=plan.acceptance_ms,
            skew_ms=2_000,
            slots=plan.slots,
            grace_s=plan.grace,
            max_attempts=plan.max_attempts,
            max_queue=plan.max_queue,
            ephemeral_s=plan.ephemeral_s,
        )
        self.broken: Counter[str] = Counter()
        self.partitions = PARTITIONS
        """How many partitions there are by now."""
        self.truth = [Truth(int(plan.ephemeral_s * 1000)) for _ in range(plan.grown or PARTITIONS)]
        self.created: list[ResponseId] = []
        """The responses whose ids clients have heard."""
        self.processes: dict[str, Process] = {}
        self.started = 0
        self.left: set[str] = set()
        """The executors whose last beat said that they leave."""
        self.promises = Promises(self)
        self.answers = Answers(self)
        self.digest = hashlib.sha256()
        self._trace = trace
        self._executors: dict[str, Process] = {}
        self._disks: dict[str, MemoryDisk] = {}
        """Of replays, by name: one that is started again finds what it had."""
        self._background: dict[asyncio.Task[Any], None] = {}

    async def run(self) -> None:
        """The trouble, then calm, then the reckoning."""
        self.loop, self._context = asyncio.get_running_loop(), copy_context()
        counts = dict.fromkeys((NAMES.events, *VIEWS, NAMES.closings), PARTITIONS)
        self.log = SimLog(
            counts | {NAMES.executors: 1, NAMES.installation: 1},
            self.now,
            self._appended,
            self.promises.committed,
        )
        for group in (EXECUTORS, PROJECTORS):
            self.log.watch_checkpoints(group)
        self._faults = Faults(self)
        for role, count in ROLES.items():
            for index in range(count):
                self.start(f"{role}{index}")
        clientele = [asyncio.create_task(clients.client(self)) for _ in range(self.plan.responses)]
        trouble = asyncio.create_task(self._faults.run())
        if self.plan.upgraded_s:
            self.background(self._upgrade())
        if self.plan.grown:
            self.background(self._grow())
        await asyncio.sleep(self.plan.seconds)
        trouble.cancel()
        await self._calm_down(clientele)
        await self._reckon()
        for name in list(self.processes):
            await self.kill(name)

    # Clock and trace, for all modules.

    def now(self) -> int:
        """Log time, ms."""
        return EPOCH + int(self.loop.time() * 1000)

    def say(self, *words: object) -> None:
        """Add a line to the trace."""
        line = " ".join((f"{self.loop.time():8.3f}", *map(str, words)))
        self.digest.update(line.encode())
        if self._trace:
            print(line)

    def bad(self, what: str, *words: object) -> None:
        """Count promise `what` as broken."""
        self.broken[what] += 1
        self.say("!!!", what, *words)

    def story(self, id: ResponseId) -> Story:
        """What is true of response `id`, by the log alone."""
        return self.truth[partition_of(id)].story(id)

    def later(self, seconds: float, act: Callable[..., Any], *arguments: Any) -> None:
        """Call `act` in so many seconds."""
        self.loop.call_later(seconds, act, *arguments, context=self._context)

    def background(self, act: Coroutine[Any, Any, Any], node: Node | None = None) -> asyncio.Task[Any]:
        """Run `act` meanwhile: in the process of `node`, or in none."""
        task = self.loop.create_task(act, context=self._context if node is None else node.context)
        self._background[task] = None
        task.add_done_callback(lambda task: self._background.pop(task))
        return task

    def lives(self, executor: str) -> bool:
        """Whether no process can have reason to think that an executor is gone."""
        process = self._executors[executor]
        node = process.node
        sound = node.alive and not process.task.done() and executor not in self.left
        quiet = self.loop.time() - node.disturbed_at > SIGNS_OF_LIFE and not node.lag
        return sound and quiet and node.held_since is None

    def undisturbed(self, roles: str, seconds: float) -> bool:
        """Whether no process of these `roles` was disturbed, held, late or born for so many seconds."""
        since = self.loop.time() - seconds
        nodes = [process.node for process in self.processes.values() if process.name[0] in roles]
        sound = [
            node for node in nodes if node.disturbed_at < since and node.held_since is None and not node.lag
        ]
        old = [node for node in sound if node.born_at <= max(since, 0)]
        return len(old) == len(nodes) >= sum(ROLES[role] for role in roles)

    def runs_at(self, executor: str, node: Node) -> bool:
        """Whether `node` is the door of an executor."""
        return self._executors[executor].node is node

    # Processes.

    def start(self, name: str, trouble: float | None = None) -> Process:
        """Start a process, perhaps under an earlier one's name: an executor's id is always new."""
        self.started += 1
        usual = {"i": self.plan.unsure, "r": self.plan.breaks}.get(name[0], self.plan.trouble)
        old = self.loop.time() < self.plan.upgraded_s and self.rng.random() < 0.5
        node = Node(name, self.log, self.rng, trouble=usual if trouble is None else trouble, old=old)
        settings = replace(self.settings, records=self._form())
        match name[0]:
            case "x":
                chains = Chains(node, lambda id: self.story(ResponseId(id)))
                streams = self.promises.streams
                upstreams = Upstreams(
                    node, self.promises.called, self.promises.conduct.taken, streams, self.plan.places
                )
                process = processes.executor(name, node, settings, upstreams, chains)
                self._executors[process.me] = process
                node.on_assignment = lambda owned: self.promises.conduct.assigned(process.me, owned)
            case "p":
                node.on_append = lambda source, record: self._written(node, source, record)
                process = processes.projector(name, node, self.settings)
            case "i":
                node.delays = (0.1, 5, 20)
                find, clock = self._some_replay, self._clock()
                terms = (self.settings, self.partitions, find, self.background, clock)
                process = ingest.start(name, node, *terms)
            case _:
                memory = self.rng.choice(self.plan.memories)
                disk = self._disks.setdefault(name, MemoryDisk())
                process = processes.replay(name, node, self.settings, self.partitions, memory, disk)
                doors = (self._some_ingest, self.background, self._clock())
                process.door = door.open_door(process, self.settings, *doors)
        self.say("start", name, process.me)
        self.processes[name] = process
        return process

    async def kill(self, name: str) -> None:
        """Kill a process, as SIGKILL does: what is under way may still arrive."""
        process = self.processes.pop(name)
        self.say("kill", name)
        process.node.kill()
        for connection in process.connections:
            connection.cancel()
        process.task.cancel()
        await asyncio.wait([process.task], timeout=100)
        self._autopsy(process)

    async def restart(self, name: str) -> None:
        """Stop a process, as SIGTERM does, and start a fresh one."""
        process = self.processes[name]
        if process.reader is not None:
            await self._drain(process)
            if self.processes.get(name) is not process:
                return
            await self.kill(name)
        else:
            self.say("stop", name)
            process.stop.set()
            await asyncio.wait([process.task], timeout=100)
            if self.processes.get(name) is not process:
                return
            del self.processes[name]
            process.node.kill()
            self._autopsy(process)
        self.start(name, process.node.trouble)

    async def _drain(self, process: Process) -> None:
        """Drain a server, as `services.web.server` does: cut streams, give the rest a moment to finish."""
        self.say("drain", process.name)
        process.stop.set()
        for client in process.clients:
            client.draining = True
            if client.streaming:
                client.abort()
        await asyncio.sleep(DRAIN)

    def _appended(self, source: TopicPartition, record: MemoryRecord) -> None:
        self.promises.appended(source, record)
        self._faults.written(record)

    def _written(self, node: Node, source: TopicPartition, record: NewRecord) -> None:
        """A projector has just asked for an append: perhaps make it a late writer."""
        self.promises.announcements.asked(node, source)
        shown = source.topic in (NAMES.transcripts, NAMES.index) and record.value is not None
        if not self.plan.overtaken or not shown or record.key.endswith(b"/gone"):
            return
        awake = node.held_since is None and self.loop.time() < self.plan.seconds
        if awake and self.rng.random() < self.plan.overtaken:
            self._faults.pause(node, LATE)
            self.later(LATE, self._kill_projectors, lambda other: other is not node)
            self.later(LATE + self.rng.expovariate(3), self._kill_projectors, lambda other: other is node)

    def _kill_projectors(self, wanted: Callable[[Node], bool]) -> None:
        """Let no projector see a late writer's record: the others that are awake die, and then the writer."""
        projectors = [process for process in self.processes.values() if process.name[0] == "p"]
        for process in projectors if self.loop.time() < self.plan.seconds else []:
            if process.node.held_since is None and wanted(process.node):
                self.background(self.kill(process.name))

    def _form(self) -> int:
        """The form of the events that a process writes: the earlier one while a process cannot read the
        later one (P-15), and by chance after that.
        """
        upgrading = self.loop.time() < self.plan.upgraded_s
        upgrading = upgrading or any(process.node.old for process in self.processes.values())
        return SEVEN_HEADERS if upgrading or self.rng.random() < self.plan.seven else ONE_HEADER

    async def _upgrade(self) -> None:
        """Replace the last processes of the version before when the upgrade's time is over."""
        await asyncio.sleep(self.plan.upgraded_s)
        for name, process in list(self.processes.items()):
            if process.node.old and self.processes.get(name) is process:
                await self.kill(name)
                if name not in self.processes:
                    self.start(name)

    async def _grow(self) -> None:
        """Add partitions, to the events last (P-143), once it stands where keys lead (P-142)."""
        await asyncio.sleep(self.rng.uniform(0.1, 0.6) * self.plan.seconds)
        while key_partitions_in(self.log.records(NAMES.installation, 0)) is None:
            await asyncio.sleep(1)
        for topic in (*VIEWS, NAMES.closings, NAMES.events):
            await asyncio.sleep(self.rng.expovariate(1))
            self.say("grow", topic, self.plan.grown)
            self.log.grow(topic, self.plan.grown)
        self.partitions = self.plan.grown

    def _clock(self) -> Callable[[], int]:
        """A process's own clock, which is wrong by the skew at most."""
        skew = self.rng.randint(-self.settings.skew_ms, self.settings.skew_ms)
        return lambda: self.now() + skew

    def _some_ingest(self, brief: bool) -> Process | None:
        ingests = [process for process in self.processes.values() if process.commands is not None]
        fit = [one for one in ingests if ingest.brief(one.name) == brief and not one.stop.is_set()]
        return self.rng.choice(fit) if fit else None

    def _some_replay(self) -> Process | None:
        replays = [process for process in self.processes.values() if process.reader is not None]
        return self.rng.choice(replays) if replays else None

    def _autopsy(self, process: Process) -> None:
        if not process.task.done():
            self.bad("a process does not stop", process.name)
        elif not process.task.cancelled() and (error := process.task.exception()):
            self.bad("a process died by itself", repr(error))
            if self._trace:
                traceback.print_exception(error)

    # The end.

    async def _calm_down(self, clientele: list[asyncio.Task[None]]) -> None:
        """Wake all processes and end all faults. All that is still to be done must be done by a deadline."""
        self.say("calm")
        self.log.gate.set()
        for process in list(self.processes.values()):
            process.node.trouble, process.node.lag, process.node.ambush = 0, 0, None
            process.node.behind_until = process.node.mute_until = 0
            process.node.resume()
            await self.background(rejoin(process.node), process.node)
        for role, count in ROLES.items():
            for index in range(count):
                if f"{role}{index}" not in self.processes:
                    self.start(f"{role}{index}", trouble=0)
        await asyncio.gather(*clientele)
        deadline = self.loop.time() + CALM
        await asyncio.sleep(25)  # for what is still in flight
        while self.promises.kept() and self.loop.time() < deadline:
            await asyncio.sleep(1)

    async def _reckon(self) -> None:
        for what in self.promises.kept():
            self.bad(*what.split(" ", 1))
        self.promises.check_folds()
        self.promises.check_stories()
        self.answers.check()
        await self._audit("r-last")
        for source in (TopicPartition(t, p) for t in (NAMES.events, *VIEWS) for p in range(self.partitions)):
            self.log.compact_below(source, self.log.end(source), tombstones=False)
        self.promises.check_folds()
        self.promises.check_erased()
        self.promises.check_entries()
        await self._audit("r-compacted")

    async def _audit(self, fresh: str) -> None:
        """Check that all replays, and one that starts now as `fresh`, tell the truth."""
        self.start(fresh, trouble=0)
        for name in [name for name in self.processes if name[0] == "r"]:
            await readers.audit(self, self.processes[name])


def simulate(seed: int, plan: Plan | None = None, *, trace: bool = False) -> Counter[str]:
    """Play one seed. Returns which promises were broken, and how often."""
    return played(seed, plan or Plan(), trace=trace).broken


def played(seed: int, plan: Plan, *, trace: bool = False) -> World:
    """Play one seed to its end. Nothing in it depends on anything but the seed and the plan."""
    world = World(seed, plan, trace=trace)
    gc.disable()  # finalizers would run when they like
    try:
        with (
            capture_logs(),  # kept from the terminal, and given back as they were
            patch.object(secrets, "token_bytes", world.rng.randbytes),
            patch.object(time, "time", _epoch),
            patch.object(transcript, "CHUNK_BYTES", 700),
            patch.object(gauge, "PERIOD_S", 10),
        ):
            play(world.run())
    finally:
        gc.enable()
    return world


def _epoch() -> float:
    return EPOCH / 1000 + asyncio.get_running_loop().time()
