"""Decisions on what the log says of a response. Pure: a view in, a verdict or a refusal out."""

from enum import Enum

from schemas.errors import NO_RETRY, ApiError, invalid, not_found
from schemas.fold import CANCELLED, TERMINAL_STATUSES
from schemas.ids import Tenant
from schemas.request import CreateRequest, previous_not_found, previous_not_stored
from services.web.commands import Answer
from services.web.internal import ResponseView
from services.web.keys import IDEMPOTENCY_KEY


def visible(view: ResponseView, tenant: Tenant) -> bool:
    """Whether `tenant` may see the response: it exists, is its own, is not deleted and not hidden (P-78)."""
    return view.found and not view.deleted and (view.store or view.background) and view.tenant == tenant


def check_visible(view: ResponseView, tenant: Tenant) -> ResponseView:
    """`view`, or ApiError (404) when `tenant` may not see the response."""
    if not visible(view, tenant):
        raise not_found(view.id)
    return view


def check_predecessor(view: ResponseView, tenant: Tenant) -> None:
    """Whether a response of `tenant` may follow this one (A-13, P-37), or ApiError (404): what is kept for minutes
    only must not be needed by what is kept for good.
    """
    if not visible(view, tenant):
        raise previous_not_found(view.id)
    if not view.store:
        raise previous_not_stored(view.id)


def already_cancelled(view: ResponseView) -> bool:
    """Whether it is cancelled; false when it may be, ApiError (400) when it may not (A-11)."""
    if not view.background:
        raise invalid("Cannot cancel a synchronous response.", "response_id", "invalid_request")
    if view.status in TERMINAL_STATUSES - {CANCELLED}:
        article = "an" if view.status == "incomplete" else "a"
        raise invalid(f"Cannot cancel {article} {view.status} response.", "response_id", "invalid_request")
    return view.status == CANCELLED


def ended(view: ResponseView) -> bool:
    """Whether nothing can come of the response any more: it has closed, is deleted, or is forgotten."""
    return not view.found or view.deleted or view.status in TERMINAL_STATUSES


def ends_with_its_client(request: CreateRequest, *, keyed: bool) -> bool:
    """Whether the response is cancelled when the client that waits for it goes (A-7).

    A key says that the client may come back, as SDKs do after a time-out: it meets the response then.
    """
    return not (request.background or keyed)


def answer_to(request: CreateRequest) -> Answer:
    """What a create is answered with."""
    if request.stream:
        return "stream"
    return "object" if request.background else "result"


def check_repeated(view: ResponseView, request: CreateRequest) -> None:
    """Whether the response that an Idempotency-Key met is what `request` asks for. Raises ApiError (422)."""
    if view.deleted:
        raise _unusable("made a response that was deleted, or not stored and erased", "response_deleted")
    if view.body_sha256 != request.sha256:
        raise _unusable("was used with another request body", "idempotency_key_reused")


class Settled(Enum):
    """What became of an `accepted` whose append was in doubt (P-35)."""

    COUNTS = "counts"
    VOID = "void"
    UNKNOWN = "unknown"


def settled(view: ResponseView, not_after: int, skew_ms: int) -> Settled:
    """What the fold knows of an id that nobody else can have, once its append was given up.

    It is not there yet: then it is void only when its partition was read past `not_after`. Log time may go
    back by the skew when another broker leads, so past that too. An idle partition proves nothing.
    """
    if view.found:
        return Settled.COUNTS
    return Settled.VOID if view.read_to > not_after + skew_ms else Settled.UNKNOWN


def _unusable(why: str, code: str) -> ApiError:
    return ApiError(
        422,
        f"This {IDEMPOTENCY_KEY} {why}.",
        param=IDEMPOTENCY_KEY,
        code=code,
        headers=NO_RETRY,
    )
