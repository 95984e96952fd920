"""Which origins' pages may call, and the headers that tell their browsers (A-18). Origins are explicit."""

from collections.abc import Iterable

RawHeaders = list[tuple[bytes, bytes]]

EXPOSED = b"x-request-id, retry-after, x-should-retry, x-rejoinder-response-id, openai-poll-after-ms"


class Cors:
    """The origins that are allowed; without any, nothing is said about them."""

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._origins = frozenset(origins)

    def __contains__(self, origin: str | None) -> bool:
        return origin in self._origins

    def headers(self, origin: str) -> RawHeaders:
        """What every answer to a request with this `Origin` ("" without one) carries, also a refusal."""
        if not self._origins:
            return []
        if origin not in self:
            return [(b"vary", b"Origin")]
        allow = (b"access-control-allow-origin", origin.encode("latin-1"))
        return [allow, (b"access-control-expose-headers", EXPOSED), (b"vary", b"Origin")]
