"""API keys as a file has them: a line of JSON for each, with the key's hash and whose it is.

    # who has lost a key: delete its line
    {"sha256": "9f86…", "name": "ci", "tenant": "acme", "expires": "2027-01-01T00:00:00Z"}
    {"sha256": "60a4…", "name": "billing", "admin": true}

The file holds no key. A key that `rejoinder keys add` makes has 256 bits of chance, so nobody guesses it from
its hash, however fast hashes are computed. That is why a fast hash is right here and bcrypt would be wrong:
slow hashes guard what people choose. They would cost each request 0.1 s of CPU for each of thousands of keys,
since a salted hash cannot be looked up.

A look-up by the hash tells nothing of a key by the time that it takes: who sends half a key right gets
another hash altogether. What is found is compared once more, in constant time.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from io import BytesIO
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from schemas.errors import RejoinderError
from schemas.ids import TENANT, Tenant

PREFIX = "rj_"
"""Begins each key that we make, so that who finds one lying about knows what it opens."""
KEY_BYTES = 32
"""Bytes of chance in a key that we make."""
_SLOT_BYTES = 8
"""Bytes of a hash by which a key is looked up."""
_NAME = rf"^(?:{TENANT.pattern})\Z"


class KeysBroken(RejoinderError):
    """The file of keys cannot be used. The message says in which line, what is wrong, and no part of it."""


class ApiKey(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One line of the file. `name` is the key's own, in logs and for `rejoinder keys revoke`.

    `tenant`: whose responses it opens, none without one. `admin`: it reads what all tenants used.
    """

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    name: Annotated[str, Meta(pattern=_NAME)]
    tenant: Annotated[str, Meta(pattern=_NAME)] | None = None
    admin: bool = False
    expires: Annotated[datetime, Meta(tz=True)] | None = None


class Grant(Struct, frozen=True, gc=False):
    """Whose a key is. `expires`: in seconds since the epoch, None: never."""

    digest: bytes
    name: str
    tenant: Tenant | None
    admin: bool
    expires: float | None = None


def digest_of(key: str) -> bytes:
    """The hash of a key as a client sent it. Starlette reads headers as Latin-1, so any can be encoded."""
    return hashlib.sha256(key.encode("latin-1")).digest()


class ApiKeys:
    """The keys that are known, by their hashes."""

    def __init__(self, grants: Iterable[Grant] = ()) -> None:
        self._grants: Mapping[bytes, Grant] = {grant.digest[:_SLOT_BYTES]: grant for grant in grants}

    def __repr__(self) -> str:
        return f"<ApiKeys {len(self)}>"

    def __len__(self) -> int:
        return len(self._grants)

    def find(self, key: str) -> Grant | None:
        """Whose `key` is, expired or not; None if nobody's."""
        digest = digest_of(key)
        found = self._grants.get(digest[:_SLOT_BYTES])
        return found if found is not None and hmac.compare_digest(found.digest, digest) else None


_line = msgspec.json.Decoder(ApiKey).decode
_AT = re.compile(r" - at `\$\.(\w+)`")


def parse_line(text: bytes) -> ApiKey:
    """A line of the file. Raises KeysBroken."""
    try:
        found = _line(text)
    except msgspec.ValidationError as error:
        at = _AT.search(str(error))
        raise KeysBroken(f"{at[1]} is not as it must be" if at else _shape(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise KeysBroken("this is no JSON object") from None
    if found.tenant is None and not found.admin:
        raise KeysBroken("it has neither a tenant nor admin: true")
    return found


def parse_keys(raw: bytes) -> Iterator[ApiKey]:
    """The keys in a file's content, one after the other. Raises KeysBroken.

    A service does this in a thread. No step of it is long: a step holds the event loop too.
    """
    names: dict[str, int] = {}
    hashes: dict[str, int] = {}
    for number, text in enumerate(BytesIO(raw), 1):
        if not text.strip() or text.lstrip().startswith(b"#"):
            continue
        try:
            key = parse_line(text)
        except KeysBroken as error:
            raise KeysBroken(f"line {number}: {error}") from None
        for known, value, what in ((names, key.name, "name"), (hashes, key.sha256, "sha256")):
            if (before := known.setdefault(value, number)) != number:
                raise KeysBroken(f"line {number}: it has the {what} of line {before}")
        yield key
    for known in (names, hashes):
        while known:
            known.popitem()  # freed all at once, 100,000 of them would take 20 ms


def granted(keys: Iterable[ApiKey]) -> ApiKeys:
    """The keys of a file, to be looked up. Thousands of them have few tenants: each is kept once."""
    tenants: dict[str, Tenant] = {}
    return ApiKeys(
        Grant(
            bytes.fromhex(key.sha256),
            key.name,
            None if key.tenant is None else tenants.setdefault(key.tenant, Tenant(key.tenant)),
            key.admin,
            None if key.expires is None else key.expires.timestamp(),
        )
        for key in keys
    )


def _shape(why: str) -> str:
    """What a line is that is no object with the fields of a key. A misspelt field must not widen a right."""
    if "missing required field" in why:
        return "it lacks sha256 or name"
    if "unknown field" in why:
        return "it has a field that is none of sha256, name, tenant, admin, expires"
    return "this is no JSON object"
