"""Lists the models for GET /v1/models: an executor has the operator's file and the upstreams' keys.

    what the file names → appended at once → each glob's upstream is asked for its /models → appended again,
    every `every` seconds anew

A glob's models are those that its upstream lists and that a request for them would lead to that upstream: the
first [[models]] that fits a name serves it. While an upstream is away, or cannot list, its globs have none.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from urllib.parse import quote

import structlog

from schemas.errors import ApiError, LogError
from schemas.models import ListedModel, Listing, distinct, fitting_listing, models_in
from schemas.records import NewRecord
from services.config import Config, Route, is_glob
from services.config import Model as Served
from services.eventlog.port import Ack, Log
from services.executor.backend import UpstreamError
from services.executor.backends.upstream import Upstream

ASK_S = 15.0
"""Seconds that an upstream may take to list its models."""
MAX_ANSWER_BYTES = 4 << 20
MAX_PAGES = 100
"""Pages of a list that are asked for."""
GOOD_FOR = 2.5
"""Intervals for which a listing is good: one may be lost, or late."""

Append = Callable[[str, int, NewRecord], Awaitable[Ack]]

log = structlog.get_logger()


class Lister:
    """Lists the models of `config`; `upstreams` has those of its globs. It lists anew every `every` s."""

    def __init__(
        self, log_: Log, topic: str, config: Config, upstreams: Mapping[Route, Upstream], every: float
    ) -> None:
        self._log = log_
        self._topic = topic
        self._config = config
        self._globs = {
            route: upstreams[route] for route in config.models if is_glob(route.match) and route in upstreams
        }
        self._every = every
        self._source = f"models_{secrets.token_hex(8)}"
        self._trouble: dict[Route, str] = {}
        self._said = False

    def not_ready(self) -> list[str]:
        """Why clients cannot know the models yet; empty once a listing was appended."""
        return [] if self._said else ["its models are not told yet"]

    async def run(self) -> None:
        """List for ever."""
        writer = self._log.writer()
        try:
            while True:
                if not self._said:
                    await self._say(writer.append, {})
                await self._say(writer.append, await self._ask_all())
                await asyncio.sleep(self._every)
        finally:
            await writer.close(timeout=1)

    async def _say(self, append: Append, listed: Mapping[Route, Sequence[ListedModel]]) -> None:
        """Append a listing. One that the log does not take is replaced by the next."""
        models = distinct(catalogue(self._config, listed))
        fits = fitting_listing(models)
        if len(fits) < len(models):
            left_out = len(models) - len(fits)
            log.warning("too many models for one record: the last are not listed", left_out=left_out)
        listing = Listing(self._source, self._every * GOOD_FOR + ASK_S, fits)
        try:
            await append(self._topic, 0, listing.record())
        except LogError as error:
            log.info("the models could not be told, trying again", error=str(error))
        else:
            self._said = True

    async def _ask_all(self) -> dict[Route, Sequence[ListedModel]]:
        asked = list(self._globs.items())
        answers = await asyncio.gather(*(self._ask(route, upstream) for route, upstream in asked))
        return {route: models for (route, _), models in zip(asked, answers, strict=True)}

    async def _ask(self, route: Route, upstream: Upstream) -> Sequence[ListedModel]:
        """What `upstream` lists; nothing when it does not, and the operator is told once why."""
        try:
            async with asyncio.timeout(ASK_S):
                models = await _pages(upstream)
        except UpstreamError as error:
            return self._told(route, error.message)
        except TimeoutError:
            return self._told(route, f"no answer within {ASK_S:g} s")
        except (ValueError, RecursionError):
            return self._told(route, "the answer is no list of models")
        self._trouble.pop(route, None)
        return models

    def _told(self, route: Route, why: str) -> Sequence[ListedModel]:
        if self._trouble.get(route) != why:
            self._trouble[route] = why
            log.info("an upstream does not list its models", route=repr(route), why=why)
        return ()


async def _pages(upstream: Upstream) -> list[ListedModel]:
    """All that `upstream` lists, page by page."""
    models, after = list[ListedModel](), None
    for _ in range(MAX_PAGES):
        path = "/models" if after is None else f"/models?after={quote(after, safe='')}"
        async with upstream.get(path, calls=1) as answer:
            page, following = models_in(await upstream.body(answer, MAX_ANSWER_BYTES))
        models += page
        if following is None or following == after:
            break
        after = following
    return models


def catalogue(config: Config, listed: Mapping[Route, Sequence[ListedModel]]) -> Iterator[ListedModel]:
    """Every model and agent of `config` that a request can name, in its order.

    Of a glob these are the ones that its upstream `listed`.
    """
    for route in config.models:
        if is_glob(route.match):
            yield from (model for model in listed.get(route, ()) if _serves(config, route, model.id))
        else:
            yield ListedModel(route.match)
    yield from (ListedModel(agent.name) for agent in config.agents)


def _serves(config: Config, route: Served, name: str) -> bool:
    """Whether a request for model `name` goes to `route`."""
    try:
        return config.route({"model": name}) is route
    except ApiError:
        return False
