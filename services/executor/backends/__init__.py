"""The backends call upstreams: each speaks the protocol of one kind of model server or agent.

`build` makes one backend per model and agent of the configuration. A `Registry` finds the backend of a
request. A new kind of upstream is a folder here, a line in `KINDS`, and a name in `services.config.Kind`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from schemas.errors import ApiError
from services.config import Agent, Config, Kind, Model, Route
from services.executor.backend import Backend, UpstreamError
from services.executor.backends.chat.backend import ChatBackend
from services.executor.backends.responses import ResponsesBackend
from services.executor.backends.scripted import ScriptedBackend
from services.executor.backends.upstream import RECORD_BYTES, Upstream

Called = Callable[[], Upstream]
"""Returns the server that a backend calls. A backend that asks for it has the server's models listed."""
KINDS: Mapping[Kind, Callable[[Model, Called], Backend]] = {
    "scripted": lambda _model, _called: ScriptedBackend(),
    "responses": lambda model, called: ResponsesBackend(model, called()),
    "chat": lambda model, called: ChatBackend(model, called()),
}
"""Makes the backend of a model, by the protocol of its upstream."""


class _Asked(Struct):
    """The fields by which a route is found. The rest of a body is not decoded."""

    model: Any = None
    agent_reference: Any = None


class _Accepted(Struct):
    request: _Asked


_accepted = msgspec.json.Decoder(_Accepted).decode


class Registry:
    """Finds the backend of a request. `backends` has one for each route of the configuration; `upstreams` are
    the servers that they call.
    """

    def __init__(
        self,
        config: Config,
        backends: Mapping[Route, Backend],
        upstreams: Mapping[Route, Upstream] | None = None,
    ) -> None:
        self._config = config
        self._backends = backends
        self.upstreams = upstreams or {}

    def route(self, accepted: bytes) -> Route | None:
        """The route of a response, by the value of its `accepted`. None if it has none: its run tells why."""
        try:
            return self._config.route(msgspec.structs.asdict(_accepted(accepted).request))
        except (ApiError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    def backend(self, route: Route) -> Backend:
        """The backend of one of the configuration's routes."""
        return self._backends[route]

    def resolve(self, body: Mapping[str, Any]) -> Backend:
        """The backend that serves the request `body`.

        Raises UpstreamError if there is none: ingest accepted the request under another configuration.
        """
        try:
            return self._backends[self._config.route(body)]
        except ApiError as error:
            raise UpstreamError(error.message, type="no_backend") from error

    async def close(self) -> None:
        """Close every backend's connections."""
        for backend in self._backends.values():
            await backend.close()


def build(
    config: Config, environ: Mapping[str, str], idle: float = 600, record_bytes: int = RECORD_BYTES
) -> Registry:
    """One backend per route of `config`. Call it inside the event loop.

    `idle` is the `timeout` (seconds) of routes that have none, `record_bytes` the size of the largest record.
    Raises SettingsError if an `api_key_env` names a variable that `environ` does not have.
    """

    def upstream(route: Route) -> Upstream:
        return upstreams.setdefault(route, Upstream(route, environ, idle, record_bytes))

    upstreams: dict[Route, Upstream] = {}

    def backend(route: Route) -> Backend:
        if isinstance(route, Agent):
            return ResponsesBackend(route, upstream(route))
        return KINDS[route.backend](route, partial(upstream, route))

    return Registry(config, {route: backend(route) for route in config.routes()}, upstreams)
