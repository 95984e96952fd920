"""What became of one request: made by the `Edge` when it comes, filled in by whoever knows more.

What it is about, the route's handler notes; what the client got, the edge and the stream do. Who calls is
bound to the log lines of the request (`Callers.who`).
"""

from msgspec import Struct
from starlette.types import Scope

EXTENSION = "rejoinder"
"""The key of what is ours in an ASGI scope's `extensions`."""
NO_ROUTE = "none"
"""The route of a request that none takes."""


class Served(Struct):
    """One request. Times are those of a monotonic clock, in seconds. What is not known is empty."""

    began: float
    method: str
    route: str = NO_ROUTE
    """The route's template, such as `/v1/responses/{id}`."""
    response: str = ""
    """The id of the response that was made, or asked for."""
    endpoint: str = ""
    """The id of the webhook endpoint that was asked for."""
    status: int = 0
    """The status of the answer; 0 if the client got none."""
    answered: float = 0.0
    """When the answer began."""
    body_bytes: int = 0
    """Bytes of the answer's body that were handed to the connection."""
    end: str = ""
    """How a stream of events ended: `stream.End`."""

    @property
    def known(self) -> bool:
        """Whether a route took the request."""
        return self.route != NO_ROUTE


def served_in(scope: Scope) -> Served:
    """The request of an ASGI scope. One that no `Edge` has made is nobody's: what is noted there is lost."""
    ours = scope.get("extensions", {}).get(EXTENSION, {})
    found: Served | None = ours.get("served")
    return Served(0.0, scope.get("method", "")) if found is None else found
