"""What services of ours show each other at internal ports: a secret (`REJOINDER_INTERNAL_SECRET`), and a
certificate, if they have one (`services.web.certificates`).
"""

import hmac
from collections.abc import Mapping

from starlette.datastructures import Headers

from schemas.errors import ApiError

_SCHEME = "Bearer "
MEND = "give all services of Rejoinder the same REJOINDER_INTERNAL_SECRET"
CERTIFY = "give it REJOINDER_INTERNAL_CERT_FILE, …_KEY_FILE and …_CA_FILE"
UNCERTIFIED = "certificate_missing"
"""The code of the refusal of a caller without a certificate."""


def secret_headers(secret: str) -> Mapping[str, str]:
    """The headers that show `secret`, which may be empty."""
    return {"authorization": _SCHEME + secret} if secret else {}


def check_secret(headers: Headers, secret: str) -> None:
    """Refuse a request that does not show `secret`. Raises ApiError (401).

    The comparison takes constant time, so how long a refusal takes tells nothing of the secret.
    """
    given = headers.get("authorization", "").removeprefix(_SCHEME)
    # Starlette reads headers as Latin-1, so any value can be encoded again.
    if not hmac.compare_digest(given.encode("latin-1"), secret.encode()):
        what = f"This port is for services of Rejoinder that show its secret: {MEND}."
        raise ApiError(401, what, code="wrong_internal_secret")


def uncertified() -> ApiError:
    """401: the caller has shown no certificate."""
    what = f"This port is for services of Rejoinder that show a certificate: {CERTIFY}."
    return ApiError(401, what, code=UNCERTIFIED)
