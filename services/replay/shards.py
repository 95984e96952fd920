"""The other shards: what belongs to them is asked of their replays.

    a client reads a response     from a replay of its shard, at its public port: the client's own head goes
    of another shard              there, and the answer comes back as it is
    it was passed on already      503 `misrouted`: a request is passed on once
    nobody can be asked           503, within seconds
    the answer breaks off, or     the client's connection is cut: never a clean end (A-2)
    comes to a standstill

The public port decides what the client may see. The internal one trusts whoever asks: there only the creator
of a response is served, by `door`, and items are looked up, for a tenant whose key was checked here.
"""

import asyncio
from collections.abc import Iterable

import aiohttp
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp
from structlog.contextvars import get_contextvars

from schemas.errors import MISROUTED, misrouted, unavailable
from schemas.trace_context import TRACEPARENT
from services.replay.folding import Foldings
from services.replay.metrics import PASSED_ON
from services.settings import Settings
from services.traces.port import here
from services.web.ask import PeerAnswer
from services.web.forwarded import target_of
from services.web.peer import HOP_BY_HOP, Peer
from services.web.pulse import Silent
from services.web.replay_client import ReplayClient
from services.web.replays import ReplayPort, Replays
from services.web.stream import while_connected

HOP = "x-rejoinder-hop"
"""The header of a request that was passed on."""
HEAD_S = 4.0
"""Seconds beyond those that a read waits for the log, in which the head of its answer must come, whoever is
asked."""
BODY_S = 10.0
"""Seconds beyond those that a read waits for the log, for which an answer that is no stream may stand still.
"""
KEEPALIVES = 3
"""A stream that misses so many keep-alives has broken off."""
LEAST_SILENCE_S = 10.0
"""Seconds for which any stream may be silent, so that its replay may have longer keep-alives than ours."""
REFUSAL_BYTES = 1 << 20
"""Bytes of a refusal that is looked into."""
_END_TO_END = frozenset({b"accept", b"authorization", b"host", b"last-event-id"})
"""Headers that go on whatever the client's `connection` says: so does the one that names the tenant."""
_NOT_SENT = HOP_BY_HOP | {b"content-length", b"expect", b"x-request-id", TRACEPARENT.encode()}


class Shards:
    """What one replay knows of the other shards. `foldings` are the partitions that it serves itself;
    `replays` are asked what they serve by whoever runs them.
    """

    def __init__(self, replays: Replays, foldings: Foldings, settings: Settings) -> None:
        self.replays = replays
        self._foldings = foldings
        self.client = ReplayClient(replays)
        self._stall_s = settings.stall_s
        self._kept = _END_TO_END | {settings.tenant_header.lower().encode()}
        self._head_s = settings.barrier_s + HEAD_S
        self._body_s = settings.barrier_s + BODY_S
        self.silence_s = max(LEAST_SILENCE_S, KEEPALIVES * settings.keepalive_s)
        """Seconds without a byte after which the stream of a replay has broken off."""
        self._public: dict[str, Peer] = {}

    def know(self, partition: int) -> bool:
        """Whether a replay has said that it serves the partition."""
        return any(port.serves(partition) for port in self.replays)

    def have(self, partition: int) -> bool:
        """Whether the partition belongs to another shard: one says so, or it was there at our start, and is
        not served here.
        """
        return self._foldings.is_far(partition) or (partition not in self._foldings and self.know(partition))

    async def pass_on(self, request: Request, partition: int) -> ASGIApp:
        """The answer of a replay that serves `partition` to a client's read. Raises ApiError (503)."""
        if HOP in request.headers:
            PASSED_ON.labels("misrouted").inc()
            raise misrouted(partition)
        outcome = "misrouted"
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._head_s
        async with while_connected(request.receive):
            for port in self.replays.serving(partition):
                # Who was never heard, or is asked no more, may serve it: that is not misrouted.
                asks = port.public_url and clock() < deadline
                found = await self._answered(port, request, deadline) if asks else "away"
                if not isinstance(found, str):
                    PASSED_ON.labels("answered").inc()
                    return found
                outcome = found if outcome == "misrouted" else outcome
        PASSED_ON.labels(outcome).inc()
        if outcome == "misrouted":
            raise misrouted(partition)
        what = "The part of the server that has this response cannot be asked now."
        raise unavailable(what, reason=f"shard_{outcome}")

    async def close(self) -> None:
        """Close all connections."""
        await self.replays.close()
        for peer in self._public.values():
            await peer.close()

    async def _answered(self, port: ReplayPort, request: Request, deadline: float) -> ASGIApp | str:
        """The answer of one replay; or what came instead up to the `deadline` (loop time, s): away,
        broke_off or misrouted.
        """
        peer = self._public.get(port.public_url)
        if peer is None:
            peer = self._public[port.public_url] = Peer(port.public_url, stall_s=self._stall_s)
        sending = peer.session.request(
            request.method,
            peer.url(target_of(request)),
            headers=_passed_head(request, self._kept),
            allow_redirects=False,
        )
        try:
            async with asyncio.timeout_at(deadline):
                async with peer.while_alive():
                    answer = await sending
                if answer.status == 503:
                    return await _refused(peer, answer)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            port.answers = False  # until it says again what it serves: others are asked first
            return "away"
        except (aiohttp.ClientError, OSError, Silent):  # TimeoutError is one of the second
            port.answers = False
            return "broke_off"
        lasting = answer.content_type == "text/event-stream"
        return peer.stream(answer, silence_s=self.silence_s if lasting else self._body_s)


async def _refused(peer: Peer, answer: aiohttp.ClientResponse) -> Response | str:
    """A 503, for the client; "misrouted" if another replay is to be asked."""
    async with answer:
        body = await peer.read(answer, REFUSAL_BYTES)
    said = PeerAnswer(answer.status, {}, body).envelope()
    if said is not None and said.error.code == MISROUTED:
        return MISROUTED
    kept = {name: value for name, value in answer.headers.items() if name.lower() not in _DROPPED}
    return Response(body, answer.status, kept)


_DROPPED = {name.decode() for name in HOP_BY_HOP} | {"date", "content-length"}


def _passed_head(request: Request, kept: frozenset[bytes]) -> list[tuple[str, str]]:
    """The client's headers for the other replay; those to be `kept` whatever its `connection` says."""
    raw: Iterable[tuple[bytes, bytes]] = request.scope["headers"]
    options = ",".join(request.headers.getlist("connection")).lower().encode("latin-1").split(b",")
    dropped = _NOT_SENT.union(option.strip() for option in options) - kept
    head = [(name.decode(), value.decode("latin-1")) for name, value in raw if name not in dropped]
    context = here.get()
    traced = [(TRACEPARENT, context)] if context else []
    return [*head, (HOP, "1"), ("x-request-id", str(get_contextvars().get("request_id", ""))), *traced]
