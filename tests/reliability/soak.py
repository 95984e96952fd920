"""`make soak`: thousands of responses while everything is killed again and again; then an audit from outside.

clients   POST with an Idempotency-Key until there is an answer, follow the stream across every death
killer    SIGKILL for one service after the other, for the broker now and then; each is started again
audit     every acknowledged response, as clients saw it, as two replays tell it, as the log has it

Then three brokers, of which one or more are away for a minute, in every way that `faults` knows.
"""

import argparse
import random
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from http.client import HTTPException
from pathlib import Path

from msgspec import Struct

from services.broker import BrokerError
from tests.api import request
from tests.reliability import audit, faults
from tests.reliability.cluster import SESSION_S, SHORT_SESSION_S, Cluster
from tests.reliability.rig import Broker, Rig, Service, portal
from tests.wire import Connection, Frame, MalformedError

TROUBLE = (OSError, AssertionError, HTTPException)
"""What a client may meet while a service is away."""
ENDS_S = 240.0
PAUSE_S = 0.1
"""Between two looks at what lives."""


class Plan(Struct, frozen=True):
    """How many responses and deaths, `at_once` responses at a time.

    The deaths are spread over the responses, so a quick machine sees as many as a slow one; two are at most
    some `pace_s` apart.
    """

    responses: int
    events: int
    kills: int
    broker_kills: int
    pace_s: float
    at_once: int
    seed: int = 1
    shards: int = 1
    """Of replay, behind nginx if there are several."""


