"""GET /v1/models and GET /v1/models/{id}: reads the executors' listings from the log when a client asks.

No tail follows the executors' topic. A request reads a few hundred records, and the result answers all
requests of the next second. Every tenant sees all models (A-27).
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from schemas.errors import LogError, unavailable
from schemas.models import LONGEST_GOOD_S, ListedModel, ModelList, model_not_found, together
from services.eventlog.port import Log, TopicPartition
from services.eventlog.scan import scan
from services.web.answers import json_answer
from services.web.callers import Callers
from services.web.edge import route

KEPT_S = 1.0
"""Seconds for which one read answers further requests."""


class Catalogue:
    """The models in the executors' topic, read in `within_s` seconds. `clock` returns ms since the epoch."""

    def __init__(
        self,
        log: Log,
        topic: str,
        *,
        within_s: float,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._log = log
        self._source = TopicPartition(topic, 0)
        self._within_s = within_s
        self._clock = clock
        self._reading: asyncio.Task[Sequence[ListedModel] | None] | None = None
        self._read_at = 0.0

    async def models(self) -> Sequence[ListedModel]:
        """All models. Raises ApiError 503 if the log or every executor is away."""
        now = asyncio.get_running_loop().time()
        if self._reading is None or (self._reading.done() and now - self._read_at > KEPT_S):
            self._reading, self._read_at = asyncio.create_task(self._read()), now
        try:
            found = await asyncio.shield(self._reading)
        except (LogError, TimeoutError) as error:
            self._reading = None
            raise unavailable("The log cannot be read.", reason="log_away") from error
        if found is None:
            self._reading = None
            raise unavailable("No executor is there to say which models there are.", reason="no_listing")
        return found

    async def _read(self) -> Sequence[ListedModel] | None:
        topic, partition = self._source
        async with asyncio.timeout(self._within_s):
            now = self._clock()
            since = now - LONGEST_GOOD_S * 1000
            start = (await self._log.offsets_at(topic, {partition: since}))[partition]
            end = (await self._log.bounds(topic, [partition]))[partition].end
            return together([record async for record in scan(self._log, self._source, start, end)], now)


class ModelRoutes:
    """The routes of the models."""

    def __init__(self, catalogue: Catalogue, callers: Callers) -> None:
        self._catalogue = catalogue
        self._callers = callers

    def routes(self) -> Sequence[BaseRoute]:
        """The routes, for an `Edge`."""
        return [route("GET", "/v1/models", self.list), route("GET", "/v1/models/{id:path}", self.retrieve)]

    async def list(self, request: Request) -> Response:
        """All models."""
        await self._callers.tenant(request)
        return json_answer(ModelList(await self._catalogue.models()))

    async def retrieve(self, request: Request) -> Response:
        """One model. Its name may have slashes."""
        await self._callers.tenant(request)
        id = request.path_params["id"]
        for model in await self._catalogue.models():
            if model.id == id:
                return json_answer(model)
        raise model_not_found(id)
