"""The ids of which samples of records are made, and the patterns of such ids in a key."""

from collections.abc import Mapping

from schemas import ids, webhooks
from services.published.shapes import EXECUTOR_ID, HEX_TOKEN

RESPONSE = ids.response_id(0, bytes(ids.ENTROPY_BYTES))
CLAIM = ids.claim_id(bytes(ids.TOKEN_BYTES))
EXECUTOR = ids.executor_id(bytes(ids.TOKEN_BYTES))
NONCE = bytes(ids.TOKEN_BYTES).hex()
SOURCE = f"models_{NONCE}"
"""Who lists models."""
TENANT = ids.Tenant("default")
SHA256 = bytes(32).hex()
TRACE = f"00-{'1' * 32}-{'2' * 16}-01"
ENDPOINT = webhooks.endpoint_id(bytes(ids.ENTROPY_BYTES))
DELIVERY = webhooks.delivery_id(ENDPOINT, RESPONSE, webhooks.EVENT_TYPES[0])

TOKENS: Mapping[str, str] = {
    RESPONSE: ids.RESPONSE_ID.pattern,
    CLAIM: ids.CLAIM_ID.pattern,
    EXECUTOR: EXECUTOR_ID,
    NONCE: HEX_TOKEN,
    SOURCE: rf"models_{HEX_TOKEN}",
    ENDPOINT: webhooks.ENDPOINT_ID,
    DELIVERY: webhooks.DELIVERY_ID,
}
"""By a part of a sample's key, the pattern of such parts."""
