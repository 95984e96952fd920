"""The header by which a repeated POST meets the response that the first one made (A-10)."""

from starlette.datastructures import Headers

from schemas.errors import invalid

IDEMPOTENCY_KEY = "Idempotency-Key"
MAX_KEY = 255
"""Characters of an Idempotency-Key."""


def key_in(headers: Headers) -> str | None:
    """The Idempotency-Key of a request, None if it is absent or empty. Raises ApiError (400) if too long."""
    given = headers.get(IDEMPOTENCY_KEY)
    if given and len(given) > MAX_KEY:
        raise invalid(f"{IDEMPOTENCY_KEY} may have at most {MAX_KEY} characters.", IDEMPOTENCY_KEY)
    return given or None
