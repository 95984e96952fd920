"""Which origins' pages may call the API, and the headers that tell their browsers so (A-18)."""

from collections.abc import Iterable

RawHeaders = list[tuple[bytes, bytes]]

EXPOSED = b"x-request-id, retry-after, x-should-retry, x-rejoinder-response-id, openai-poll-after-ms"


class Cors:
    """The origins that are allowed, each named in full. If there are none, answers carry no CORS headers."""

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._origins = frozenset(origins)

    def __contains__(self, origin: str | None) -> bool:
        return origin in self._origins

    def headers(self, origin: str) -> RawHeaders:
        """The headers of every answer, a refusal too, to a request with this `Origin` ("" without one)."""
        if not self._origins:
            return []
        if origin not in self:
            return [(b"vary", b"Origin")]
        allow = (b"access-control-allow-origin", origin.encode("latin-1"))
        return [allow, (b"access-control-expose-headers", EXPOSED), (b"vary", b"Origin")]
