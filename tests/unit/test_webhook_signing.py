"""What is sent to an endpoint, verified by the SDK that clients have."""

from base64 import b64encode
from time import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import InvalidWebhookSignatureError
from openai.types.webhooks import ResponseCompletedWebhookEvent

from schemas.webhooks import EndpointId, SealedSecret, delivery_id, event_id
from services.webhooks.sealing import CannotOpen, Sealer
from services.webhooks.signing import (
    KEPT_MS,
    MOST_SECRETS,
    event_body,
    holding,
    rotated,
    secret_hint,
    secret_text,
    signed,
)
from tests.closings import CLOSING, ID
from tests.webhooks import ENDPOINT, KEY, UNWRAP

TYPE = "response.completed"
OTHER = EndpointId("we_" + "1" * 32)


@given(st.binary(min_size=24, max_size=64))
def test_the_sdk_verifies_what_is_signed(secret: bytes) -> None:
    body = event_body(ID, TYPE, CLOSING.closed_at)
    found = UNWRAP(body.decode(), signed([secret], "wh_1", int(time()), body), secret=secret_text(secret))
    assert isinstance(found, ResponseCompletedWebhookEvent)
    assert (found.id, found.data.id, found.created_at) == (event_id(ID, TYPE), ID, CLOSING.closed_at // 1000)
    assert found.object == "event"


def test_each_secret_that_holds_signs() -> None:
    body = event_body(ID, TYPE, 0)
    headers = signed([b"a" * 32, b"b" * 32], "wh_1", int(time()), body)
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (b"a" * 32, b"b" * 32):
        UNWRAP(body.decode(), headers, secret=secret_text(secret))
    with pytest.raises(InvalidWebhookSignatureError):
        UNWRAP(body.decode(), headers, secret=secret_text(b"c" * 32))


def test_p123_the_webhook_id_is_a_function_of_endpoint_response_and_type() -> None:
    ids = {
        delivery_id(ENDPOINT.id, ID, TYPE),
        delivery_id(ENDPOINT.id, ID, TYPE),
        delivery_id(OTHER, ID, TYPE),
        delivery_id(ENDPOINT.id, ID, "response.failed"),
    }
    assert len(ids) == 3


def test_a_hint_tells_secrets_apart_and_gives_none_away() -> None:
    text = secret_text(b"a" * 32)
    assert text.startswith("whsec_")
    assert len(set(secret_hint(text)) & set("whsec_…")) == 7
    assert len(secret_hint(text)) == len("whsec_…") + 4
    assert secret_hint(text)[-4:] in text


def test_the_secret_before_signs_for_24_hours_if_its_owner_wants_that() -> None:
    old, new = SealedSecret("k1", "old"), SealedSecret("k1", "new")
    assert rotated([old], new, 5, keep=False) == (new,)
    both = rotated([old], new, 5, keep=True)
    assert holding(both, 5 + KEPT_MS - 1) == list(both)
    assert holding(both, 5 + KEPT_MS) == [new]


def test_no_secret_signs_for_longer_because_of_a_later_rotation() -> None:
    secrets = rotated([SealedSecret("k1", "0")], SealedSecret("k1", "1"), 0, keep=True)
    again = rotated(secrets, SealedSecret("k1", "2"), 100, keep=True)
    assert [secret.until for secret in again] == [None, 100 + KEPT_MS, KEPT_MS]
    for number in range(3, 9):
        again = rotated(again, SealedSecret("k1", str(number)), 100, keep=True)
    assert len(again) == MOST_SECRETS


# Sealing.


def test_p122_only_the_operators_key_opens_a_secret_and_only_for_its_endpoint() -> None:
    sealer = Sealer([KEY], bytes)
    sealed = sealer.seal(b"secret", ENDPOINT.id)
    assert b"secret" not in sealed.sealed.encode()
    assert sealer.open(sealed, ENDPOINT.id) == b"secret"
    assert Sealer([KEY], bytes).open(sealed, ENDPOINT.id) == b"secret"
    with pytest.raises(CannotOpen, match="does not open"):
        sealer.open(sealed, OTHER)
    with pytest.raises(CannotOpen, match="REJOINDER_WEBHOOKS_KEYS"):
        Sealer([], bytes).open(sealed, ENDPOINT.id)
    with pytest.raises(CannotOpen, match="does not open"):
        Sealer(["k1=" + b64encode(b"1" * 32).decode()], bytes).open(sealed, ENDPOINT.id)


@pytest.mark.parametrize("sealed", ["", "AAAA", "not base64", "ä"])
def test_what_was_tampered_with_does_not_open(sealed: str) -> None:
    with pytest.raises(CannotOpen):
        Sealer([KEY], bytes).open(SealedSecret("k1", sealed), ENDPOINT.id)


def test_the_first_key_seals_and_every_key_opens() -> None:
    old = Sealer([KEY], bytes).seal(b"secret", ENDPOINT.id)
    both = Sealer(["k2=" + b64encode(b"2" * 32).decode(), KEY], bytes)
    assert both.open(old, ENDPOINT.id) == b"secret"
    assert both.seal(b"secret", ENDPOINT.id).key == "k2"
    assert not Sealer([], bytes).can_seal
