"""The public keys of an issuer of tokens (RFC 7517): which of them checks a token.

Only asymmetric algorithms are taken, each with keys of its own kind. So no token can be checked with a public
key as if that were a shared secret, and `none` checks nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from jwt import PyJWK, PyJWTError

from schemas.errors import RejoinderError

_OF_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_OF_CURVES: Mapping[tuple[str, str], Sequence[str]] = {
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
ALGORITHMS = frozenset([*_OF_RSA, *(name for names in _OF_CURVES.values() for name in names)])
"""The algorithms that are taken."""
LEAST_RSA_BITS = 2048
MOST_KEYS = 100
"""Keys of a document that are looked at."""


class JwksBroken(RejoinderError):
    """What an issuer sent is no set of keys that checks a token. The message says why."""


class Jwks:
    """The keys in `raw`, a JSON document. Raises JwksBroken if no key in it can check a token.

    Keys that nobody here can use, an encryption key say, are passed over (RFC 7517, 5).
    """

    def __init__(self, raw: bytes) -> None:
        try:
            document: Any = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise JwksBroken("the keys are no JSON") from error
        listed = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(listed, list):
            raise JwksBroken("the keys are no object with a list `keys`")
        self._keys: dict[tuple[str | None, str], list[PyJWK]] = {}
        for found in listed[:MOST_KEYS]:
            for key in _usable(found):
                for kid in {key.key_id, None}:
                    self._keys.setdefault((kid, key.algorithm_name), []).append(key)
        if not self._keys:
            raise JwksBroken("none of the keys is one that can check a token")

    def __repr__(self) -> str:
        return f"<Jwks {sorted({kid for kid, _ in self._keys if kid is not None})}>"

    def find(self, kid: str | None, algorithm: str) -> PyJWK | None:
        """The key for a token whose header says `kid` and `algorithm`; None if there is none.

        Without a `kid` it must be the only key for that algorithm.
        """
        found = self._keys.get((kid, algorithm), [])
        return found[0] if len(found) == 1 or (found and kid is not None) else None


def _usable(found: Any) -> Iterator[PyJWK]:
    """The key, once for each algorithm that it may check."""
    if not isinstance(found, dict) or found.get("use", "sig") != "sig" or "d" in found:
        return
    if "verify" not in found.get("key_ops", ["verify"]) or not isinstance(found.get("kid", ""), str):
        return
    kind = str(found.get("kty"))
    algorithms = _OF_RSA if kind == "RSA" else _OF_CURVES.get((kind, str(found.get("crv"))), ())
    for algorithm in algorithms:
        if found.get("alg", algorithm) != algorithm:
            continue
        try:
            key = PyJWK(found, algorithm)
        except (PyJWTError, ValueError, TypeError):
            return
        if kind == "RSA" and key.key.key_size < LEAST_RSA_BITS:
            return
        yield key
