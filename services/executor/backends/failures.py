"""How an upstream fails, in words that a client may read.

Everything that goes wrong becomes an UpstreamError: with the upstream's own words where it has any, one of
the API's error codes, and nothing of the operator's: no URL, no header, no key.
"""

import re
from collections.abc import Collection
from http import HTTPStatus
from typing import Any

import msgspec

from schemas.response import ERROR_CODES
from services.executor.backend import UpstreamError

MAX_WORDS = 2000
"""Characters kept of what an upstream says."""

_PASSING = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})
"""What a proxy says while a server restarts: no verdict on a stream that is to be rejoined."""
_REFUSED_KEY = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_RETRY_AFTER = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")


class UpstreamLost(UpstreamError):
    """The connection broke: a resumable upstream may be rejoined."""


class Words:
    """Makes the errors of one upstream. `name` begins its sentences, `secrets` never show in them."""

    def __init__(self, name: str, secrets: Collection[str] = ()) -> None:
        self._name = name
        self._secrets = sorted(filter(None, secrets), key=len, reverse=True)

    def failed(self, what: str, code: object = None, type: str = "upstream_error") -> UpstreamError:
        """It did `what`; `code` is the upstream's own, kept where the API knows it."""
        return UpstreamError(self._say(what), code=known_code(code), type=type)

    def malformed(self, what: str) -> UpstreamError:
        """It did `what`, and its protocol does not know that."""
        return self.failed(what, type="upstream_malformed")

    def lost(self, what: str, type: str = "upstream_truncated") -> UpstreamLost:
        """The connection broke: it did `what`."""
        return UpstreamLost(self._say(what), type=type)

    def refused(self, status: int, body: bytes) -> UpstreamError:
        """It answered the call with an error `status` and `body`."""
        if 300 <= status < 400:
            return self.failed(f"redirected the call ({status}); redirects are not followed.")
        said, code = error_in(body)
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            code = "rate_limit_exceeded"
        if status in _REFUSED_KEY:
            return self.failed(f"did not authorise Rejoinder ({status}); its operator can mend that.")
        failed = self.failed(f"answered {status}: {said or _phrase(status)}", code)
        return UpstreamLost(failed.message, code=failed.code) if status in _PASSING else failed

    def reported(self, event: dict[str, Any]) -> UpstreamError:
        """It sent an `error` event."""
        said, code = _error_of(event)
        return self.failed(f"reported an error: {said or 'without a word'}", code)

    def _say(self, what: str) -> str:
        for secret in self._secrets:
            what = what.replace(secret, "[redacted]")
        return f"{self._name} {what}"[:MAX_WORDS]


def known_code(code: object) -> str:
    """`code` where the API knows it, else `server_error`."""
    return code if isinstance(code, str) and code in ERROR_CODES else "server_error"


def error_in(body: bytes) -> tuple[str, object]:
    """Message ("" without one) and code of an error body: OpenAI's envelope, FastAPI's, or a bare message."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "", None
    return _error_of(decoded) if isinstance(decoded, dict) else ("", None)


def retry_after(status: int, header: str | None, most: float) -> float | None:
    """Seconds after which to call again, or None: only where the upstream says that it started nothing."""
    if status not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE) or header is None:
        return None
    seconds = float(header) if _RETRY_AFTER.fullmatch(header.strip()) else None
    return seconds if seconds is not None and seconds <= most else None


def _error_of(body: dict[str, Any]) -> tuple[str, object]:
    error = body.get("error") or body.get("detail") or body
    if isinstance(error, str):
        return error[:MAX_WORDS], None
    if isinstance(error, dict):
        said = error.get("message")
        return (said[:MAX_WORDS] if isinstance(said, str) else ""), error.get("code")
    return msgspec.json.encode(error).decode()[:MAX_WORDS], None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no reason given"
