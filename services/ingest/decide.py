"""Decisions about a response. Pure: replay's view of it comes in, a verdict or a refusal goes out."""

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
    """Raise ApiError (404) unless a response of `tenant` may follow this one (A-13, P-37).

    A response that is kept for good must not need one that is kept for minutes.
    """
    if not visible(view, tenant):
        raise previous_not_found(view.id)
    if not view.store:
        raise previous_not_stored(view.id)


def already_cancelled(view: ResponseView) -> bool:
    """Whether the response is cancelled. Raises ApiError (400) if it is not and must not be (A-11)."""
    if not view.background:
        raise invalid("Cannot cancel a synchronous response.", "response_id", "invalid_request")
    if view.status in TERMINAL_STATUSES - {CANCELLED}:
        article = "an" if view.status == "incomplete" else "a"
        raise invalid(f"Cannot cancel {article} {view.status} response.", "response_id", "invalid_request")
    return view.status == CANCELLED


def ended(view: ResponseView) -> bool:
    """Whether the response has closed, is deleted or is forgotten: none of its events can come any more."""
    return not view.found or view.deleted or view.status in TERMINAL_STATUSES


def ends_with_its_client(request: CreateRequest, *, keyed: bool) -> bool:
    """Whether the response is cancelled when the client that waits for it goes (A-7).

    A client that sent a key may come back, as SDKs do after a time-out, and meets the response then.
    """
    return not (request.background or keyed)


def answer_to(request: CreateRequest) -> Answer:
    """What the client of a create gets."""
    if request.stream:
        return "stream"
    return "object" if request.background else "result"


def check_repeated(view: ResponseView, request: CreateRequest) -> None:
    """Raise ApiError (422) unless the response that an Idempotency-Key met is what `request` asks for."""
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
    """What became of an `accepted` in doubt, as the fold knows its id, which no other create can have.

    An `accepted` that the fold does not know is void only once the fold has read its partition past
    `not_after` (log time, ms) and the skew: log time may go back by the skew when another broker leads. An
    idle partition proves nothing.
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
