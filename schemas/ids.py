"""Identifiers, parsed once at the edge.

A response id carries its partition: `resp_` + 4 hex digits of partition + 32 hex digits (128 bits) of
entropy. Producers address the partition explicitly, so partitions can be added to a running topic and
every old id still finds its log (P-1). Everything random is an argument: callers own the randomness.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple, NewType

ResponseId = NewType("ResponseId", str)
ClaimId = NewType("ClaimId", str)
ExecutorId = NewType("ExecutorId", str)
Tenant = NewType("Tenant", str)

MAX_PARTITIONS = 0x10000
ENTROPY_BYTES = 16
"""Entropy of a response id, in bytes."""
TOKEN_BYTES = 8
"""Entropy of a claim id, an executor id or a nonce, in bytes: unique within one response is enough."""

MAX_ITEMS = 1 << 28
"""Items of the input, or of the output, of a response: no record holds so many."""

RESPONSE_ID = re.compile(r"resp_[0-9a-f]{36}")
CLAIM_ID = re.compile(rf"c[0-9a-f]{{{2 * TOKEN_BYTES}}}")
TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")
_PARTITION = slice(5, 9)
_PREFIX = re.compile(r"[a-z][a-z0-9]{0,17}")
_ITEM_ID = re.compile(rf"{_PREFIX.pattern}_([0-9a-f]{{36}})(i?)([0-9a-f]{{4}}|[1-9a-f][0-9a-f]{{4,6}})")
_PREFIXES: Mapping[str, str] = {
    "apply_patch_call": "apc",
    "apply_patch_call_output": "apco",
    "code_interpreter_call": "ci",
    "compaction": "cmp",
    "computer_call": "cu",
    "computer_call_output": "cco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "file_search_call": "fs",
    "function_call": "fc",
    "function_call_output": "fco",
    "image_generation_call": "ig",
    "local_shell_call": "lsh",
    "local_shell_call_output": "lsho",
    "mcp_approval_request": "mcpr",
    "mcp_approval_response": "mcpa",
    "mcp_call": "mcp",
    "mcp_list_tools": "mcpl",
    "message": "msg",
    "reasoning": "rs",
    "shell_call": "sh",
    "shell_call_output": "sho",
    "web_search_call": "ws",
}
"""Item type to the prefix of its ids, as the API has them."""


def response_id(partition: int, entropy: bytes) -> ResponseId:
    """The id of a response in `partition` (0-65535) from `ENTROPY_BYTES` random or derived bytes."""
    if not 0 <= partition < MAX_PARTITIONS:
        raise ValueError(f"partition {partition} is outside 0..{MAX_PARTITIONS - 1}")
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"a response id needs {ENTROPY_BYTES} bytes of entropy, got {len(entropy)}")
    return ResponseId(f"resp_{partition:04x}{entropy.hex()}")


def idempotent_response_id(tenant: Tenant, key: str, key_partitions: int) -> ResponseId:
    """The id that every POST with this Idempotency-Key of this tenant meets (P-2).

    `key_partitions` never changes, so the id is the same when partitions were added meanwhile (P-139). The
    partition comes from the key alone, not from a predecessor, so a retry with another body lands
    beside the first one and is told apart there.
    """
    digest = hashlib.sha256(f"{len(tenant)}:{tenant}{key}".encode()).digest()
    partition = int.from_bytes(digest[ENTROPY_BYTES : ENTROPY_BYTES + 4]) % key_partitions
    return response_id(partition, digest[:ENTROPY_BYTES])


def parse_response_id(text: str, partition: int | None = None) -> ResponseId | None:
    """`text` as a response id, of `partition` if that is given, or None when it is not one of ours."""
    if not RESPONSE_ID.fullmatch(text):
        return None
    id = ResponseId(text)
    return id if partition is None or partition_of(id) == partition else None


def partition_of(id: ResponseId) -> int:
    """The partition in which every record of this response lives."""
    return int(id[_PARTITION], 16)


def parse_tenant(text: str) -> Tenant | None:
    """`text` as a tenant name (1-128 of letters, digits and `._:@-`), or None."""
    return Tenant(text) if TENANT.fullmatch(text) else None


def claim_id(entropy: bytes) -> ClaimId:
    """A claim's own id from `TOKEN_BYTES` random bytes: `c` and 16 hex digits (P-14)."""
    return ClaimId(f"c{entropy.hex()}")


def parse_claim_id(text: str) -> ClaimId | None:
    """`text` as a claim id, or None: no nonce and no name of a kind is one, so a key cannot be two (P-14)."""
    return ClaimId(text) if CLAIM_ID.fullmatch(text) else None


def executor_id(entropy: bytes) -> ExecutorId:
    """An executor's id, fresh per process (P-40), from `TOKEN_BYTES` random bytes."""
    return ExecutorId(f"exec_{entropy.hex()}")


class ItemPlace(NamedTuple):
    """Where an item lies: at `position` of the output of `response`, or of its input, if it was `given`."""

    response: ResponseId
    position: int
    given: bool


def item_id(prefix: str, id: ResponseId, position: int, *, given: bool = False) -> str:
    """The id of the item at `position` (0-268435455) of the output, or the `given` input, of response `id`.

        msg_ 0003…b7 0000       output: the response's hex digits, then at least 4 of the position
        msg_ 0003…b7 i0002      input

    An item's id carries its response's id, as that carries its partition, so no index is needed to find an
    item. It is derived: an executor that takes over, or another replica, mints the same one. It has at most
    63 characters; clients and upstreams take 64.
    """
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"{prefix!r} is no prefix of an item id")
    if not 0 <= position < MAX_ITEMS:
        raise ValueError(f"item {position} is outside 0..{MAX_ITEMS - 1}")
    return f"{prefix}_{id[len('resp_') :]}{'i' if given else ''}{position:04x}"


def parse_item_id(text: str) -> ItemPlace | None:
    """Where the item with the id `text` lies, or None when `text` is no item id of ours."""
    match = _ITEM_ID.fullmatch(text)
    if match is None:
        return None
    response, given, position = match.groups()
    return ItemPlace(ResponseId(f"resp_{response}"), int(position, 16), bool(given))


def item_prefix(type: str, theirs: object = None) -> str:
    """The prefix of the id of an item of `type`: clients, and OpenAI, tell an item's type by it.

    A type of the API has the API's prefix. Another type has that of `theirs`, the upstream's id of the item,
    if that is a plain one, else `item`.
    """
    known = _PREFIXES.get(type)
    if known is not None:
        return known
    prefix = theirs.partition("_")[0] if isinstance(theirs, str) and "_" in theirs else ""
    return prefix if _PREFIX.fullmatch(prefix) else "item"
