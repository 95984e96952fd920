"""Tokens and the keys that check them: what is believed, and what never is."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm

from schemas.ids import Tenant
from services.web.forwarded import Caller
from services.web.jwks import ALGORITHMS, Jwks, JwksBroken
from services.web.tokens import TokenRefused, TokenTerms, caller_by, header_of
from tests.issuer import AUDIENCE, TokenIssuer

ISSUER = "https://id.example/"
TERMS = TokenTerms(ISSUER, AUDIENCE, 30, "org.tenant", "roles", "operator")
ACME: Mapping[str, Any] = {"org": {"tenant": "acme"}}


@pytest.fixture(scope="module")
def issuer() -> TokenIssuer:
    made = TokenIssuer()
    made.url = ISSUER
    made.rotate("rsa", rsa=True)
    made.published = [made.public("first"), made.public("rsa")]
    return made


def document(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def called(issuer: TokenIssuer, token: str, terms: TokenTerms = TERMS) -> Caller:
    header = header_of(token)
    key = Jwks(document(*issuer.published)).find(header.kid, header.algorithm)
    if key is None:
        raise TokenRefused("token_key")
    return caller_by(token, key, terms)


@pytest.mark.parametrize("kid", ["first", "rsa"])
def test_a_token_says_who_calls(issuer: TokenIssuer, kid: str) -> None:
    assert called(issuer, issuer.token(kid, **ACME)) == Caller(Tenant("acme"), False, "somebody")
    for roles in ("operator", ["reader", "operator"]):
        assert called(issuer, issuer.token(kid, roles=roles)) == Caller(None, True, "somebody")
    both = called(issuer, issuer.token(kid, **ACME, roles=["operator"]))
    assert (both.tenant, both.admin) == ("acme", True)


@pytest.mark.parametrize(
    "roles", ["Operator", "operators", "an operator", ["op", "erator"], {"operator": True}, True, 1, None]
)
def test_an_admin_has_just_the_value(issuer: TokenIssuer, roles: object) -> None:
    assert not called(issuer, issuer.token(**ACME, roles=roles)).admin


@pytest.mark.parametrize(
    "claims, claim, tenant",
    [
        ({"tenant": "acme"}, "tenant", "acme"),
        ({"org": {"id": 42}}, "org.id", "42"),
        ({"https://acme.example/org.id": "acme"}, "https://acme.example/org.id", "acme"),
        ({"org.id": "whole", "org": {"id": "way"}}, "org.id", "whole"),
    ],
)
def test_the_tenant_is_where_the_operator_says(
    issuer: TokenIssuer, claims: Mapping[str, Any], claim: str, tenant: str
) -> None:
    terms = TokenTerms(ISSUER, AUDIENCE, 30, claim)
    assert called(issuer, issuer.token(**claims), terms).tenant == tenant


def test_a_subject_is_shown_as_logs_can_carry_it(issuer: TokenIssuer) -> None:
    shown = called(issuer, issuer.token(**ACME, sub="é\n" + "x" * 200)).name
    assert shown == "??" + "x" * 126


NOW = int(time.time())
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another issuer": ({"iss": "https://id.example"}, "token_issuer"),
    "no issuer": ({"iss": None}, "token_claim"),
    "for another": ({"aud": "another"}, "token_audience"),
    "for others": ({"aud": ["another", "third"]}, "token_audience"),
    "for nobody": ({"aud": None}, "token_claim"),
    "for none": ({"aud": []}, "token_claim"),
    "over": ({"exp": NOW - 60}, "token_expired"),
    "without an end": ({"exp": None}, "token_claim"),
    "with no time as its end": ({"exp": "soon"}, "token_malformed"),
    "with infinity as its end": ({"exp": float("inf")}, "token_malformed"),
    "not yet": ({"nbf": NOW + 3600}, "token_not_yet"),
    "made in the future": ({"iat": NOW + 3600}, "token_not_yet"),
    "no tenant": ({"org": None}, "token_tenant"),
    "a tenant beside the way": ({"org": {"name": "acme"}}, "token_tenant"),
    "a tenant that is no name": ({"org": {"tenant": "a/b"}}, "token_tenant"),
    "a tenant that is a list": ({"org": {"tenant": ["acme"]}}, "token_tenant"),
    "a tenant that is a yes": ({"org": {"tenant": True}}, "token_tenant"),
    "a way that is a text": ({"org": "tenant"}, "token_tenant"),
    "a role that is none": ({"org": None, "roles": ["reader"]}, "token_tenant"),
}


@pytest.mark.parametrize("claims, reason", REFUSED.values(), ids=REFUSED)
def test_what_is_not_believed(issuer: TokenIssuer, claims: dict[str, Any], reason: str) -> None:
    token = issuer.token(**{**ACME, **claims})
    with pytest.raises(TokenRefused) as refused:
        called(issuer, token)
    assert str(refused.value) == reason


def test_clocks_may_differ_by_the_leeway_and_no_more(issuer: TokenIssuer) -> None:
    now = int(time.time())
    assert called(issuer, issuer.token(**ACME, exp=now - 20, nbf=now + 20, iat=now + 20)).tenant == "acme"
    with pytest.raises(TokenRefused, match="token_expired"):
        called(issuer, issuer.token(**ACME, exp=now - 32))


def part(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def forged(issuer: TokenIssuer, header: object, signature: bytes = b"") -> str:
    """A token with any header, and the claims of a good one."""
    claims = issuer.token(**ACME).split(".")[1]
    return f"{part(header)}.{claims}.{part(signature)}"


def signed_with_the_public_key(issuer: TokenIssuer, kid: str) -> str:
    """What every library with one verify function for all algorithms took: the public key as a secret."""
    public = Jwks(document(issuer.public(kid))).find(kid, "RS256")
    assert public is not None
    pem = public.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    token = forged(issuer, {"alg": "HS256", "kid": kid, "typ": "JWT"})
    body = token.rpartition(".")[0]
    return f"{body}.{part(hmac.new(pem, body.encode(), hashlib.sha256).digest())}"


def test_no_token_is_signed_by_nobody_or_by_what_everybody_knows(issuer: TokenIssuer) -> None:
    tokens = [
        forged(issuer, {"alg": "none", "kid": "first"}),
        forged(issuer, {"alg": "None", "kid": "first"}),
        forged(issuer, {"alg": "HS256", "kid": "first"}),
        forged(issuer, {"alg": ["ES256"], "kid": "first"}),
        forged(issuer, {"kid": "first"}),
        signed_with_the_public_key(issuer, "rsa"),
    ]
    for token in tokens:
        with pytest.raises(TokenRefused, match=r"token_(algorithm|malformed)"):
            called(issuer, token)
    assert not {name for name in ALGORITHMS if name.startswith("HS") or name.lower() == "none"}


def test_an_algorithm_needs_a_key_of_its_kind(issuer: TokenIssuer) -> None:
    for algorithm, kid in (("RS256", "first"), ("ES256", "rsa"), ("ES384", "first"), ("EdDSA", "rsa")):
        with pytest.raises(TokenRefused, match="token_key"):
            called(issuer, forged(issuer, {"alg": algorithm, "kid": kid}))


def test_a_signature_of_another_key_or_of_other_claims_is_none(issuer: TokenIssuer) -> None:
    head, claims, signature = issuer.token("first", **ACME).split(".")
    other = issuer.token("first", org={"tenant": "blue"}).split(".")
    stranger = TokenIssuer()
    stranger.url = ISSUER
    for token in (
        f"{head}.{other[1]}.{signature}",
        f"{head}.{claims}.",
        f"{head}.{claims}.{part(b'x' * 64)}",
        stranger.token("first", **ACME),
    ):
        with pytest.raises(TokenRefused, match="token_signature"):
            called(issuer, token)


def test_a_token_does_not_say_by_which_key_it_is_to_be_checked(issuer: TokenIssuer) -> None:
    """Its header may bring a key, or say where one is: neither is looked at."""
    stranger = TokenIssuer()
    stranger.url = ISSUER
    brought = {
        "jwk": stranger.public("first"),
        "jku": "https://evil.example/keys",
        "x5u": "https://evil.example",
    }
    with pytest.raises(TokenRefused, match="token_signature"):
        called(issuer, stranger.token("first", header=brought, **ACME))
    with pytest.raises(TokenRefused, match="token_key"):
        called(issuer, stranger.token("first", header={**brought, "kid": "stranger"}, **ACME))


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "logout+jwt"},
        {"typ": "dpop+jwt"},
        {"typ": 7},
        {"crit": ["exp"]},
        {"crit": ["b64"], "b64": False},
    ],
    ids=str,
)
def test_a_token_for_another_end_is_none(issuer: TokenIssuer, header: Mapping[str, Any]) -> None:
    alike = {"alg": "ES256", "kid": "first"}
    with pytest.raises(TokenRefused, match=r"token_(type|malformed)"):
        called(issuer, forged(issuer, {**alike, **header}))


@pytest.mark.parametrize("type", ["JWT", "at+jwt", "AT+JWT", "application/at+jwt", None])
def test_a_token_for_access_is_one(issuer: TokenIssuer, type: str | None) -> None:
    assert called(issuer, issuer.token(header={"typ": type}, **ACME)).tenant == "acme"


HEADS: dict[str, object] = {
    "no JSON": b"{",
    "a list": [],
    "deep": b"[" * 4000,
    "deep objects": b'{"a":' * 1200,
    "a kid that is a number": {"alg": "ES256", "kid": 7},
    "a large number": b'{"alg":' + b"9" * 5000 + b"}",
}
MALFORMED = {
    "nothing": "..",
    "no base64": "ü.ü.ü",
    "claims that are none": f"{part({'alg': 'ES256', 'kid': 'first'})}.{part([])}.{part(b'')}",
    **{name: f"{part(head)}.e30.e30" for name, head in HEADS.items()},
}


@pytest.mark.parametrize("token", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_token_is_refused_as_others_are(issuer: TokenIssuer, token: str) -> None:
    with pytest.raises(TokenRefused) as refused:
        called(issuer, token)
    assert token not in str(refused.value)


def test_without_a_kid_the_only_key_for_the_algorithm_checks(issuer: TokenIssuer) -> None:
    token = issuer.token("first", header={"kid": None}, **ACME)
    assert called(issuer, token).tenant == "acme"
    other = TokenIssuer()
    both = Jwks(document(issuer.public("first"), {**other.public("first"), "kid": "second"}))
    assert both.find(None, "ES256") is None
    assert both.find("second", "ES256") is not None


def test_keys_of_every_taken_kind_are_found() -> None:
    edwards = Ed25519PrivateKey.generate()
    public = {**json.loads(OKPAlgorithm.to_jwk(edwards.public_key())), "kid": "ed"}
    keys = Jwks(document(public))
    token = jwt.encode({}, edwards, "EdDSA", headers={"kid": "ed"})
    found = keys.find("ed", header_of(token).algorithm)
    assert found is not None
    assert found.key_id == "ed"


def test_keys_that_check_no_token_are_passed_over(issuer: TokenIssuer) -> None:
    good = issuer.public("first")
    weak = json.loads(RSAAlgorithm.to_jwk(generate_private_key(65537, 1024).public_key()))
    secret = {"kty": "oct", "k": part(b"x" * 32), "alg": "HS256"}
    others = [
        {**weak, "kid": "weak"},
        {**secret, "kid": "secret"},
        {**good, "kid": "for encryption", "use": "enc"},
        {**good, "kid": "for signing", "key_ops": ["sign"]},
        {**good, "kid": "private", "d": "AA"},
        {**good, "kid": "another curve", "crv": "secp256k1"},
        {**good, "kid": "off the curve", "x": good["y"]},
        {**good, "kid": 7},
        {"kid": "nothing"},
        "text",
    ]
    keys = Jwks(document(*others, good))
    assert repr(keys) == "<Jwks ['first']>"


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b'{"keys": [{"kty": "oct", "k": "AA"}]}']
)
def test_a_document_without_a_key_that_checks_tokens_is_none(raw: bytes) -> None:
    with pytest.raises(JwksBroken):
        Jwks(raw)


def test_an_rsa_key_may_be_bound_to_its_algorithm(issuer: TokenIssuer) -> None:
    keys = Jwks(document({**issuer.public("rsa"), "alg": "PS256"}))
    assert keys.find("rsa", "PS256") is not None
    assert keys.find("rsa", "RS256") is None
