"""What the front door asks of ingest on ingest's internal port, and what ingest answers.

Replay is the front door: it works out the tenant and the id, and hands the command over. Ingest decides and
appends. No event passes through ingest. Ingest trusts a caller that shows the secret, and checks no key of a
tenant.

    POST /internal/create/{id}    the request's body, an `Order` in the header `ORDER` → Made, or Elsewhere
    POST /internal/cancel/{id}    → the cancelled object
    POST /internal/delete/{id}    → nothing (204)
    POST /internal/abandon/{id}   → nothing (204): the response is cancelled, or needs no cancel

The last three name the tenant in the header `TENANT`. Ingest refuses with the envelope that the client is to
get.
"""

from typing import Literal

import msgspec

from schemas.ids import ResponseId, Tenant

ORDER = "x-rejoinder-order"
"""The header of a create: an `Order` as JSON."""
TENANT = "x-rejoinder-for"
"""The header of every other command: the tenant of the response that it is about."""

DRAINING = "draining"
"""The code with which a draining ingest refuses. It took nothing, so the front door may ask another one."""

ABANDON_PAUSES_S = (0, 1, 4, 15)
"""Seconds to wait before each try to cancel a response whose client is gone."""

Answer = Literal["object", "stream", "result"]
"""What the client of a create gets: the object as it stands, the stream, or the final object."""
Command = Literal["create", "cancel", "delete", "abandon"]


class Order(msgspec.Struct, frozen=True):
    """What the front door tells ingest of a create beside the body and the id.

    `keyed`: the id is that of an Idempotency-Key. `not_after` (ms since the epoch) is the last log time at
    which an `accepted` of the id can count (P-65). All attempts under one id have the same, so the fold can
    tell when none of them can count any more. `waited_s`: seconds for which the client has waited (A-10).
    """

    tenant: Tenant
    keyed: bool
    not_after: int
    waited_s: float = 0


class Made(msgspec.Struct, frozen=True, tag=True):
    """Ingest knows an `accepted` of the id in the log at `offset`. Only the fold says whether it counts.

    `cancels`: the response ends with the client that waits for it (A-7). `retrievable`: the tenant can get
    the response on other connections as well (A-9). `object` is the response object if `answer` is "object".
    """

    offset: int
    answer: Answer
    cancels: bool
    retrievable: bool
    object: msgspec.Raw = msgspec.Raw(b"null")


class Elsewhere(msgspec.Struct, frozen=True, tag=True):
    """Ingest sent nothing to the log: the response needs an id in `partition` (None: in any other one)."""

    partition: int | None


def command_path(command: Command, id: ResponseId) -> str:
    """The path of a command about `id`."""
    return f"/internal/{command}/{id}"
