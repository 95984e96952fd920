"""What goes wrong: processes die, stop, are cut off and lag, groups rebalance, the broker hangs, the log
shrinks.

    pause      the process stops (SIGSTOP) and goes on later, with all that came due or came in meanwhile
    isolate    the network is away: the process computes on, and its timers run
    sleep      a pause that is longer than anybody waits for
    mute       none of its commits reaches the group for long, so that the watermark grows old
    behind     its tail of the events stands still, and its beats go on
    stun       a pause or an isolation at the worst moment: just when the process is about to act. It ends
               when another process has acted
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from schemas.ids import ResponseId, response_id
from schemas.records import Headers, LogRecord, NewRecord
from services.eventlog.port import TopicPartition
from tests.simulation import clients, readers
from tests.simulation.node import SESSION, Node, response_of
from tests.simulation.processes import NAMES, ROLES, Process
from tests.simulation.promises import VIEWS

if TYPE_CHECKING:
    from tests.simulation.world import World

SLEEPS = (45, 70)
MUTE = (15, 40)
BROKER_PAUSES = (3, 12, 40)
STUN = 15.0
"""Seconds after which a stunned process comes back, though no other has acted for it."""
LATER: Headers = [("kind", b"unheard-of"), ("type", b"response.output_text.delta")]
ODD: list[Headers] = [[], [("kind", b"event")], [("type", b"odd")], LATER]
"""Headers that are empty, that say too little, or that are of a later version."""
READERS = 2
"""Fresh replays beside those that live from the start."""


class Faults:
    """Brings trouble to a world, each kind as often as the plan says."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._rng = world.rng
        self._stunned: dict[ResponseId, Node] = {}
        """The stunned processes, by the response on which each was about to act."""
        self._kinds: dict[str, Callable[[Process], Awaitable[None]]] = {
            "kill": lambda process: world.kill(process.name),
            "pause": self._pause,
            "isolate": self._isolate,
            "stun": self._stun,
            "sleep": self._sleep,
            "mute": self._mute,
            "expel": self._expel,
            "storm": self._storm,
            "restart": self._restart,
            "roll": self._roll,
            "poison": self._poison,
            "slow": self._slow,
            "behind": self._behind,
            "compact": self._compact,
            "retain": self._retain,
            "broker": self._broker,
            "reader": self._reader,
            "follow": self._follow,
        }

    async def run(self) -> None:
        """Bring trouble until cancelled."""
        weights = self._world.plan.faults
        while weights:
            await asyncio.sleep(self._rng.expovariate(self._world.plan.rate))
            self._replace_the_dead()
            kind = self._rng.choices(list(weights), list(weights.values()))[0]
            names = [name for name in self._world.processes if name[0] in self._world.plan.targets]
            if names:
                process = self._world.processes[self._rng.choice(names)]
                await self._kinds[kind](process)

    def _replace_the_dead(self) -> None:
        for role, count in ROLES.items():
            for index in range(count):
                if f"{role}{index}" not in self._world.processes and self._rng.random() < 0.5:
                    self._world.start(f"{role}{index}")

    async def _pause(self, process: Process) -> None:
        self.pause(process.node, self._rng.choice((1, 6, 15, 30)))

    async def _sleep(self, process: Process) -> None:
        self.pause(process.node, self._rng.choice(SLEEPS))

    async def _mute(self, process: Process) -> None:
        seconds = self._rng.choice(MUTE)
        self._world.say("mute", process.node, seconds)
        process.node.mute_until = self._world.loop.time() + seconds

    async def _isolate(self, process: Process) -> None:
        self.isolate(process.node, self._rng.choice((1, 6, 15, 30)), wholly=self._rng.random() < 0.5)

    async def _stun(self, process: Process) -> None:
        if acts := self._world.plan.acts.get(process.name[0]):
            process.node.ambush = self._rng.choice(acts)
            process.node.caught = lambda act, id: self._caught(process.node, act, id)

    def pause(self, node: Node, seconds: float, *, session: float = SESSION) -> None:
        """Stop a process for so long; its groups expel it when its session is over."""
        if node.held_since is None:
            self._world.say("pause", node, seconds)
            node.pause()
            self._let_go(node, seconds, session)

    def isolate(self, node: Node, seconds: float, *, wholly: bool, session: float = SESSION) -> None:
        """Cut a process off for so long, from the broker or from all; its session ends as well."""
        if node.held_since is None:
            self._world.say("isolate", node, seconds)
            node.isolate(wholly=wholly)
            self._let_go(node, seconds, session)

    def written(self, record: LogRecord) -> None:
        """Wake a process that was stunned when it was about to act on a response: another has acted."""
        if self._stunned and (node := self._stunned.pop(response_of(record), None)) is not None:
            seconds = self._rng.expovariate(1 / self._rng.choice((0.5, 5)))
            self._world.later(seconds, self._resume, node, node.held_since)

    def _caught(self, node: Node, act: str, id: ResponseId | None) -> None:
        """Isolate a process that is about to call its upstream: it goes on unheard. Pause it at any other
        act: it acts later, as a zombie.
        """
        self._world.say("stun", node, act, id)
        session = self._rng.uniform(0, SESSION)
        if act == "call":
            self.isolate(node, STUN, wholly=False, session=session)
        else:
            self.pause(node, STUN, session=session)
        if id is not None:
            self._stunned[id] = node

    def _let_go(self, node: Node, seconds: float, session: float) -> None:
        self._world.later(session, self._session_over, node, node.held_since)
        self._world.later(seconds, self._resume, node, node.held_since)

    @staticmethod
    def _session_over(node: Node, held_since: float) -> None:
        if node.held_since == held_since:
            expel(node)

    def _resume(self, node: Node, held_since: float | None) -> None:
        """Let a process go on, unless it does already, and let it rejoin the groups that expelled it."""
        if held_since is not None and node.held_since == held_since:
            self._world.say("resume", node)
            node.resume()
            self._world.background(rejoin(node), node)

    async def _expel(self, process: Process) -> None:
        self._world.say("rebalance", process.name)
        expel(process.node)
        self._world.background(rejoin(process.node), process.node)

    async def _storm(self, process: Process) -> None:
        self._world.say("storm of rebalances")
        for _ in range(self._rng.randint(2, 6)):
            await self._expel(self._world.processes[self._rng.choice(list(self._world.processes))])
            await asyncio.sleep(self._rng.expovariate(2))

    async def _restart(self, process: Process) -> None:
        """Restart a process as in a rolling update: tell it to stop, await it, replace it."""
        if process.node.held_since is None:
            self._world.background(self._world.restart(process.name))

    async def _roll(self, _: Process) -> None:
        """A rolling update of all executors, one after the other."""
        self._world.background(self._one_by_one())

    async def _one_by_one(self) -> None:
        for index in range(ROLES["x"]):
            process = self._world.processes.get(f"x{index}")
            if process is not None and process.node.held_since is None and not process.stop.is_set():
                await self._world.restart(process.name)

    async def _poison(self, _: Process) -> None:
        """Append an unreadable record (P-8), perhaps under the key of a run's next event (P-13)."""
        rng = self._rng
        partition = rng.randrange(self._world.partitions)
        told = [story for story in self._world.truth[partition].open() if story.claim is not None]
        if told and rng.random() < 0.5:
            story = rng.choice(told)
            key = f"{story.id}/{story.claim}/{len(story.frames)}".encode()
            self._world.log.append_now(TopicPartition(NAMES.events, partition), NewRecord(key, b"{", LATER))
            return
        key = f"{response_id(partition, rng.randbytes(16))}/odd/{clients.nonce(rng)}".encode()
        record = NewRecord(key, b"{", rng.choice(ODD))
        sources = [TopicPartition(NAMES.events, partition), TopicPartition(NAMES.executors, 0)]
        self._world.log.append_now(rng.choice(sources), record)

    async def _slow(self, process: Process) -> None:
        node = process.node
        node.lag = self._rng.choice((0.2, 1, 3))
        self._world.say("slow", node, node.lag)
        self._world.later(self._rng.choice((2, 10)), self.hurry, node)

    def hurry(self, node: Node) -> None:
        """Let a process read as fast as it can again."""
        node.disturb()
        node.lag = 0

    async def _behind(self, process: Process) -> None:
        """Let a process's tail of the events stand still, while its beats go on."""
        seconds = self._rng.choice((6, 15, 30))
        self._world.say("behind", process.node, seconds)
        process.node.behind_until = self._world.loop.time() + seconds

    async def _broker(self, _: Process) -> None:
        seconds = self._rng.choice(BROKER_PAUSES)
        self._world.say("broker pause", seconds)
        self._world.log.gate.clear()
        await asyncio.sleep(seconds)
        self.broker_goes_on(expelled=seconds > SESSION)

    def broker_goes_on(self, *, expelled: bool) -> None:
        """Let all go on at once. If no sign of life came through for long, no group has a member left."""
        nodes = [process.node for process in self._world.processes.values()]
        for node in nodes if expelled else []:
            expel(node)
        self._world.log.gate.set()
        for node in nodes if expelled else []:
            self._world.background(rejoin(node, after=self._rng.expovariate(1)), node)

    async def _compact(self, _: Process) -> None:
        """Compact: of events only those that no starting reader would read, of transcripts and entries those
        that are old enough (P-92), of objects anything.
        """
        world = self._world
        for partition in range(world.partitions):
            before = world.promises.needed(partition)
            world.say("compact", partition, before)
            world.log.compact_below(TopicPartition(NAMES.events, partition), before, tombstones=True)
            for topic in VIEWS:
                source = TopicPartition(topic, partition)
                before = self._rng.randint(0, world.log.end(source))
                if topic != NAMES.responses:
                    before = min(before, world.promises.compacted_below(source))
                world.log.compact_below(source, before, tombstones=True)
        world.promises.check_folds()
        world.promises.check_entries()

    async def _retain(self, _: Process) -> None:
        """Take the records that no starting reader would read any more (P-62)."""
        world = self._world
        for partition in range(world.partitions):
            before = world.promises.needed(partition)
            world.say("retain", partition, before)
            world.log.retain(NAMES.events, partition, before)
        world.promises.check_folds()

    async def _reader(self, _: Process) -> None:
        fresh = [name for name in self._world.processes if name.startswith("rf")]
        if len(fresh) < READERS:
            self._world.start(f"rf{self._world.started}")

    async def _follow(self, _: Process) -> None:
        """A client reads a response from some replay."""
        world = self._world
        replays = [process for process in world.processes.values() if process.reader is not None]
        stories = [story for truth in world.truth for story in truth.stories.values()]
        if replays and stories:
            process, story = self._rng.choice(replays), self._rng.choice(stories)
            reading = world.background(readers.follow(world, process, story), process.node)
            process.connections.append(reading)


def expel(node: Node) -> None:
    """Make the node's groups drop it, as if they had heard nothing of it for a session."""
    for membership in node.memberships:
        membership.inner.expel()


async def rejoin(node: Node, after: float = 0) -> None:
    """`after` seconds later the node learns that its groups dropped it, and joins them again."""
    await asyncio.sleep(after)
    await node.passage()
    for membership in node.memberships:
        if not membership.inner.member:
            await membership.rejoin()
