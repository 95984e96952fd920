"""A closing with a value in every field, for tests to take and to change."""

from schemas.closings import ClosingRecord, TokenCounts
from schemas.ids import ExecutorId, Tenant, response_id

ID = response_id(3, b"\x01" * 16)
CLOSING = ClosingRecord(
    id=ID,
    tenant=Tenant("acme"),
    log="topic-1",
    status="completed",
    model="gpt-5",
    served="gpt-5-2026",
    route="gpt-*",
    agent=None,
    error_type=None,
    incomplete_reason=None,
    background=True,
    store=False,
    accepted_at=1_000,
    claimed_at=2_000,
    first_output_at=3_000,
    last_output_at=4_000,
    closed_at=5_000,
    accepted_offset=7,
    closed_offset=11,
    events=9,
    deltas=4,
    attempts=2,
    executors=(ExecutorId("exec_1"), ExecutorId("exec_2")),
    usage=TokenCounts(input_tokens=1, output_tokens=2, total_tokens=3),
)
