"""The open responses of a partition: their routes, and which of them wait for a first claim. Pure."""

from schemas.fold import State
from schemas.ids import ResponseId, Tenant
from services.config import Route
from services.executor.fairness import Queue

VALUES_BYTES = 32 << 20
"""Bytes per partition up to which the accepted values of unclaimed responses are held; others are read again.
"""


class Waiting:
    """The open responses of one partition that are acted on."""

    def __init__(self) -> None:
        self.unclaimed: dict[Route | None, dict[Tenant, dict[ResponseId, None]]] = {}
        """Open and never claimed, oldest first, by route and tenant: a full route is passed over as one."""
        self._routes: dict[ResponseId, Route | None] = {}
        """The routes of open responses; None where the request leads to none."""
        self._values: dict[ResponseId, bytes] = {}
        self._values_bytes = 0

    def __repr__(self) -> str:
        return f"<Waiting {len(self)} of {len(self._routes)} open>"

    def __len__(self) -> int:
        return sum(len(ids) for tenants in self.unclaimed.values() for ids in tenants.values())

    def accept(self, state: State, value: bytes | None, route: Route | None) -> None:
        """Note that a response was accepted: it waits for a claim."""
        self._routes[state.id] = route
        self.unclaimed.setdefault(route, {}).setdefault(state.tenant, {})[state.id] = None
        if value is not None and self._values_bytes + len(value) <= VALUES_BYTES:
            self._values[state.id] = value
            self._values_bytes += len(value)

    def route(self, id: ResponseId) -> Route | None:
        """The route of the response; None where its request leads to none."""
        return self._routes.get(id)

    def queue(self, state: State) -> Queue:
        """The queue of the response: its tenant and route."""
        return Queue(state.tenant, self._routes.get(state.id))

    def take_value(self, id: ResponseId) -> bytes | None:
        """The accepted value, if it was held; it is not held any longer."""
        value = self._values.pop(id, None)
        if value is not None:
            self._values_bytes -= len(value)
        return value

    def claimed(self, state: State) -> None:
        """Note that a claim of the response won."""
        tenant, route = self.queue(state)
        if ids := self.unclaimed.get(route, {}).get(tenant):
            ids.pop(state.id, None)
            if not ids:
                del self.unclaimed[route][tenant]

    def closed(self, state: State) -> None:
        """Note that the response closed: nothing of it waits any more."""
        self.claimed(state)
        self._routes.pop(state.id, None)
        self.take_value(state.id)
