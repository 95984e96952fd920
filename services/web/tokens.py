"""What a token (JWT, RFC 7519) says of who calls, and whether it may be believed.

    header → may its algorithm be? → the issuer's key → signature, issuer, audience, times → tenant, admin

Whoever sends a token hears nothing but that it is not taken. Why not is a word for the operator's metrics.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jwt
from jwt import PyJWK
from msgspec import Struct

from schemas.errors import RejoinderError
from schemas.ids import Tenant, parse_tenant
from services.web.forwarded import Caller
from services.web.jwks import ALGORITHMS

MOST_BYTES = 8192
"""Bytes of the longest token."""
MOST_NAME = 128
"""Characters of a subject that logs show."""
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
"""Types of tokens that say who calls. Those for other ends, a logout say, may be signed with the same keys
(RFC 8725, 3.11)."""
_REASONS: Sequence[tuple[type[Exception], str]] = (
    (jwt.ExpiredSignatureError, "token_expired"),
    (jwt.ImmatureSignatureError, "token_not_yet"),
    (jwt.InvalidAudienceError, "token_audience"),
    (jwt.InvalidIssuerError, "token_issuer"),
    (jwt.MissingRequiredClaimError, "token_claim"),
    (jwt.InvalidSignatureError, "token_signature"),
    (jwt.InvalidAlgorithmError, "token_algorithm"),
)
_FAULTS = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)
"""What a token can make PyJWT raise: a header of thousands of brackets, a time that is no number, …"""


class TokenRefused(RejoinderError):
    """A token is not believed. The message is one word for metrics: no part of the token, and few of them."""


class TokenTerms(Struct, frozen=True):
    """What a token must say, and where it says who calls.

    `leeway_s`: seconds by which the issuer's clock may differ. `tenant_claim` and `admin_claim` name a claim,
    or the way to one in others with dots between. Who has `admin_value` there is an admin.
    """

    issuer: str
    audience: str
    leeway_s: float
    tenant_claim: str
    admin_claim: str = ""
    admin_value: str = ""


class TokenHeader(Struct, frozen=True):
    """What a token's header says of how it was signed."""

    kid: str | None
    algorithm: str


def is_token(given: str) -> bool:
    """Whether what a client shows has the shape of a token."""
    return given.count(".") == 2


def header_of(token: str) -> TokenHeader:
    """How `token` says that it was signed; nothing of it is checked. Raises TokenRefused."""
    try:
        header = jwt.get_unverified_header(token)
    except _FAULTS:
        raise TokenRefused("token_malformed") from None
    algorithm, type = header.get("alg"), header.get("typ", "JWT")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise TokenRefused("token_algorithm")
    if not isinstance(type, str) or type.lower() not in _TYPES or "crit" in header:
        raise TokenRefused("token_type")
    return TokenHeader(header.get("kid"), algorithm)


def caller_by(token: str, key: PyJWK, terms: TokenTerms) -> Caller:
    """Who calls with `token`, which `key` is to have signed. Raises TokenRefused."""
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            audience=terms.audience,
            issuer=terms.issuer,
            leeway=terms.leeway_s,
            options={"require": ["exp", "iss", "aud"]},
        )
    except _FAULTS as error:
        raise TokenRefused(_reason(error)) from None
    return _caller(claims, terms)


def _reason(error: Exception) -> str:
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), "token_malformed")


def _caller(claims: Mapping[str, Any], terms: TokenTerms) -> Caller:
    tenant = _tenant(_claim(claims, terms.tenant_claim))
    admin = bool(terms.admin_claim) and _has(_claim(claims, terms.admin_claim), terms.admin_value)
    if tenant is None and not admin:
        raise TokenRefused("token_tenant")
    return Caller(tenant, admin, _plain(str(claims.get("sub", ""))))


def _claim(claims: Any, name: str) -> Any:
    """The claim `name`: one of just that name, as names that are URLs have dots, else the way to it."""
    if name in claims:
        return claims[name]
    for part in name.split("."):
        claims = claims.get(part) if isinstance(claims, Mapping) else None
    return claims


def _tenant(found: Any) -> Tenant | None:
    if isinstance(found, int) and not isinstance(found, bool):
        found = str(found)
    return parse_tenant(found) if isinstance(found, str) else None


def _plain(name: str) -> str:
    """`name` as logs and headers can carry it."""
    return "".join(sign if "!" <= sign <= "~" else "?" for sign in name[:MOST_NAME])


def _has(found: Any, value: str) -> bool:
    return found == value or (isinstance(found, list) and value in found)
