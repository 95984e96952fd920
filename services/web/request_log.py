"""The access log and the audit log: a line for each request of a client when it is over (docs/logs.md).

    access   every request on a public port: of which route, about which response, how it ended
    audit    deletes, keys that were refused, what admins did, and the first use of a key in an hour

Both are lines of the service's log, with the events `request` and `audit`, and no level silences them. Who
called is bound to every log line of the request. No line has content, a key, or a path as the client sent it.
"""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from structlog.contextvars import get_contextvars
from structlog.typing import FilteringBoundLogger

from services.logs import unsilenced
from services.settings import Settings
from services.web.served import Served

HOUR_S = 3600
MOST_KEYS = 100_000
"""Keys and subjects that are remembered: beyond them the first use may be told again."""


class RequestLog:
    """The logs of one process. `clock` returns seconds since the epoch."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._access = settings.access_log == "on"
        self._audit = settings.audit_log == "on"
        self._clock = clock
        self._log: FilteringBoundLogger = unsilenced()
        self._hour = 0
        self._used: set[str] = set()
        """The keys that were used in this hour."""

    def tell(self, served: Served, duration_s: float) -> None:
        """Tell of a request that is over, after `duration_s` seconds."""
        told = {"method": served.method, "route": served.route, "status": served.status}
        about = {"response": served.response, "endpoint": served.endpoint}
        told |= {name: id for name, id in about.items() if id}
        if self._access:
            self._log.info("request", **told, **_course(served, duration_s))
        if self._audit:
            for action in self._actions(served, get_contextvars()):
                self._log.info("audit", action=action, **told)

    def _actions(self, served: Served, bound: Mapping[str, Any]) -> list[str]:
        """What is to be audited of a request; `bound` says who called."""
        key, is_admin = bound.get("key"), bound.get("admin") is True
        is_refused = served.status == HTTPStatus.UNAUTHORIZED
        happened = {
            "delete": served.method == "DELETE" and served.known and not is_refused,
            "key_refused": is_refused,
            "admin": is_admin,
            "key_used": key is not None and not is_admin and self._is_first(key),
        }
        return [action for action, did in happened.items() if did]

    def _is_first(self, key: str) -> bool:
        """Whether it is the first use of `key` in this hour."""
        hour = int(self._clock() // HOUR_S)
        if hour != self._hour or len(self._used) >= MOST_KEYS:
            self._hour = hour
            self._used.clear()
        first = key not in self._used
        self._used.add(key)
        return first


def _course(served: Served, duration_s: float) -> dict[str, float | str]:
    """How a request went."""
    course: dict[str, float | str] = {"duration_s": round(duration_s, 4), "bytes": served.body_bytes}
    if served.status:
        course["answered_s"] = round(served.answered - served.began, 4)
    if served.end:
        course["end"] = served.end
    return course
