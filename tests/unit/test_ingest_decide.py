"""What becomes of an append in doubt (P-35)."""

import pytest

from schemas.ids import ResponseId
from services.ingest.decide import Settled, settled
from services.web.internal import ResponseView

ID = ResponseId("resp_0000" + "0" * 32)
NOT_AFTER, SKEW = 1_000, 10


@pytest.mark.parametrize(
    "found, read_to, becomes",
    [
        pytest.param(True, 0, Settled.COUNTS, id="it-is-there"),
        pytest.param(False, 0, Settled.UNKNOWN, id="an-idle-partition-proves-nothing"),
        pytest.param(False, NOT_AFTER, Settled.UNKNOWN, id="it-may-still-come-in-time"),
        pytest.param(False, NOT_AFTER + SKEW, Settled.UNKNOWN, id="another-broker-s-clock-may-be-behind"),
        pytest.param(False, NOT_AFTER + SKEW + 1, Settled.VOID, id="it-cannot-come-in-time"),
    ],
)
def test_an_accepted_in_doubt(found: bool, read_to: int, becomes: Settled) -> None:
    assert settled(ResponseView(ID, found, read_to=read_to), NOT_AFTER, SKEW) is becomes
