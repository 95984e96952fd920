"""The backends: what a request's model or agent is called with.

`build` makes one backend per model and agent of the configuration, and a `Registry` finds a request's.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, assert_never

from schemas.errors import ApiError
from services.config import Agent, Config, Route
from services.executor.backend import Backend, Resume, RunRequest, UpstreamError, UpstreamEvent
from services.executor.backends.chat import ChatBackend
from services.executor.backends.responses import ResponsesBackend
from services.executor.backends.scripted import ScriptedBackend
from services.executor.backends.upstream import Upstream


class Registry:
    """Finds the backend of a request. `backends` is keyed by the identity of the configuration's routes."""

    def __init__(self, config: Config, backends: Mapping[int, Backend]) -> None:
        self._config = config
        self._backends = backends

    def resolve(self, body: Mapping[str, Any]) -> Backend:
        """The backend that serves the request `body`.

        Raises UpstreamError when there is none: it was accepted under another configuration.
        """
        try:
            return self._backends[id(self._config.route(body))]
        except ApiError as error:
            raise UpstreamError(error.message, type="no_backend") from error

    async def close(self) -> None:
        """Close every backend's connections."""
        for backend in self._backends.values():
            await backend.close()


class Bounded:
    """A backend with at most `limit` calls at once; the others wait their turn."""

    def __init__(self, backend: Backend, limit: int) -> None:
        self._backend = backend
        self._slots = asyncio.Semaphore(limit)

    @property
    def repeatable(self) -> bool:
        """As the backend says."""
        return self._backend.repeatable

    @property
    def resumable(self) -> bool:
        """As the backend says."""
        return self._backend.resumable

    @property
    def pass_extensions(self) -> bool:
        """As the backend says."""
        return self._backend.pass_extensions

    async def stream(
        self, request: RunRequest, resume: Resume | None = None
    ) -> AsyncGenerator[Sequence[UpstreamEvent]]:
        """The backend's stream, once a slot is free."""
        async with self._slots, aclosing(self._backend.stream(request, resume)) as batches:
            async for batch in batches:
                yield batch

    async def stop(self, upstream_id: str) -> None:
        """As the backend does: at once, whatever waits for a slot."""
        await self._backend.stop(upstream_id)

    async def close(self) -> None:
        """Close the backend."""
        await self._backend.close()


def build(config: Config, environ: Mapping[str, str], idle: float = 600) -> Registry:
    """One backend per route of `config`; must be called inside the event loop.

    `idle` is the `timeout` (seconds) of routes that have none. Raises SettingsError when an `api_key_env`
    names a variable that `environ` does not have.
    """

    def unbounded(route: Route) -> Backend:
        if isinstance(route, Agent):
            return ResponsesBackend(route, Upstream(route, environ, idle))
        match route.backend:
            case "scripted":
                return ScriptedBackend()
            case "responses":
                return ResponsesBackend(route, Upstream(route, environ, idle))
            case "chat":
                return ChatBackend(route, Upstream(route, environ, idle))
        assert_never(route.backend)

    backends = {id(route): Bounded(unbounded(route), route.max_concurrency) for route in config.routes()}
    return Registry(config, backends)
