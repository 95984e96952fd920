"""What an operator reads of endpoints: which of his keys their secrets need."""

from msgspec.structs import replace

from schemas.webhooks import SealedSecret
from services.terminal.webhooks import WebhooksFound, webhook_lines
from tests.webhooks import ENDPOINT


def test_p122_a_key_is_named_as_long_as_a_secret_that_signs_needs_it() -> None:
    secrets = (SealedSecret("k2", ""), SealedSecret("k1", "", until=100), SealedSecret("k1", "", until=50))
    found = WebhooksFound([replace(ENDPOINT, secrets=secrets)], [])
    [before], [after] = list(webhook_lines(found, "", 99)), list(webhook_lines(found, "", 100))
    assert before.endswith("0 delivered; key k2, k1")
    assert after.endswith("0 delivered; key k2")
