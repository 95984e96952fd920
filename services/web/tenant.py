"""Which tenant a request belongs to.

If API keys are set, the tenant of the request's key. Otherwise a proxy in front authorises and names the
tenant in a header; without that header the tenant is `default`.
"""

import hmac
from collections.abc import Iterable

from starlette.requests import Request

from schemas.errors import ApiError, invalid
from schemas.ids import Tenant, parse_tenant
from services.settings import Settings

DEFAULT_TENANT = Tenant("default")


def tenant_of(request: Request, settings: Settings) -> Tenant:
    """The tenant of `request`.

    Raises ApiError: 401 without a known key if keys are set, 400 for a header that names no tenant.
    """
    if settings.api_keys:
        return _by_key(request.headers.get("authorization", ""), settings.api_keys)
    header = settings.tenant_header
    given = request.headers.getlist(header) or [DEFAULT_TENANT]
    tenant = parse_tenant(given[0]) if len(given) == 1 else None
    if tenant is None:
        raise invalid(f"The header {header} must be 1 to 128 letters, digits or any of ._:@-, once", header)
    return tenant


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
