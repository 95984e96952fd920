"""What ingest and executors ask of replay, on replay's internal port.

Ingest has no tail. It asks replay for the state of a response at or past a barrier, whether items exist, and
for the stream that a client of ingest's own public port waits for. An executor asks for turns and items. The
internal port is never exposed: it asks for a secret (`services.web.secret`), trusts a caller that shows it,
and checks no tenant.

    GET /internal/responses/{id}?offset=N          → ResponseView, from a fold past offset N (or past the
                                                     partition's end as of arrival, without `offset`)
    GET /internal/responses/{id}/stream?offset=N   → SSE from event 0, also for a response that is not stored
    GET /internal/responses/{id}/turn              → waits for the close, then Turn: what the response adds to
                                                     its conversation; 404 when there is no such response
    POST /internal/items                           → Wanted in, Found out: the items that a request refers to
    GET /internal/responses/{id}/result?offset=N   → waits for the close, then the final object (204: deleted)
    GET /internal/load                             → Load: how much is open, for admission
    GET /internal/serving                          → Serving: which partitions this replay serves

Replay answers 503 with Retry-After when its fold does not get there, or the response does not close, in time.
A replay that does not serve the partition answers 503 as well, code `misrouted`: another one serves it.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

from schemas.errors import MISROUTED, RejoinderError
from schemas.events import ITEM_ADDED, NAMED
from schemas.ids import ResponseId, Tenant
from services.web.secret import CERTIFY, MEND, UNCERTIFIED

log = structlog.get_logger()


class ResponseView(msgspec.Struct, frozen=True):
    """What the log says of one id. If `found` is false, only `id` and `read_to` mean anything.

    `found` is also true for a deleted response (then `deleted` is too) and for one that is not stored. An
    ephemeral response (`store` false, `background`) is `deleted` once its time is over. `accepted_offset` is
    the offset of the `accepted` that won, -1 if the log no longer has it. `object` is the response object as
    a GET would show it, but without the output of an open response.
    """

    id: ResponseId
    found: bool
    deleted: bool = False
    tenant: Tenant = Tenant("")
    accepted_offset: int = -1
    body_sha256: str = ""
    background: bool = False
    store: bool = True
    status: str = ""
    object: msgspec.Raw = msgspec.Raw(b"null")
    read_to: int = 0
    """The log time (ms) of the last record of its partition that was folded; 0 before the first."""


class Name(msgspec.Struct, frozen=True):
    """The id that the upstream `at` gives an item that has another id in our responses (U-30)."""

    id: str
    at: str


def name_in(event: Mapping[str, Any]) -> tuple[str, Name] | None:
    """The id of the item that `event` adds, and its name at the upstream; None if the event tells no name."""
    item, name = event.get("item"), event.get(NAMED)
    if event.get("type") != ITEM_ADDED or not isinstance(item, dict) or name is None:
        return None
    try:
        return str(item.get("id")), msgspec.convert(name, Name)
    except msgspec.ValidationError:
        return None


class Turn(msgspec.Struct, frozen=True):
    """What a closed response adds to its conversation.

    `input` is its own input only (normalised items), `output` its finished items, `previous` its predecessor.
    `names` are the upstream's names of items of the output, by item id.
    """

    id: ResponseId
    tenant: Tenant
    previous: ResponseId | None
    input: list[dict[str, Any]]
    output: list[dict[str, Any]]
    names: dict[str, Name] = {}


class Wanted(msgspec.Struct, frozen=True):
    """The ids of items to which a request of `tenant` that follows `previous` refers. Without `contents` the
    caller only asks whether they exist.

    The replay that is asked must serve the responses that the ids name, unless they are not `named`: then
    they are only looked for in the conversation that ends with `previous`.
    """

    tenant: Tenant
    previous: ResponseId | None
    ids: list[str]
    contents: bool = True
    named: bool = True


class Found(msgspec.Struct, frozen=True):
    """The answer to Wanted: `items` and `names` by id, and the ids that are `missing`. The caller must ask
    again for the ids that are `left`: with them the answer would be too large.

    With `behind` the ids that are `left` may be further back in the conversation: that goes on with response
    `behind`, in a partition which the replay does not serve.
    """

    missing: list[str]
    items: dict[str, dict[str, Any]] = {}
    names: dict[str, Name] = {}
    left: list[str] = []
    behind: ResponseId | None = None


class Serving(msgspec.Struct, frozen=True):
    """What a replay says of itself: the `partitions` that it serves of the `count` that it knows, and its
    public `port`, at the host of its internal one. `replays` are the URLs of internal ports that it knows,
    those of its own shard too. One that has not `caught_up` still reads the log, and is not ready to answer.
    """

    partitions: list[int]
    count: int
    port: int
    replays: list[str] = []
    caught_up: bool = True


class PartitionLoad(msgspec.Struct, frozen=True):
    """How many responses of each tenant (no tenant with none) are open in a partition of which everything
    before the offset `position` is folded.
    """

    position: int
    tenants: dict[Tenant, int]


class Load(msgspec.Struct, frozen=True):
    """How many responses are open in replay's folds, by `partitions`.

    The other fields are for ingests of the version before, which know no partitions of a load: how many are
    open in all and by tenant, and by partition the offset that is folded next (-1: not served).
    """

    open: int
    tenants: dict[Tenant, int]
    positions: list[int]
    partitions: dict[int, PartitionLoad] = {}

    def by_partition(self) -> dict[int, PartitionLoad]:
        """The load of each partition. A replay of the version before tells one sum, which counts as that of
        its first partition.
        """
        if self.partitions:
            return self.partitions
        told = {number: PartitionLoad(at, {}) for number, at in enumerate(self.positions)}
        return told | {0: PartitionLoad(self.positions[0], self.tenants)} if told else {}


class ReplayAway(RejoinderError):
    """Replay gave no usable answer. The message says what happened instead."""


class NotYet(ReplayAway):
    """Replay answered that it cannot tell now."""


class NotServed(ReplayAway):
    """No replay that can be asked serves the partition. The message says what is to be done."""


class _What(msgspec.Struct):
    code: str | None = None
    param: str | None = None
    message: str = ""


class _Refusal(msgspec.Struct):
    error: _What


_refusal = msgspec.json.Decoder(_Refusal).decode


def check_refusal(status: int, body: bytes) -> None:
    """Read an answer that is no success. Returns if replay says that there is no such response.

    Raises NotYet if replay says that it cannot tell now, NotServed if it says that another one serves the
    partition, ReplayAway for every other answer. A 404 alone says
    nothing of a response: any HTTP server, replay's public port too, answers 404 to an unknown path.
    """
    try:
        error = _refusal(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ReplayAway(f"what is there is not replay: it answered {status} in words of its own") from None
    if status == 404 and (error.code, error.param) == ("not_found", "response_id"):
        return
    if status == 503 and error.code == "service_unavailable":
        raise NotYet("replay cannot say now")
    if status == 503 and error.code == MISROUTED:
        raise NotServed(error.message or "it does not serve the partition")
    if error.code == UNCERTIFIED:
        raise ReplayAway(f"it asks this service for a certificate: {CERTIFY}")
    if status == 401:
        raise ReplayAway(f"it does not know our secret: {MEND}")
    if status == 404:
        raise ReplayAway("what is there is not replay's internal port: it does not know the path")
    raise ReplayAway(f"answered {status} ({error.code})")


class Report:
    """Logs for the operator that the service at `url` cannot be asked: once per reason, not once per try.

    `where` says what the URL must be: where nothing ever answered, it may be wrong.
    """

    def __init__(
        self,
        url: str,
        service: str = "replay",
        where: str = "REJOINDER_REPLAY_URL must be the URL of replay's internal port",
    ) -> None:
        self._url = url
        self._service = service
        self._where = where
        self._answered = False
        self._trouble: str | None = None

    def failed(self, why: Exception) -> None:
        """Log that the service could not be asked, if `why` is new."""
        trouble = str(why) or type(why).__name__
        if trouble != self._trouble:
            self._trouble = trouble
            event = f"{self._service} cannot be asked, trying again"
            mend = f"is {self._service} running?" + ("" if self._answered else f" If so, {self._where}")
            log.warning(event, url=self._url, why=trouble, mend=mend)

    def succeeded(self) -> None:
        """Log that the service answers, if it did not before."""
        self._answered = True
        if self._trouble is not None:
            self._trouble = None
            log.info(f"{self._service} answers again", url=self._url)


LOAD_PATH = "/internal/load"
SERVING_PATH = "/internal/serving"
ITEMS_PATH = "/internal/items"


def turn_path(id: ResponseId) -> str:
    """The path for the turn of `id`."""
    return _path(id, "/turn", None)


def view_path(id: ResponseId, offset: int | None = None) -> str:
    """The path and query for the state of `id` past `offset`."""
    return _path(id, "", offset)


def stream_path(id: ResponseId, offset: int) -> str:
    """The path and query for the stream of `id`."""
    return _path(id, "/stream", offset)


def result_path(id: ResponseId, offset: int) -> str:
    """The path and query for the final object of `id`."""
    return _path(id, "/result", offset)


def _path(id: ResponseId, view: str, offset: int | None) -> str:
    return f"/internal/responses/{id}{view}" + ("" if offset is None else f"?offset={offset}")
