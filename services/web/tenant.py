"""Which tenant a request belongs to.

If API keys are set, the tenant of the request's key. Otherwise a proxy in front authorises and names the
tenant in a header; without that header the tenant is `default`.
"""

import hmac
from collections.abc import Iterable
from hashlib import sha256

from starlette.requests import Request
from structlog.contextvars import bind_contextvars

from schemas.errors import ApiError, invalid
from schemas.ids import Tenant, parse_tenant
from services.settings import Settings
from services.web.forwarded import Caller

DEFAULT_TENANT = Tenant("default")


def tenant_of(request: Request, settings: Settings) -> Tenant:
    """The tenant of `request`.

    Raises ApiError: 401 without a known key if keys are set, 403 with an admin's key, 400 for a header that
    names no tenant.
    """
    caller = who_calls(request, settings)
    if caller.tenant is None:
        what = "An admin's key reads what was used, and belongs to no tenant: use the key of a tenant here."
        raise ApiError(403, what, code="admin_key")
    return caller.tenant


def who_calls(request: Request, settings: Settings) -> Caller:
    """The tenant or the admin that `request` comes from. Log lines of the request name both from now on.

    Where no key is asked for, who names no tenant is an admin as well: on a developer's machine that is
    everybody. A proxy names a tenant in each request, so its callers see their own.

    Raises ApiError as `tenant_of`, but for an admin's key.
    """
    caller = _caller(request, settings)
    bind_contextvars(tenant=caller.tenant, **_key_bound(request, settings))
    return caller


def _key_bound(request: Request, settings: Settings) -> dict[str, str]:
    """What log lines call the key of a request: 8 hex digits of its SHA-256, which tell nothing of it."""
    if not settings.api_keys and not settings.admin_keys:
        return {}
    key = request.headers.get("authorization", "").partition(" ")[2].strip()
    return {"key": sha256(key.encode("latin-1")).hexdigest()[:8]} if key else {}


def _caller(request: Request, settings: Settings) -> Caller:
    authorization = request.headers.get("authorization", "")
    if settings.admin_keys and _is_key(authorization, settings.admin_keys):
        return Caller(None, admin=True)
    if settings.api_keys:
        return Caller(_by_key(authorization, settings.api_keys), admin=False)
    open_to_all = not settings.admin_keys and settings.tenant_header not in request.headers
    return Caller(_by_header(request, settings), admin=open_to_all)


def _by_header(request: Request, settings: Settings) -> Tenant:
    header = settings.tenant_header
    given = request.headers.getlist(header) or [DEFAULT_TENANT]
    tenant = parse_tenant(given[0]) if len(given) == 1 else None
    if tenant is None:
        raise invalid(f"The header {header} must be 1 to 128 letters, digits or any of ._:@-, once", header)
    return tenant


def _is_key(authorization: str, keys: Iterable[str]) -> bool:
    scheme, _, given = authorization.partition(" ")
    same = [hmac.compare_digest(key.encode(), given.strip().encode()) for key in keys]
    return any(same) and scheme.lower() == "bearer"


def _by_key(authorization: str, api_keys: Iterable[str]) -> Tenant:
    """The tenant of a key. Compares it with every key in constant time, so timing tells nothing of them."""
    scheme, _, given = authorization.partition(" ")
    found = None
    for pair in api_keys:
        tenant, _, key = pair.partition("=")
        if hmac.compare_digest(key.encode(), given.strip().encode()):
            found = Tenant(tenant)
    if found is None or scheme.lower() != "bearer":
        headers = {"www-authenticate": "Bearer"}
        raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key", headers=headers)
    return found
