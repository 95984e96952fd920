"""What a backend is: it calls a model or an agent and hands over the stream events that come back.

A backend knows its upstream's protocol and nothing of the log: numbering, the response's identity, the
opening events and honest ends are the run's (`narrator.py`, `scribe.py`). It yields events in batches, as
they came off the wire: a fast upstream costs few wake-ups. Taking the next batch is the back-pressure.

What a run expects of the events: Responses API shapes, decoded; `sequence_number` and `response.id` may be
the upstream's own, they are rewritten; `response.created` and `response.queued` are dropped; item ids,
types and call ids stable from `added` to `done` and in the final object; the last event is a terminal one
whose `response` has at least `output` and `usage` where known. Events of other types are kept as extensions.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from msgspec import Struct

from schemas.errors import RejoinderError
from schemas.events import Event
from schemas.ids import ResponseId, Tenant
from services.web.internal import Name


class RunRequest(Struct, frozen=True):
    """What is to be run.

    `body` is the client's request as it came, decoded. `input` is the whole input as a list of Responses
    input items: what the chain of predecessors said and put out, then this request's own. `response` is the
    initial object. `names` are what upstreams, this one or others, call items of `input` whose ids are ours.
    """

    id: ResponseId
    tenant: Tenant
    attempt: int
    body: dict[str, Any]
    input: list[dict[str, Any]]
    response: dict[str, Any]
    names: Mapping[str, Name] = {}
    abandoned: Callable[[], bool] = lambda: False
    """The backend asks it when its stream is closed: true leaves a resumable upstream running."""
    calling: Callable[[], None] = lambda: None
    """The backend calls it right before each request to the upstream, the repeated ones too, however long it
    waited for a connection. Raises Lapsed when the request must not be made any more (P-53).
    """
    headers: Mapping[str, str] = {}
    """What the backend sends with each request to the upstream: the run's trace context."""
    answered: Callable[[], None] = lambda: None
    """The backend calls it when the head of the upstream's answer has come, if that is no error."""


class Resume(Struct, frozen=True):
    """Where to go on after an executor died or a connection broke.

    `upstream_id` and `cursor` are what the log's headers say of the upstream (P-34); `counted` is how many
    events of the upstream counted so far, for a backend whose continuation is deterministic.
    """

    upstream_id: str | None
    cursor: int | None
    counted: int


class UpstreamEvent(NamedTuple):
    """One event of the upstream; `upstream_id` and `cursor` where it can be resumed there."""

    event: Event
    upstream_id: str | None = None
    cursor: int | None = None


class Refusal(Struct, frozen=True):
    """What the upstream's own error answer said: its HTTP `status`, and after how many seconds it may be
    called again. `retry_after` is None unless the upstream started nothing and may take a second call.
    """

    status: int
    retry_after: float | None = None


class UpstreamError(RejoinderError):
    """The upstream failed for good: ends the response `failed` with this message.

    `code` is one of the closed list of response error codes (A-8), `type` Rejoinder's own word for the
    failure, `refusal` what the upstream's error answer said, where that was the failure (A-24), `usage` what
    it said of tokens before it failed.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "server_error",
        type: str = "upstream_error",
        refusal: Refusal | None = None,
        usage: object = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.type = type
        self.refusal = refusal
        self.usage = usage


class Lapsed(RejoinderError):
    """The claim is too old to call the upstream: another executor may have taken the response over (P-52)."""


class Backend(Protocol):
    """Calls one kind of upstream. One instance serves many runs at once."""

    @property
    def repeatable(self) -> bool:
        """Whether a run may be started again from nothing, when no output counted (P-44)."""
        ...

    @property
    def resumable(self) -> bool:
        """Whether a run can go on where it stood (P-44)."""
        ...

    @property
    def pass_extensions(self) -> bool:
        """Whether events of types outside the Responses API go into the stream instead of beside it."""
        ...

    def stream(
        self, request: RunRequest, resume: Resume | None = None
    ) -> AsyncGenerator[Sequence[UpstreamEvent]]:
        """Call the upstream and yield its events. Closing the generator stops the upstream, with a cancel if
        it is resumable; a resumable one of a run that is abandoned goes on.

        Raises UpstreamError, and nothing else, for every failure of the upstream; Lapsed as `request.calling`
        does.
        """
        ...

    async def stop(self, upstream_id: str) -> None:
        """Cancel the response `upstream_id` of a resumable upstream: one try, in bounded time. A failure is
        passed over.
        """
        ...

    async def close(self) -> None:
        """Close connections that are kept between runs."""
        ...
