"""Who calls: the tenant, or the admin, that a request comes from.

    a key of REJOINDER_API_KEYS, REJOINDER_ADMIN_KEYS or the file of keys   whose it is, unless it has expired
    a token of REJOINDER_JWT_ISSUER                                         who it says, once it is checked
    none is asked for                                                       the header of a proxy in front, or
                                                                            `default` without one

Where keys or tokens are asked for, the header has no effect. All that is not taken is one and the same 401:
why is in the metrics, for the operator.
"""

import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Self

from starlette.requests import Request
from structlog.contextvars import bind_contextvars

from schemas.errors import ApiError, SettingsError, invalid
from schemas.ids import Tenant, parse_tenant
from services.settings import PREFIX, Settings
from services.web.api_keys import ApiKeys, Grant, digest_of
from services.web.forwarded import Caller
from services.web.issuer import Issuer
from services.web.key_file import KeyFile
from services.web.tokens import MOST_BYTES, TokenRefused, TokenTerms, caller_by, header_of, is_token
from services.web.watched import FileBroken

DEFAULT_TENANT = Tenant("default")


class Callers:
    """Tells who calls, by these settings. `file` and `issuer` are there if the settings name them.

    `clock` is in seconds since the epoch. Run each of `loops` as long as the process serves.
    """

    def __init__(
        self,
        settings: Settings,
        file: KeyFile | None = None,
        issuer: Issuer | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._header = settings.tenant_header
        self._given = ApiKeys(_given(settings))
        self._asks = bool(settings.api_keys or settings.api_keys_file or settings.jwt_issuer)
        self._admins = bool(settings.admin_keys)
        self._file = file
        self._issuer = issuer
        self._terms = TokenTerms(
            settings.jwt_issuer,
            settings.jwt_audience,
            settings.jwt_leeway_s,
            settings.jwt_tenant_claim,
            settings.jwt_admin_claim,
            settings.jwt_admin_value,
        )
        self._clock = clock
        self.loops: Sequence[Callable[[], Coroutine[Any, Any, None]]] = [
            source.run for source in (file, issuer) if source is not None
        ]

    @classmethod
    async def of(cls, settings: Settings) -> Self:
        """Who calls by these settings; their file of keys is read. Raises SettingsError if it cannot be."""
        file = KeyFile(Path(settings.api_keys_file)) if settings.api_keys_file else None
        if file is not None:
            try:
                await file.first()
            except FileBroken as error:
                raise SettingsError(f"{PREFIX}API_KEYS_FILE: {error}") from error
        url, kept_s = settings.jwt_keys_url, settings.jwt_keys_kept_s
        issuer = Issuer(settings.jwt_issuer, url, kept_s=kept_s) if settings.jwt_issuer else None
        return cls(settings, file, issuer)

    async def tenant(self, request: Request) -> Tenant:
        """The tenant of `request`.

        Raises ApiError: 401 without a key or a token where they are asked for, 403 for an admin without a
        tenant, 400 for a header that names no tenant, 503 if a token cannot be checked now.
        """
        caller = await self.who(request)
        if caller.tenant is None:
            what = (
                "An admin's key reads what was used, and belongs to no tenant: use the key of a tenant here."
            )
            raise ApiError(403, what, code="admin_key")
        return caller.tenant

    async def who(self, request: Request) -> Caller:
        """The tenant or the admin that `request` comes from. Log lines of the request name both from now on.

        Where no key is asked for, who names no tenant is an admin as well: on a developer's machine that is
        everybody. A proxy names a tenant in each request, so its callers see their own.

        Raises ApiError as `tenant`, but for an admin.
        """
        caller = await self._who(request, _shown(request))
        named = {"key": caller.name, "admin": caller.admin} if caller.name else {}
        bind_contextvars(tenant=caller.tenant, **named)
        return caller

    async def _who(self, request: Request, shown: str) -> Caller:
        if len(shown) > MOST_BYTES and self._asks:
            raise _refused("key_too_long")
        if (grant := self._grant(shown)) is not None:
            if grant.expires is not None and grant.expires <= self._clock():
                raise _refused("key_expired")
            return Caller(grant.tenant, grant.admin, grant.name)
        if self._issuer is not None and is_token(shown):
            return await self._by_token(self._issuer, shown)
        if self._asks:
            raise _refused("key_unknown" if shown else "key_missing")
        open_to_all = not self._admins and self._header not in request.headers
        return Caller(self._by_header(request), admin=open_to_all)

    def _grant(self, shown: str) -> Grant | None:
        if not 0 < len(shown) <= MOST_BYTES:
            return None
        return self._given.find(shown) or (self._file.find(shown) if self._file is not None else None)

    async def _by_token(self, issuer: Issuer, token: str) -> Caller:
        try:
            return caller_by(token, await issuer.key(header_of(token)), self._terms)
        except TokenRefused as error:
            raise _refused(str(error)) from None

    def _by_header(self, request: Request) -> Tenant:
        given = request.headers.getlist(self._header) or [DEFAULT_TENANT]
        tenant = parse_tenant(given[0]) if len(given) == 1 else None
        if tenant is None:
            what = f"The header {self._header} must be 1 to 128 letters, digits or any of ._:@-, once"
            raise invalid(what, self._header)
        return tenant


def _given(settings: Settings) -> Sequence[Grant]:
    """The keys that the settings name themselves."""
    pairs = [pair.partition("=") for pair in settings.api_keys]
    tenants = [_grant(key, Tenant(tenant), admin=False) for tenant, _, key in pairs]
    return [*tenants, *(_grant(key, None, admin=True) for key in settings.admin_keys)]


def _grant(key: str, tenant: Tenant | None, *, admin: bool) -> Grant:
    """A key that has no name of its own: logs call it by the first 8 hex digits of its hash."""
    digest = digest_of(key)
    return Grant(digest, digest[:4].hex(), tenant, admin)


def _shown(request: Request) -> str:
    """The key or token that a request shows; "" if none."""
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    return shown.strip() if scheme.lower() == "bearer" else ""


def _refused(reason: str) -> ApiError:
    """The one answer to all that is not taken. Only the operator is told the `reason`."""
    headers = {"www-authenticate": "Bearer"}
    what = "Incorrect API key provided."
    return ApiError(401, what, code="invalid_api_key", headers=headers, reason=reason)