class Soak:
    """One deployment on a broker of its own, its clients and its killer."""

    def __init__(self, plan: Plan, rig: Rig, broker: Broker) -> None:
        self.plan = plan
        self.rig = rig
        self.broker = broker
        self.seen: dict[str, list[Frame]] = {}
        self.killed: Counter[str] = Counter()
        self.rejoined = 0
        self.services = ("ingest", *rig.replays, "projector", "executor")
        self.running = (*self.services, "executor")
        self._chance = random.Random(plan.seed)
        self._over = threading.Event()

    def run(self) -> dict[str, object]:
        """Everything, and its figures."""
        began = time.monotonic()
        killer = threading.Thread(target=self._kill)
        killer.start()
        try:
            with ThreadPoolExecutor(self.plan.at_once) as pool:
                list(pool.map(self._client, range(self.plan.responses)))
        finally:
            self._over.set()
            killer.join()
        ran = time.monotonic() - began
        assert self.killed.total() == self.plan.kills + self.plan.broker_kills, self.killed
        self._all_at_once()
        records = self._audit()
        return {
            "responses": len(self.seen),
            "events": sum(map(len, self.seen.values())),
            "killed": dict(self.killed),
            "streams rejoined": self.rejoined,
            "seconds": round(ran),
            **records,
        }

    # A client.

    def _client(self, n: int) -> None:
        body = request(
            f"soak {n}", tokens=self.plan.events - 9, interval_ms=random.Random(n).choice((5, 20, 40))
        )
        id = self._create(body, f"soak-{self.plan.seed}-{n}")
        self.seen[id] = self._follow(id)

    def _create(self, body: dict[str, object], key: str) -> str:
        deadline = time.monotonic() + ENDS_S
        while True:
            assert time.monotonic() < deadline, f"{key} was never accepted"
            with suppress(*TROUBLE):
                answer = self.rig.api.post(body, {"Idempotency-Key": key})
                if answer.status == 200:
                    return str(answer.json["id"])
                assert answer.status in (429, 502, 503, 504), answer
            time.sleep(0.2)

    def _follow(self, id: str) -> list[Frame]:
        """Every frame of a response; after a break it rejoins behind the last one."""
        frames: list[Frame] = []
        deadline = time.monotonic() + ENDS_S
        while time.monotonic() < deadline:
            with suppress(OSError, HTTPException), self._stream(id, frames) as stream:
                if stream.status == 200:
                    for frame in stream.frames():
                        frames.append(frame)  # noqa: PERF402  # what came before a cut is kept
                    return frames
                if stream.status == 404:
                    raise MalformedError(f"{id} was acknowledged and is not found")
            self.rejoined += 1
            time.sleep(0.2)
        raise MalformedError(f"{id} did not end: {len(frames)} frames")

    def _stream(self, id: str, frames: list[Frame]) -> Connection:
        try:
            return self.rig.api.stream(id, len(frames) - 1)
        except AssertionError as error:  # the server died between the request and its answer
            raise ConnectionError(*error.args) from error

    # The killer.

    def _kill(self) -> None:
        plan = self.plan
        victims = [self.services[n % len(self.services)] for n in range(plan.kills)]
        for n in range(plan.broker_kills):
            victims.insert((n + 1) * len(victims) // (plan.broker_kills + 1), "broker")
        for n, victim in enumerate(victims, 1):
            due = plan.responses * n // (len(victims) + 1)
            latest = time.monotonic() + plan.pace_s * self._chance.uniform(0.5, 1.5)
            while len(self.seen) < due and time.monotonic() < latest:
                if self._over.wait(PAUSE_S):
                    return
                self._supervise()
            if victim == "broker":
                self.broker.kill()
                self._broker_again()
            else:
                self._one(victim).kill()
            self.killed[victim] += 1
        while not self._over.wait(PAUSE_S):
            self._supervise()

    def _one(self, name: str) -> Service:
        """A service that lives, as soon as there is one."""
        while not (living := self.rig.named(name)):
            self._supervise()
            time.sleep(PAUSE_S)
        return self._chance.choice(living)

    def _supervise(self) -> None:
        """Start each service that does not run: killed, or unable to start while the broker was away."""
        for name, wanted in Counter(self.running).items():
            for _ in range(wanted - len(self.rig.named(name))):
                self.rig.start(name)

    def _broker_again(self) -> None:
        for _ in range(5):
            with suppress(BrokerError):
                self.broker.start()
                return
        raise AssertionError("the broker does not start again")

    def _all_at_once(self) -> None:
        """Kill everything in one moment, and start it again."""
        alive = self.rig.alive
        for service in alive:
            service.process.kill()
        for service in alive:
            service.kill()
        self.rig.ready([self.rig.start(name) for name in self.running])

    # The audit.

    def _audit(self) -> dict[str, object]:
        assert len(self.seen) == self.plan.responses
        other, elsewhere = self.rig.another("replay")
        found, known = audit.check(self.rig, self.seen)
        with ThreadPoolExecutor(16) as pool:
            told = dict(zip(found, pool.map(elsewhere.events, found), strict=True))
        ends = Counter(frames[-1].event["response"]["status"] for frames in found.values())
        for id, frames in found.items():
            assert self.seen[id] == frames, f"{id}: a client saw something else live"
            assert told[id] == frames, f"{id}: two replays differ"
        twins = [why for id in found for why in known[id].not_counting]
        other.kill()
        attempts = Counter(known[id].attempts for id in found)
        return {"ends": dict(ends), "attempts": dict(attempts), "records that do not count": len(twins)}


def soak(plan: Plan, folder: Path) -> dict[str, object]:
    """Run `plan` on a deployment in `folder`; its figures. Raises AssertionError when a promise is broken."""
    with (
        portal() as loop,
        Broker(loop, folder / "broker") as broker,
        Rig(broker.start(), folder, loop, shards=plan.shards, partitions=8, grace_s=5) as rig,
    ):
        rig.start_all("executor")
        with rig.behind("nginx") if plan.shards > 1 else nullcontext():
            return Soak(plan, rig, broker).run()


def soak_brokers(folder: Path, away_s: float, only: str) -> dict[str, object]:
    """Every fault with Kafka's own session, and the two that are promised more with a short one."""
    told: dict[str, object] = {}
    for session_s, kinds in ((SESSION_S, faults.ALL), (SHORT_SESSION_S, (faults.DEAD, faults.HUNG))):
        wanted = [fault for fault in kinds if only in fault.name]
        if not wanted:
            continue
        at = folder / f"session-{session_s:g}"
        at.mkdir()
        with (
            portal() as loop,
            Cluster(loop, at, session_s) as cluster,
            Rig(cluster.bootstrap, at, loop, partitions=faults.PARTITIONS, replication=3) as rig,
        ):
            rig.start_all("executor")
            for fault in wanted:
                told[f"session {session_s:g} s: {fault.name}"] = faults.trial(rig, cluster, fault, away_s)
    return told


def main() -> None:
    """`python -m tests.reliability.soak`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--responses", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=50)
    parser.add_argument("--kills", type=int, default=40, help="SIGKILLs over all services")
    parser.add_argument("--broker-kills", type=int, default=6)
    parser.add_argument("--at-once", type=int, default=60)
    parser.add_argument("--pace", type=float, default=8.0, help="seconds between two deaths, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shards", type=int, default=1, help="of replay, behind nginx if several")
    parser.add_argument("--brokers", action="store_true", help="only the part with three brokers")
    parser.add_argument("--away", type=float, default=60.0, help="seconds that a broker is away")
    parser.add_argument("--fault", default="", help="only faults of brokers with this in their name")
    given = parser.parse_args()
    plan = Plan(
        given.responses,
        given.events,
        given.kills,
        given.broker_kills,
        given.pace,
        given.at_once,
        given.seed,
        given.shards,
    )
    with tempfile.TemporaryDirectory() as folder:
        found = {} if given.brokers else soak(plan, Path(folder))
        found |= soak_brokers(Path(folder), given.away, given.fault)
        for name, figure in found.items():
            print(f"{name:26} {figure}")


if __name__ == "__main__":
    main()
