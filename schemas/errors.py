"""Every error that Rejoinder raises on purpose. A class's docstring is its message's pattern.

Two families: `ApiError` is what a client is told (docs/api.md: status, envelope, headers), `LogError` what
the log's adapters raise after translating their library's errors, once, at the edge.
"""

from collections.abc import Mapping
from types import MappingProxyType

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
NO_RETRY: Mapping[str, str] = MappingProxyType({"x-should-retry": "false"})
"""Tells the openai SDKs not to repeat a request that a repetition cannot mend or would double."""


MISROUTED = "misrouted"
"""The code of the refusal of a replay that does not serve a response's partition."""


class RejoinderError(Exception):
    """Base of every error raised on purpose."""


class ApiError(RejoinderError):
    """A refusal that the client is told: `{"error": {"message", "type", "param", "code"}}`.

    `reason` is the operator's word for it in the metrics, where `code` says too little.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
        reason: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.headers = headers
        self.reason = reason or code or ""

    def __repr__(self) -> str:
        return f"ApiError({self.status}, {self.message!r}, param={self.param!r}, code={self.code!r})"


def invalid(message: str, param: str | None, code: str = "invalid_value") -> ApiError:
    """400: the request is wrong in the field `param`; a retry cannot mend it."""
    return ApiError(400, message, param=param, code=code)


def not_found(id: str) -> ApiError:
    """404: one body for an unknown, foreign, deleted or malformed id (A-15)."""
    return ApiError(404, f"Response with id '{id}' not found.", param="response_id", code="not_found")


def unavailable(
    message: str, *, retry_after: int = 2, outcome_unknown: bool = False, reason: str = ""
) -> ApiError:
    """503: try again in `retry_after` seconds (1-60), unless an append's outcome is unknown (A-10)."""
    headers = {"retry-after": str(retry_after)} | (dict(NO_RETRY) if outcome_unknown else {})
    code = "service_unavailable"
    return ApiError(503, message, type="server_error", code=code, headers=headers, reason=reason)


def away() -> ApiError:
    """503: nothing was stored, since no leader of the log takes it now."""
    return unavailable("The log cannot be reached; nothing was stored.", reason="log_away")


def unreachable() -> ApiError:
    """503: a read, or what comes before an append, needs the log, and it does not answer."""
    return unavailable("The log cannot be reached.", reason="log_away")


def outgrown() -> ApiError:
    """503: the response belongs into a partition that was added since this process started. A process that
    was started since then reads it, so the client is told to try again.
    """
    what = "A part of the log is not read yet, since it was added: restart the shards of replay."
    return _soon(what, "service_unavailable", reason="outgrown")


def misrouted(partition: int) -> ApiError:
    """503: no replay that this one knows serves `partition`, or the request was passed on already and came to
    one that does not. Soon another may, so the client is told to try again.
    """
    what = (
        f"Nothing here serves partition {partition} of the log now: a replay whose REJOINDER_SHARD has it "
        "must run, and REJOINDER_REPLAY_URL must name its internal port."
    )
    return _soon(what, MISROUTED)


def _soon(what: str, code: str, *, reason: str = "") -> ApiError:
    """503: another process answers, or soon will; the openai SDKs try again by themselves."""
    headers = {"retry-after": "2", "x-should-retry": "true"}
    return ApiError(503, what, type="server_error", code=code, headers=headers, reason=reason)


def void() -> ApiError:
    """503: the request reached the log too late to count (P-20), so it may be sent again."""
    return unavailable("The log took the request too late; nothing was started.", reason="void")


def unconfirmed(*, repeatable: bool) -> ApiError:
    """The error 503: it is unknown whether the record is in the log. `repeatable`: a repetition is safe."""
    what = "The log did not confirm the request in time."
    return unavailable(what, outcome_unknown=not repeatable, reason="append_unknown")


class LogError(RejoinderError):
    """Base of what the log's adapters raise."""


class LogUnavailable(LogError):
    """The log cannot be reached now; nothing was appended by the failed call."""


class Unsent(LogUnavailable):
    """An append was given up before it left this process: its leader does not answer. Another may."""


class AppendUnknown(LogError):
    """An append was sent and not acknowledged: it may or may not be, or become, part of the log."""


class RecordTooLarge(LogError):
    """A record of {size} bytes is over the bound of {bound} bytes; nothing was appended."""

    def __init__(self, size: int, bound: int) -> None:
        super().__init__(f"a record of {size} bytes is over the bound of {bound} bytes; nothing was appended")
        self.size = size
        self.bound = bound


class TopicMissing(LogError):
    """Topic {topic} does not exist: run `rejoinder topics --create`."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {topic} does not exist: run `rejoinder topics --create`")
        self.topic = topic


class TopicMisconfigured(LogError):
    """Topic {topic} is not set up as the protocol needs it: what is wrong, and how to mend it."""


class SettingsError(RejoinderError):
    """A setting has a bad value: names the variable or flag and says what it takes."""
