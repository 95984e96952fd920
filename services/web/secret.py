"""The secret that services of ours show each other at internal ports (`REJOINDER_INTERNAL_SECRET`)."""

import hmac
from collections.abc import Mapping

from starlette.datastructures import Headers

from schemas.errors import ApiError

_SCHEME = "Bearer "
MEND = "give all services of Rejoinder the same REJOINDER_INTERNAL_SECRET"


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
