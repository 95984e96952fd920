"""Seals signing secrets with an operator's key (AES-GCM), so that the log holds none that can be read.

A key has an id, which stands beside what it sealed: the first key seals, every key opens. So an operator puts
a new key first, and takes the old one away when no secret names it any more. The endpoint's id is sealed in:
a secret that is copied to another endpoint does not open (P-122).
"""

from base64 import b64decode, b64encode
from binascii import Error
from collections.abc import Callable, Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schemas.errors import RejoinderError
from schemas.webhooks import EndpointId, SealedSecret
from services.kept import Kept

NONCE_BYTES = 12
OPENED_BYTES = 1 << 20
"""Bytes of opened secrets that are kept, each counted as OPENED_SIZE: to open one takes 5 µs."""
OPENED_SIZE = 256


class CannotOpen(RejoinderError):
    """A sealed secret does not open: its key is not configured, or it was tampered with."""


class Sealer:
    """Seals and opens with `keys`, `ID=BASE64` each. `entropy` returns that many random bytes."""

    def __init__(self, keys: Iterable[str], entropy: Callable[[int], bytes]) -> None:
        self._keys = {id: AESGCM(b64decode(key)) for id, _, key in (pair.partition("=") for pair in keys)}
        self._entropy = entropy
        self._opened: Kept[tuple[EndpointId, SealedSecret], bytes] = Kept(OPENED_BYTES)

    def __repr__(self) -> str:
        return f"<Sealer with the keys {list(self._keys)}>"

    @property
    def can_seal(self) -> bool:
        """Whether there is a key."""
        return bool(self._keys)

    def seal(self, secret: bytes, endpoint: EndpointId) -> SealedSecret:
        """`secret`, sealed for `endpoint` with the first key. There must be one."""
        id, key = next(iter(self._keys.items()))
        nonce = self._entropy(NONCE_BYTES)
        return SealedSecret(id, b64encode(nonce + key.encrypt(nonce, secret, endpoint.encode())).decode())

    def open(self, sealed: SealedSecret, endpoint: EndpointId) -> bytes:
        """The secret of `endpoint` in `sealed`. Raises CannotOpen."""
        found = self._opened.get((endpoint, sealed))
        if found is None:
            found = self._open(sealed, endpoint)
            self._opened.put((endpoint, sealed), found, OPENED_SIZE)
        return found

    def _open(self, sealed: SealedSecret, endpoint: EndpointId) -> bytes:
        key = self._keys.get(sealed.key)
        if key is None:
            raise CannotOpen(f"key {sealed.key!r} is not in REJOINDER_WEBHOOKS_KEYS")
        try:
            whole = b64decode(sealed.sealed, validate=True)
            return key.decrypt(whole[:NONCE_BYTES], whole[NONCE_BYTES:], endpoint.encode())
        except (Error, InvalidTag, ValueError) as error:
            raise CannotOpen(f"what key {sealed.key!r} sealed for {endpoint} does not open") from error
