"""Makes the errors of upstreams, in words that a client may read.

Every fault becomes an UpstreamError. It has the upstream's own words, if there are any, and one of the API's
error codes. It has nothing of the operator's: no URL, no header, no key.
"""

import re
from collections.abc import Collection
from http import HTTPStatus
from typing import Any

from schemas.response import ERROR_CODES, http_status
from services.executor.backend import Refusal, UpstreamError
from services.executor.backends.told import code_in, told_in, words_in
from services.executor.mending.surrogates import whole

MAX_WORDS = 2000
"""Characters that are kept of an upstream's words."""

_PASSING = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})
"""A proxy says these while a server restarts: they say nothing about a stream that is to be rejoined."""
_NOT_STARTED = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_REFUSED_KEY = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_TOLD_IN = ("error", "incomplete_details")
"""Fields of events and of responses in which an upstream tells its errors."""
_RETRY_AFTER = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")


UNFIT = (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError)
"""Errors from reading an event of an unforeseen shape: the fault is the upstream's."""


class UpstreamLost(UpstreamError):
    """The connection broke. A resumable upstream may be rejoined."""


class StreamGone(UpstreamError):
    """The stream is of no use, or cannot be had any more. A resumable upstream may have the object (U-13)."""


class UpstreamErrors:
    """Makes the errors of one upstream. `name` begins each message; no message has any of `secrets`."""

    def __init__(self, name: str, secrets: Collection[str] = ()) -> None:
        self._name = name
        self._secrets = [re.compile(f"(?=({re.escape(secret)}))") for secret in secrets if secret]

    def failed(
        self,
        what: str,
        code: object = None,
        type: str = "upstream_error",
        refusal: Refusal | None = None,
        usage: object = None,
    ) -> UpstreamError:
        """The upstream did `what`. `code` is its own, which is kept if the API knows it."""
        code = known_code(code)
        return UpstreamError(self._say(what), code=code, type=type, refusal=refusal, usage=usage)

    def malformed(self, what: str) -> UpstreamError:
        """The upstream did `what`, against its protocol."""
        return self.failed(what, type="upstream_malformed")

    def lost(self, what: str, type: str = "upstream_truncated") -> UpstreamLost:
        """The upstream did `what`: the connection broke."""
        return UpstreamLost(self._say(what), type=type)

    def refused(self, status: int, body: bytes, refusal: Refusal | None = None) -> UpstreamError:
        """The upstream answered with an error `status` and `body`. `refusal`: of a call that was to start
        the response.
        """
        if 300 <= status < 400:
            what = f"redirected the call ({status}); redirects are not followed."
            return self.failed(what, refusal=refusal)
        said, code = words_in(body)
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            code = "rate_limit_exceeded"
        if status in _REFUSED_KEY:
            what = f"did not authorise Rejoinder ({status}); its operator can mend that."
            return self.failed(what, refusal=refusal)
        what = f"answered {status}: {self.cleared(said) or _phrase(status)}"
        failed = self.failed(what, code, refusal=refusal)
        if status in _PASSING:
            return UpstreamLost(failed.message, code=failed.code, refusal=refusal)
        if status != HTTPStatus.NOT_FOUND:
            return StreamGone(failed.message, code=failed.code, refusal=refusal)
        return failed

    def gone(self, what: str) -> StreamGone:
        """The upstream did `what`, against its protocol, but its response may be whole."""
        return StreamGone(self._say(what), type="upstream_malformed")

    def reported(self, event: dict[str, Any]) -> UpstreamError:
        """The upstream sent an `error` event."""
        said, code = told_in(event), code_in(event)
        status = http_status(code)
        refusal = None if status is None else Refusal(status)
        what = f"reported an error: {self.cleared(said) or 'without a word'}"
        return self.failed(what, code, refusal=refusal)

    def redact(self, event: dict[str, Any]) -> None:
        """Take the secrets out of the errors in `event` and in its response, in place. So no later stage has
        to know them.
        """
        response = event.get("response")
        for holder in (event, response if isinstance(response, dict) else {}):
            for name in _TOLD_IN:
                if name in holder:
                    holder[name] = self._redacted(holder[name])

    def _redacted(self, said: Any) -> Any:
        match said:
            case str():
                return self.cleared(said)
            case list():
                return [self._redacted(part) for part in said]
            case dict():
                return {self.cleared(name): self._redacted(part) for name, part in said.items()}
        return said

    def cleared(self, text: str) -> str:
        """`text` of the upstream, without secrets. All are looked for in the original text: so none is found
        in our own mark, and where two overlap none is left by half.
        """
        kept, end = [], 0
        spans = (found.span(1) for secret in self._secrets for found in secret.finditer(text))
        for start, stop in sorted(spans):
            if start >= end:
                kept += [text[end:start], "[redacted]"]
            end = max(end, stop)
        return "".join([*kept, text[end:]])

    def _say(self, what: str) -> str:
        return whole(f"{self._name} {what}"[:MAX_WORDS])  # cut last: half a secret is not found


def known_code(code: object) -> str:
    """`code` if the API knows it, else `server_error`."""
    return code if isinstance(code, str) and code in ERROR_CODES else "server_error"


def retry_after(status: int, header: str | None, most: float) -> float | None:
    """Seconds after which to call again; None unless the upstream says that it started nothing."""
    if status not in _NOT_STARTED or header is None:
        return None
    seconds = _seconds(header)
    return seconds if seconds is not None and seconds <= most else None


def call_refusal(status: int, header: str | None) -> Refusal:
    """The refusal of a call that was to start a response; `header` is the answer's Retry-After, if any.

    429 and 503 say that nothing was started. Without a header the call may be made again after a second.
    """
    if status not in _NOT_STARTED:
        return Refusal(status)
    said = _seconds(header) if header is not None else None
    return Refusal(status, 1.0 if said is None else said)


def _seconds(header: str) -> float | None:
    """The seconds in a Retry-After; None for a date or anything else."""
    return float(header) if _RETRY_AFTER.fullmatch(header.strip()) else None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no reason given"
