"""What tenants do with their endpoints: make, show, list, change, delete, rotate the secret.

Any replica answers. What it reads is as new as the request (P-125). A change is answered when this replica
has read it back, so what a caller was told is there for the next request, at whichever replica.

Of two changes of one endpoint at a time the later one in log order holds, as a whole: settings are one
record, secrets another. Within a replica they come one after another. The number of a tenant's endpoints is
bounded by what the replica has read: two creates at two replicas may both be the last one.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from schemas.errors import ApiError, AppendUnknown, LogUnavailable, away, invalid, unconfirmed
from schemas.ids import ENTROPY_BYTES, Tenant
from schemas.records import NewRecord
from schemas.webhooks import HOME, SecretRecord, endpoint_id
from services.eventlog.port import Ack, Writer
from services.webhooks.endpoints import Endpoint, endpoint_keys, made, settings_of
from services.webhooks.registry import EndpointRegistry
from services.webhooks.sealing import Sealer
from services.webhooks.signing import SECRET_BYTES, rotated, secret_hint, secret_text


class Revealed(Struct, frozen=True):
    """An endpoint, and its new secret as text: its owner sees it now and never again."""

    endpoint: Endpoint
    secret: str


class Management:
    """Changes endpoints by appending to the first partition of `topic`. `most`: endpoints that a tenant may
    have. `entropy` returns that many random bytes, `clock` milliseconds since the epoch.
    """

    def __init__(
        self,
        registry: EndpointRegistry,
        writer: Writer,
        topic: str,
        sealer: Sealer,
        *,
        most: int,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._registry = registry
        self._writer = writer
        self._topic = topic
        self._sealer = sealer
        self._most = most
        self._clock = clock
        self._entropy = entropy
        self._turn = asyncio.Lock()
        """Held by the change that is under way."""

    async def find(self, tenant: Tenant, id: str) -> Endpoint:
        """The tenant's endpoint `id`, as new as the call. Raises ApiError: 404, 503."""
        await self._registry.reach()
        endpoint = self._registry.endpoints.get(id)
        if endpoint is None or endpoint.tenant != tenant:
            raise no_endpoint(id)
        return endpoint

    async def all_of(self, tenant: Tenant) -> list[Endpoint]:
        """The tenant's endpoints, the newest first. Raises ApiError (503)."""
        await self._registry.reach()
        return self._registry.endpoints.of(tenant)

    async def create(self, tenant: Tenant, asked: dict[str, Any]) -> Revealed:
        """Make an endpoint with the settings `asked`. Raises ApiError."""
        self._need_key()
        async with self._turn:
            count = len(await self.all_of(tenant))
            if count >= self._most:
                what = (
                    f"There are {count} webhook endpoints, and there may be {self._most}: delete one first."
                )
                raise invalid(what, "url", "too_many_endpoints")
            id = endpoint_id(self._entropy(ENTROPY_BYTES))
            secret = self._entropy(SECRET_BYTES)
            text = secret_text(secret)
            sealed = (self._sealer.seal(secret, id),)
            new = Endpoint(id, tenant, 0, 0, **asked, secrets=sealed, hint=secret_hint(text))
            await self._append([said.new() for said in made(new)], repeatable=False)
        return Revealed(await self.find(tenant, id), text)

    async def change(self, tenant: Tenant, id: str, asked: dict[str, Any]) -> Endpoint:
        """Change the settings that are `asked`. Raises ApiError."""
        async with self._turn:
            endpoint = await self.find(tenant, id)
            changed = replace(endpoint, **asked)
            if changed != endpoint:
                await self._append([settings_of(changed).new()], repeatable=True)
        return await self.find(tenant, id)

    async def delete(self, tenant: Tenant, id: str) -> None:
        """Delete an endpoint with its secrets. What is due to it is not delivered. Raises ApiError."""
        async with self._turn:
            endpoint = await self.find(tenant, id)
            erased = [NewRecord(key.encode(), None) for key in endpoint_keys(endpoint.id)]
            await self._append(erased, repeatable=True)

    async def rotate(self, tenant: Tenant, id: str, *, keep: bool) -> Revealed:
        """Give an endpoint a new secret; with `keep` those before sign for 24 h more. Raises ApiError."""
        self._need_key()
        async with self._turn:
            endpoint = await self.find(tenant, id)
            secret = self._entropy(SECRET_BYTES)
            text = secret_text(secret)
            sealed = self._sealer.seal(secret, endpoint.id)
            secrets = rotated(endpoint.secrets, sealed, self._clock(), keep=keep)
            said = SecretRecord(endpoint.id, tenant, secrets, secret_hint(text))
            await self._append([said.new()], repeatable=False)
        return Revealed(await self.find(tenant, id), text)

    def _need_key(self) -> None:
        if not self._sealer.can_seal:
            what = "No signing secret can be kept: the operator must set REJOINDER_WEBHOOKS_KEYS."
            raise invalid(what, "signing_secret", "no_sealing_key")

    async def _append(self, records: list[NewRecord], *, repeatable: bool) -> None:
        """Append `records` in this order, and read them back. Raises ApiError (503)."""
        appends = (self._writer.append(self._topic, HOME, record) for record in records)
        results = await asyncio.gather(*appends, return_exceptions=True)
        for result in results:
            if isinstance(result, LogUnavailable) and result is results[0]:
                raise away() from result
            if isinstance(result, LogUnavailable | AppendUnknown):
                raise unconfirmed(repeatable=repeatable) from result
            if isinstance(result, BaseException):
                raise result
        await self._registry.reach(max(result.offset for result in results if isinstance(result, Ack)))


def no_endpoint(id: str) -> ApiError:
    """404: one body for an unknown, foreign, deleted or malformed id (A-15)."""
    what = f"Webhook endpoint with id '{id}' not found."
    return ApiError(404, what, param="webhook_endpoint_id", code="not_found")
