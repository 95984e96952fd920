"""Asks another service of ours, and tells apart what may have come of it when no answer does.

the service answers              PeerAnswer, whatever the status
the service has heard nothing    Unheard: no process listens
no answer came back              BrokenOff: the service may have done what was asked
"""

import asyncio
from collections.abc import AsyncIterator, Mapping

import aiohttp
import msgspec
from msgspec import Struct
from structlog.contextvars import get_contextvars

from schemas.errors import ApiError, RejoinderError
from schemas.trace_context import TRACEPARENT
from services.traces.port import here
from services.web.answers import Envelope
from services.web.peer import Peer
from services.web.pulse import Silent
from services.web.secret import CERTIFY, MEND, UNCERTIFIED

PIECE_BYTES = 256 << 10
"""Bytes that are written at once: a large body must not hold the loop."""
KEPT = ("retry-after", "x-should-retry")
"""Headers of a refusal that are passed on to the client."""


class Unheard(RejoinderError):
    """The service has not heard of what was asked. The message says why."""


class BrokenOff(RejoinderError):
    """The service may have heard, and no answer came. The message says why."""


class PeerAnswer(Struct, frozen=True):
    """An answer: its status, those of its headers that were asked for, and its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def envelope(self) -> Envelope | None:
        """The error in the body; None if these are not words of a service of ours."""
        try:
            return _envelope(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def refusal(self, envelope: Envelope, reason: str) -> ApiError:
        """The error that the client is to get, as the service said it. `reason` is for metrics."""
        error = envelope.error
        return ApiError(
            self.status,
            error.message,
            type=error.type,
            param=error.param,
            code=error.code,
            headers={name: self.headers[name] for name in KEPT if name in self.headers},
            reason=reason,
        )


_envelope = msgspec.json.Decoder(Envelope).decode


class Question(Struct, frozen=True):
    """What a service is asked: `path` may have a query. The answer may have `bound` bytes, and `within_s`
    seconds. Of its headers those in `kept` are wanted, by their names in lower case.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    within_s: float
    bound: int
    kept: tuple[str, ...] = KEPT


async def ask(peer: Peer, question: Question) -> PeerAnswer:
    """Ask `peer`. Raises Unheard, BrokenOff."""
    sent = _Body(question.body)
    named = {"x-request-id": str(get_contextvars().get("request_id", ""))}
    if context := here.get():
        named[TRACEPARENT] = context
    length = {"content-length": str(len(question.body))} if question.body or question.method == "POST" else {}
    request = peer.session.request(
        question.method,
        peer.url(question.path),
        data=sent if sent.in_pieces else question.body or None,
        headers={**question.headers, **named, **length},
        allow_redirects=False,
    )
    try:
        async with asyncio.timeout(question.within_s), peer.while_alive(sent.gone), request as answer:
            body = await peer.read(answer, question.bound)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise Unheard(str(error) or "no connection in time") from error
    except (aiohttp.ClientError, OSError, Silent) as error:  # TimeoutError is one of the second
        raise BrokenOff(str(error) or "no answer in time") from error
    kept = {name: answer.headers[name] for name in question.kept if name in answer.headers}
    return PeerAnswer(answer.status, kept, body)


def refusal_of(service: str, answered: PeerAnswer) -> Envelope:
    """The error in an answer that is no success, as the word of `service` on what was asked.

    Raises Unheard or BrokenOff if it is not: a proxy's 502, say, may come after the service has heard.
    """
    status, envelope = answered.status, answered.envelope()
    if envelope is None:
        what = f"what is there is not {service}: it answered {status} in words of its own"
        raise Unheard(what) if status < 500 else BrokenOff(what)
    if envelope.error.code == UNCERTIFIED:
        raise Unheard(f"it asks this service for a certificate: {CERTIFY}")
    if envelope.error.code == "wrong_internal_secret":
        raise Unheard(f"it does not know our secret: {MEND}")
    if status in (405, 421) or (status == 404 and envelope.error.param is None):
        raise Unheard(f"what is there is not the internal port of {service}: it does not know the path")
    return envelope


class _Body:
    """Sends a large body in pieces."""

    def __init__(self, raw: bytes) -> None:
        self._raw = memoryview(raw)
        self.in_pieces = len(raw) > PIECE_BYTES
        self._left = len(raw) if self.in_pieces else 0

    def gone(self) -> bool:
        """Whether the whole body was handed to the connection."""
        return not self._left

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._raw), PIECE_BYTES):
            yield bytes(self._raw[start : start + PIECE_BYTES])
        self._left = 0
