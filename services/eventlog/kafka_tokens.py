"""Tokens for SASL/OAUTHBEARER: from a file that the operator keeps fresh, or by the client-credentials grant.

aiokafka asks for a token with every connection that it makes. It does not authenticate a connection anew: a
broker that bounds the life of connections (`connections.max.reauth.ms`) ends it, and the next connection
brings the next token. A token of a token endpoint is kept until shortly before it expires.
"""

import asyncio
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import aiohttp
import msgspec
from msgspec import Struct

from services.eventlog.kafka_borrowed import AbstractTokenProvider, KafkaError

MARGIN_S = 30.0
"""Seconds before its end at which a token is no longer used: clocks differ, and a handshake takes time."""
ENDPOINT_S = 2.0
"""Seconds for the token endpoint to answer: a connection to a broker waits for it."""
_MAX_ANSWER_BYTES = 1 << 20


class NoToken(KafkaError):  # type: ignore[misc]
    """No token was to be had. The text says why, and names the setting that says where tokens come from."""


class ClientCredentials(Struct, frozen=True):
    """What a request to a token endpoint needs (RFC 6749, 4.4)."""

    url: str
    client_id: str
    client_secret: str
    scope: str = ""

    def authorization(self) -> str:
        """The value of `authorization`. Both parts are form-encoded first (RFC 6749, 2.3.1)."""
        return aiohttp.encode_basic_auth(quote_plus(self.client_id), quote_plus(self.client_secret))


class FileTokens(AbstractTokenProvider):  # type: ignore[misc]
    """The token that a file holds, read anew for every connection."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __repr__(self) -> str:
        return f"FileTokens({self._path})"

    async def token(self) -> str:
        """The token. Raises NoToken."""
        try:
            text = await asyncio.to_thread(self._path.read_text)
        except (OSError, UnicodeDecodeError) as error:
            raise NoToken(f"REJOINDER_KAFKA_OAUTH_TOKEN_FILE: cannot read {self._path} ({error})") from error
        if not (token := text.strip()):
            raise NoToken(f"REJOINDER_KAFKA_OAUTH_TOKEN_FILE: {self._path} is empty")
        return token


class EndpointTokens(AbstractTokenProvider):  # type: ignore[misc]
    """Tokens of a token endpoint. Make it once for all clients of a process: they share the token."""

    def __init__(self, credentials: ClientCredentials) -> None:
        self._credentials = credentials
        self._token = ""
        self._fresh_until = 0.0
        self._asking = asyncio.Lock()

    def __repr__(self) -> str:
        return f"EndpointTokens({self._credentials.url})"

    async def token(self) -> str:
        """The token, from the endpoint if there is none that is fresh. Raises NoToken."""
        async with self._asking:
            if time.monotonic() >= self._fresh_until:
                asked_at = time.monotonic()
                self._token, lasts_s = _granted(await self._ask(), self._credentials.url)
                self._fresh_until = asked_at + max(lasts_s - MARGIN_S, lasts_s / 2)
            return self._token

    async def _ask(self) -> bytes:
        asked = self._credentials
        form = {"grant_type": "client_credentials"} | ({"scope": asked.scope} if asked.scope else {})
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ENDPOINT_S)) as session,
                session.post(
                    asked.url,
                    data=form,
                    headers={"accept": "application/json", "authorization": asked.authorization()},
                    allow_redirects=False,
                ) as answer,
            ):
                body = await answer.content.read(_MAX_ANSWER_BYTES)
                if answer.status != 200:
                    raise NoToken(_refused(asked.url, answer.status, body))
                return body
        except (aiohttp.ClientError, TimeoutError) as error:
            why = str(error) or f"no answer within {ENDPOINT_S:g} s"
            raise NoToken(
                f"REJOINDER_KAFKA_OAUTH_URL: {asked.url} cannot be asked for a token ({why})"
            ) from error


class _Grant(Struct):
    access_token: str
    expires_in: float = 60.0


def _granted(body: bytes, url: str) -> tuple[str, float]:
    """The token and the seconds for which it lasts. Raises NoToken."""
    try:
        grant = msgspec.json.decode(body, type=_Grant, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NoToken(f"REJOINDER_KAFKA_OAUTH_URL: {url} answers with no access_token ({error})") from error
    return grant.access_token, grant.expires_in


def _refused(url: str, status: int, body: bytes) -> str:
    """The text for a refusal. Of the body it quotes the error code alone (RFC 6749, 5.2)."""
    try:
        said: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = None
    code = said.get("error") if isinstance(said, dict) else None
    why = f"{status}, {code}" if isinstance(code, str) else str(status)
    return (
        f"REJOINDER_KAFKA_OAUTH_URL: {url} refuses a token ({why}): are REJOINDER_KAFKA_OAUTH_CLIENT_ID, "
        "…_CLIENT_SECRET and …_SCOPE right?"
    )
