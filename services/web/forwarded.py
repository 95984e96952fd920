"""What the front door tells a service behind it of a request that it forwards.

Replay is the front door: it works out who calls, and hands the request over with the method, the query and
the body of the client. The service serves each public path below `INSIDE`, on its internal port, to callers
that show the secret. It checks no key of a tenant.
"""

import msgspec
from starlette.requests import Request

from schemas.errors import ApiError
from schemas.ids import Tenant

INSIDE = "/internal"
"""Put before a public path, it is the path at the service's internal port."""
CALLER = "x-rejoinder-caller"
"""The header that names who calls: a `Caller` as JSON."""


class Caller(msgspec.Struct, frozen=True):
    """Who calls: a tenant, an admin, who may read what all tenants used, or both.

    `name` is that of the API key, or the subject of the token, for logs; "" where there is none.
    """

    tenant: Tenant | None
    admin: bool
    name: str = ""


def target_of(request: Request) -> str:
    """Path and query as the client wrote them: its percent signs stay as they are."""
    raw: bytes = request.scope["raw_path"]
    query: bytes = request.scope["query_string"]
    text = raw.decode("latin-1")
    return f"{text}?{query.decode('latin-1')}" if query else text


_caller = msgspec.json.Decoder(Caller).decode


def caller_header(caller: Caller) -> dict[str, str]:
    """The header that names `caller`."""
    return {CALLER: msgspec.json.encode(caller).decode()}


def caller_of(request: Request) -> Caller:
    """Who calls, as the front door says. Raises ApiError (400) if it does not say so."""
    try:
        return _caller(request.headers.get(CALLER, ""))
    except msgspec.DecodeError:
        what = f"The header {CALLER} must name who calls: ask the front door, not this port."
        raise ApiError(400, what, param=CALLER, code="invalid_request") from None
