"""An issuer of tokens: its keys, its documents on a port, and tokens of every kind, right and wrong."""

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.requests import Request
from starlette.responses import Response

from services.web.answers import json_answer
from services.web.connection import connection
from services.web.edge import route
from services.web.issuer import WELL_KNOWN
from tests.serving import HOST, serving

AUDIENCE = "rejoinder"


class TokenIssuer:
    """Signs tokens, and says at `url` with which public keys they are to be checked."""

    __test__ = False

    def __init__(self) -> None:
        self.url = ""
        self.says: str | None = None
        """What its configuration has as its name; None: what it is."""
        self.away = False
        self.asked = 0
        """How often its keys were asked for."""
        self._keys: dict[str, Any] = {}
        self.published: list[Mapping[str, Any]] = []
        self.rotate("first")

    def rotate(self, kid: str, *, rsa: bool = False) -> None:
        """Sign with a new key from now on. Only that is published."""
        self._keys[kid] = generate_rsa_key(65537, 2048) if rsa else generate_private_key(SECP256R1())
        self.kid = kid
        self.published = [self.public(kid)]

    def public(self, kid: str) -> Mapping[str, Any]:
        """The public key `kid` as the document has it."""
        key = self._keys[kid]
        of = RSAAlgorithm if isinstance(key, RSAPrivateKey) else ECAlgorithm
        return {**json.loads(of.to_jwk(key.public_key())), "kid": kid, "use": "sig"}

    def token(self, kid: str | None = None, header: Mapping[str, Any] = {}, **claims: Any) -> str:
        """A token for a minute. A claim or a part of the header that is None is left out."""
        kid = kid or self.kid
        now = int(time.time())
        usual = {"iss": self.url, "aud": AUDIENCE, "iat": now, "exp": now + 60, "sub": "somebody"}
        said = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        head = {name: value for name, value in {"kid": kid, **header}.items() if value is not None}
        key = self._keys[kid]
        algorithm = "RS256" if isinstance(key, RSAPrivateKey) else "ES256"
        return jwt.encode(said, key, algorithm, headers=head)

    async def _configuration(self, _: Request) -> Response:
        return json_answer({"issuer": self.says or self.url, "jwks_uri": f"{self.url}/keys"})

    async def _published(self, request: Request) -> Response:
        self.asked += 1
        if self.away:
            connection(request.scope).abort()
        return json_answer({"keys": self.published})


@asynccontextmanager
async def issuing() -> AsyncIterator[TokenIssuer]:
    """An issuer, its documents on a port."""
    issuer = TokenIssuer()
    routes = [
        route("GET", WELL_KNOWN, issuer._configuration),
        route("GET", "/keys", issuer._published),
    ]
    async with serving(routes) as (_, port):
        issuer.url = f"http://{HOST}:{port}"
        yield issuer
