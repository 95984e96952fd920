"""What the front door asks of ingest, on ingest's internal port: commands, and what came of them.

Replay is the front door: it works out the tenant and the id, and hands the command over. Ingest decides and
appends. No event passes through it. Ingest trusts whoever shows the secret, and checks no key of a tenant.

    POST /internal/create/{id}    the request's body, an `Order` in the header `ORDER` → Made, or Elsewhere
    POST /internal/cancel/{id}    → the cancelled object
    POST /internal/delete/{id}    → nothing (204)
    POST /internal/abandon/{id}   → nothing (204): it is cancelled, or there is nothing to cancel

The last three say the tenant in the header `TENANT`. A refusal is the envelope that the client is to get.
"""

from typing import Literal

import msgspec

from schemas.ids import ResponseId, Tenant

ORDER = "x-rejoinder-order"
"""The header of a create: an `Order` as JSON."""
TENANT = "x-rejoinder-for"
"""The header of every other command: whose response it is about."""

DRAINING = "draining"
"""The code of ingest's refusal in a drain: it took nothing, so another one may be asked."""

ABANDON_PAUSES_S = (0, 1, 4, 15)
"""Seconds before each try to cancel a response whose client is gone."""

Answer = Literal["object", "stream", "result"]
"""What a create is answered with: the object as it stands, the stream, or the final object."""
Command = Literal["create", "cancel", "delete", "abandon"]


class Order(msgspec.Struct, frozen=True):
    """What ingest is told of a create beside the body and the id.

    `keyed`: the id is that of an Idempotency-Key. `not_after` (ms since the epoch) bounds the log time at
    which an `accepted` of the id can count (P-65): the same for whoever is sent it, so that the fold can tell
    when none can any more. `waited_s`: how long the client has waited already (A-10).
    """

    tenant: Tenant
    keyed: bool
    not_after: int
    waited_s: float = 0


class Made(msgspec.Struct, frozen=True, tag=True):
    """An `accepted` of the id was in the log at `offset`, as ingest knows. Whether it counts the fold says.

    `cancels`: the response ends with the client that waits for it (A-7). `retrievable`: others than its
    connection can get it (A-9). `object` is the response's where that is the `answer`.
    """

    offset: int
    answer: Answer
    cancels: bool
    retrievable: bool
    object: msgspec.Raw = msgspec.Raw(b"null")


class Elsewhere(msgspec.Struct, frozen=True, tag=True):
    """Nothing was sent to the log: the response needs an id in `partition`, or in any other one (None)."""

    partition: int | None


def command_path(command: Command, id: ResponseId) -> str:
    """The path of a command about `id`."""
    return f"/internal/{command}/{id}"
