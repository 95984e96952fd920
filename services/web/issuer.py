"""The issuer of tokens: its public keys, read at the start, every few minutes, and for a key that is new.

    a token names a key that is known        it is checked with that key, nobody is asked
    it names one that is not known           the issuer is asked, unless it was asked just before
    the issuer cannot be asked               what it said last holds, for `kept_s`; then tokens are a 503

A key that the issuer has withdrawn is gone with the next reading. Requests share a question, and the issuer
is asked once in `AGAIN_S` at most, however many keys are made up.
"""

import asyncio
import time
from collections.abc import Callable

import aiohttp
import msgspec
from jwt import PyJWK
from msgspec import Struct
from prometheus_client import Counter, Gauge

from schemas.errors import ApiError, RejoinderError, unavailable
from services.backoff import Backoff
from services.fits import is_safe
from services.web.internal import Report
from services.web.jwks import Jwks, JwksBroken
from services.web.tokens import TokenHeader, TokenRefused

REFRESH_S = 300.0
"""Seconds between two readings: so long a key that was withdrawn may still be taken."""
AGAIN_S = 10.0
"""Seconds between two questions to the issuer, at least."""
ASK_S = 4.0
"""Seconds that the issuer has to answer; a request whose key is new waits so long."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Seconds between two tries while the issuer is away."""
MOST_BYTES = 1 << 20
"""Bytes of the largest answer."""
SHOWN = 200
"""Characters of what an issuer says that a log line shows."""
WELL_KNOWN = "/.well-known/openid-configuration"

READ = Counter("rejoinder_issuer_reads_total", "Readings of the issuer's keys: read, failed", ["how"])
AGE = Gauge("rejoinder_issuer_keys_age_seconds", "Seconds since the issuer's keys were read; 0 if never")


class IssuerAway(RejoinderError):
    """The issuer gave no keys. The message says what happened instead."""


class _Configuration(Struct):
    issuer: str
    jwks_uri: str


class Issuer:
    """The keys of `issuer`: at `keys_url`, or ("") where its OpenID configuration says.

    Run `run` as long as the process serves. `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        issuer: str,
        keys_url: str = "",
        *,
        kept_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._keys_url = keys_url
        self._kept_s = kept_s
        self._clock = clock
        self._keys: Jwks | None = None
        self._read_at = 0.0
        self._asked_at = float("-inf")
        self._failing = True
        self._asking: asyncio.Task[None] | None = None
        where = "REJOINDER_JWT_ISSUER and REJOINDER_JWT_KEYS_URL say where its keys are"
        self._report = Report(keys_url or issuer, "the issuer of tokens", where)
        AGE.set_function(self._age)

    def __repr__(self) -> str:
        return f"<Issuer {self._issuer} {self._keys}>"

    async def key(self, header: TokenHeader) -> PyJWK:
        """The key with which a token with this header was signed, if it is the issuer's.

        Raises TokenRefused if the issuer has no such key, ApiError (503) if that cannot be known now.
        """
        if found := self._found(header):
            return found
        if self._asking is not None or self._clock() - self._asked_at >= AGAIN_S:
            await self._ask()
            if found := self._found(header):
                return found
        if self._failing:
            raise _unknown()
        raise TokenRefused("token_key")

    async def run(self) -> None:
        """Keep up with the issuer's keys, for ever."""
        again = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        try:
            while True:
                await self._ask()
                if self._failing:
                    await again.wait()
                else:
                    again.succeeded()
                    await asyncio.sleep(REFRESH_S)
        finally:
            if self._asking is not None:
                self._asking.cancel()

    def _found(self, header: TokenHeader) -> PyJWK | None:
        if self._keys is None or self._clock() - self._read_at > self._kept_s:
            return None
        return self._keys.find(header.kid, header.algorithm)

    def _age(self) -> float:
        return 0.0 if self._keys is None else self._clock() - self._read_at

    async def _ask(self) -> None:
        """Read the keys. Whoever asks meanwhile waits for the same answer."""
        if self._asking is None:
            self._asked_at = self._clock()
            self._asking = asyncio.create_task(self._read())
            self._asking.add_done_callback(self._asked)
        await asyncio.shield(self._asking)

    def _asked(self, _: asyncio.Task[None]) -> None:
        self._asking = None

    async def _read(self) -> None:
        began = self._clock()
        try:
            found = await asyncio.to_thread(Jwks, await self._fetched())
        except (IssuerAway, JwksBroken) as error:
            self._failing = True
            self._report.failed(error)
            READ.labels("failed").inc()
        else:
            self._keys, self._read_at, self._failing = found, began, False
            self._report.succeeded()
            READ.labels("read").inc()

    async def _fetched(self) -> bytes:
        try:
            async with (
                asyncio.timeout(ASK_S),
                aiohttp.ClientSession(
                    cookie_jar=aiohttp.DummyCookieJar(), headers={"accept": "application/json"}
                ) as session,
            ):
                url = self._keys_url or await self._discovered(session)
                return await _got(session, url)
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is one of the second
            raise IssuerAway(str(error) or f"no answer within {ASK_S:g} s") from error

    async def _discovered(self, session: aiohttp.ClientSession) -> str:
        """Where the keys are, as the issuer says. Raises IssuerAway, also for another issuer's word."""
        url = self._issuer.rstrip("/") + WELL_KNOWN
        try:
            found = msgspec.json.decode(await _got(session, url), type=_Configuration)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise IssuerAway(f"{url} is no OpenID configuration ({error})") from error
        if found.issuer != self._issuer:
            says = found.issuer[:SHOWN]
            raise IssuerAway(f"{url} is that of {says!r}: is REJOINDER_JWT_ISSUER written as there?")
        if not is_safe(found.jwks_uri):
            raise IssuerAway(f"{url} has its keys at {found.jwks_uri[:SHOWN]!r}, which is no https URL")
        return found.jwks_uri


async def _got(session: aiohttp.ClientSession, url: str) -> bytes:
    """The body of an answer. Redirects are not followed: they could lead to what is no https URL."""
    async with session.get(url, allow_redirects=False) as answer:
        body = await answer.content.read(MOST_BYTES + 1)
        while len(body) <= MOST_BYTES and (more := await answer.content.read(MOST_BYTES + 1)):
            body += more
    if answer.status != 200:
        raise IssuerAway(f"{url} answers {answer.status}")
    if len(body) > MOST_BYTES:
        raise IssuerAway(f"{url} answers with more than {MOST_BYTES} bytes")
    return body


def _unknown() -> ApiError:
    what = "The token cannot be checked now: the keys of its issuer cannot be read."
    return unavailable(what, retry_after=2, reason="issuer_away")
