"""Identifiers, parsed once at the edge.

A response id carries its partition: `resp_` + 4 hex digits of partition + 32 hex digits (128 bits) of
entropy. Producers address the partition explicitly, so partitions can be added to a running topic and
every old id still finds its log (P-1). Everything random is an argument: callers own the randomness.
"""

import hashlib
import re
from typing import NewType

ResponseId = NewType("ResponseId", str)
ClaimId = NewType("ClaimId", str)
ExecutorId = NewType("ExecutorId", str)
Tenant = NewType("Tenant", str)

MAX_PARTITIONS = 0x10000
ENTROPY_BYTES = 16
"""Entropy of a response id, in bytes."""
TOKEN_BYTES = 8
"""Entropy of a claim id, an executor id or a nonce, in bytes: unique within one response is enough."""

_RESPONSE_ID = re.compile(r"resp_[0-9a-f]{36}")
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")
_PARTITION = slice(5, 9)


def response_id(partition: int, entropy: bytes) -> ResponseId:
    """The id of a response in `partition` (0-65535) from `ENTROPY_BYTES` random or derived bytes."""
    if not 0 <= partition < MAX_PARTITIONS:
        raise ValueError(f"partition {partition} is outside 0..{MAX_PARTITIONS - 1}")
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"a response id needs {ENTROPY_BYTES} bytes of entropy, got {len(entropy)}")
    return ResponseId(f"resp_{partition:04x}{entropy.hex()}")


def idempotent_response_id(tenant: Tenant, key: str, partitions: int) -> ResponseId:
    """The id that every POST with this Idempotency-Key of this tenant meets (P-2).

    The partition comes from the key alone, not from a predecessor, so a retry with another body lands
    beside the first one and is told apart there.
    """
    digest = hashlib.sha256(f"{len(tenant)}:{tenant}{key}".encode()).digest()
    partition = int.from_bytes(digest[ENTROPY_BYTES : ENTROPY_BYTES + 4]) % partitions
    return response_id(partition, digest[:ENTROPY_BYTES])


def parse_response_id(text: str, partition: int | None = None) -> ResponseId | None:
    """`text` as a response id, of `partition` if that is given, or None when it is not one of ours."""
    if not _RESPONSE_ID.fullmatch(text):
        return None
    id = ResponseId(text)
    return id if partition is None or partition_of(id) == partition else None


def partition_of(id: ResponseId) -> int:
    """The partition in which every record of this response lives."""
    return int(id[_PARTITION], 16)


def parse_tenant(text: str) -> Tenant | None:
    """`text` as a tenant name (1-128 of letters, digits and `._:@-`), or None."""
    return Tenant(text) if _TENANT.fullmatch(text) else None


def claim_id(entropy: bytes) -> ClaimId:
    """A claim's own id from `TOKEN_BYTES` random bytes."""
    return ClaimId(f"c{entropy.hex()}")


def executor_id(entropy: bytes) -> ExecutorId:
    """An executor's id, fresh per process (P-40), from `TOKEN_BYTES` random bytes."""
    return ExecutorId(f"exec_{entropy.hex()}")


def item_id(prefix: str, id: ResponseId, index: int, role: str = "output") -> str:
    """A stable id for the item at `index` of a response, `role` input or output.

    Derived, so that every replica and every later read names the item alike without storing anything.
    """
    digest = hashlib.sha256(f"{id}/{role}/{index}".encode()).hexdigest()
    return f"{prefix}_{digest[:32]}"
