"""Which replay serves which partition, as one process knows it.

    REJOINDER_REPLAY_URL   where to begin: the internal ports of replays, each perhaps of several replicas
    every second           each is asked what it serves (`Serving`); one that hangs holds up no other
    replays that it names  are asked as well, so a list that is out of date does no harm
    a partition            is asked of those who said that they serve it: first of those that answer, and
                           among them of those that have read the log to its end

What a replay said last holds while it is silent. A replay that was not heard yet, or is of a version that
does not say what it serves, may serve any partition: it says `misrouted` if it does not.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import aiohttp
import msgspec
import structlog

from services.fits import between_commas
from services.settings import Settings
from services.web.internal import SERVING_PATH, Report, Serving
from services.web.metrics import REPLAYS_SILENT
from services.web.peer import Peer

PERIOD_S = 1.0
"""Seconds between two questions what a replay serves."""
LOOK_S = 2.0
"""Seconds that it has to answer."""
BOUND = 4 << 20
"""Bytes of the largest answer."""

_serving = msgspec.json.Decoder(Serving).decode
log = structlog.get_logger(__name__)


def replays_of(settings: Settings, tls: ssl.SSLContext | None) -> "Replays":
    """The replays that the settings name, asked by `tls` if given."""
    stall_s, secret = settings.stall_s, settings.internal_secret
    urls = between_commas(settings.replay_url)
    return Replays.at(urls, lambda url: Peer(url, stall_s=stall_s, secret=secret, tls=tls))


class ReplayPort:
    """The internal port of a replay, or of several replicas that serve the same partitions."""

    def __init__(self, peer: Peer, *, learned: bool = False) -> None:
        self.peer = peer
        self.url = str(peer.url(""))
        self.report = Report(self.url)
        self.learned = learned
        """Whether another replay named it, and not our settings."""
        self.serving: Serving | None = None
        """What it said last."""
        self._served: frozenset[int] = frozenset()
        self.answers = True
        """Whether it answered when it was last asked."""
        self._looking: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<replay {self.url} of {'any' if self.serving is None else len(self._served)} partitions>"

    def may_serve(self, partition: int) -> bool:
        """Whether it serves the partition, or can tell: it has not said what it serves, or does not know the
        partition, and may find that there is none.
        """
        return self.serving is None or partition in self._served or partition >= self.serving.count

    def serves(self, partition: int) -> bool:
        """Whether it said that it serves the partition."""
        return partition in self._served

    @property
    def behind(self) -> bool:
        """Whether it said that it still reads the log."""
        return self.serving is not None and not self.serving.caught_up

    def rank(self, partition: int) -> tuple[bool, bool, bool, bool]:
        """Its place among those that may serve the partition: the least is to be asked first."""
        return not self.serves(partition), not self.answers, self.behind, self.serving is not None

    @property
    def public_url(self) -> str:
        """The URL of its public port; "" if that is not known."""
        host = self.peer.url("").host
        if self.serving is None or host is None:
            return ""
        return f"http://{f'[{host}]' if ':' in host else host}:{self.serving.port}"

    def look(self, heard: Callable[[Serving], None]) -> None:
        """Begin to ask what it serves, unless that is under way. `heard` is called with what it says."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(heard))

    async def close(self) -> None:
        """Stop asking, and close the connections."""
        if self._looking is not None:
            self._looking.cancel()
        await self.peer.close()

    async def _look(self, heard: Callable[[Serving], None]) -> None:
        try:
            async with asyncio.timeout(LOOK_S), self.peer.session.get(self.peer.url(SERVING_PATH)) as answer:
                body = await self.peer.read(answer, BOUND)
            self.answers = answer.status in (200, 404)  # 404: it is of a version that serves all partitions
            if answer.status != 200:
                return
            said = _serving(body)
        except (aiohttp.ClientError, OSError, msgspec.DecodeError, UnicodeDecodeError):
            self.answers = False  # what asks it for something tells the operator why
            return
        if said != self.serving:
            log.info("replay serves", url=self.url, partitions=len(said.partitions))
        self.serving, self._served = said, frozenset(said.partitions)
        heard(said)


class Replays:
    """The replays that one process asks. `peers` are those of its settings; `peer_at` makes one of a URL that
    a replay has named (None: only those of the settings are asked).
    """

    def __init__(self, peers: Sequence[Peer], peer_at: Callable[[str], Peer] | None = None) -> None:
        self._ports = [ReplayPort(peer) for peer in peers]
        self._peer_at = peer_at
        self._turns = count()

    @classmethod
    def at(cls, urls: Sequence[str], peer_at: Callable[[str], Peer]) -> "Replays":
        """Those at `urls`."""
        return cls([peer_at(url) for url in urls], peer_at)

    def __iter__(self) -> Iterator[ReplayPort]:
        return iter(self._ports)

    async def run(self) -> None:
        """Ask what they serve, again and again, until cancelled."""
        while True:
            for port in self._ports:
                port.look(self._heard)
            await self._forget()
            REPLAYS_SILENT.set(sum(not port.answers for port in self._ports))
            await asyncio.sleep(PERIOD_S)

    def serving(self, partition: int) -> list[ReplayPort]:
        """Those that may serve a partition, the best first: who said so, who answers, and who has caught up.
        Those who are alike take turns.
        """
        turn = next(self._turns)
        fitting = [port for port in self._ports if port.may_serve(partition)]
        fitting = fitting[turn % len(fitting) :] + fitting[: turn % len(fitting)] if fitting else []
        return sorted(fitting, key=lambda port: port.rank(partition))

    def owner(self, partition: int) -> str:
        """The one of those who may serve a partition that is to be asked of all its partitions together."""
        fitting = (port for port in self._ports if port.may_serve(partition))
        best = min(fitting, key=lambda port: port.rank(partition), default=None)
        return "" if best is None else best.url

    def served(self, partition: int) -> bool:
        """Whether a replay that answers said that it serves the partition."""
        return any(port.answers and port.serves(partition) for port in self._ports)

    def answering(self) -> list[ReplayPort]:
        """Those that answered when they were last asked, all of them if none did: first who has caught up."""
        asked = [port for port in self._ports if port.answers] or self._ports
        return sorted(asked, key=lambda port: port.behind)

    async def close(self) -> None:
        """Close all connections."""
        for port in self._ports:
            await port.close()

    def _heard(self, said: Serving) -> None:
        known = {port.url.rstrip("/") for port in self._ports}
        if self._peer_at is not None:
            for url in dict.fromkeys(url.rstrip("/") for url in said.replays):
                if url not in known:
                    self._ports.append(ReplayPort(self._peer_at(url), learned=True))

    async def _forget(self) -> None:
        """Forget replays that another one named once, that do not answer, and that none names any more."""
        named = {
            url.rstrip("/")
            for port in self._ports
            if port.answers and port.serving is not None
            for url in port.serving.replays
        }
        gone = [
            port
            for port in self._ports
            if port.learned and not port.answers and port.url.rstrip("/") not in named
        ]
        for port in gone:
            self._ports.remove(port)
            await port.close()
