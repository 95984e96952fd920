"""The routes of analytics, at its internal port: the front door forwards them (A-29)."""

from collections.abc import Callable, Sequence

from msgspec.structs import asdict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from schemas.errors import unavailable
from schemas.steps import encoding
from services.analytics.answers import Results, answer, completions, costs, latency
from services.analytics.queries import COSTS, USAGE, UsageQuestion, asked
from services.analytics.reader import UsageReader
from services.loops import in_turns
from services.web.edge import Handler, route
from services.web.forwarded import INSIDE, caller_of

QUESTIONS: Sequence[tuple[str, UsageQuestion, Results]] = (
    ("/v1/organization/usage/completions", USAGE, completions),
    ("/v1/organization/costs", COSTS, costs),
    ("/v1/usage/latency", USAGE, latency),
)
"""By path what can be asked there, and how a group of rows is told."""


def usage_routes(reader: UsageReader, clock: Callable[[], int]) -> Sequence[BaseRoute]:
    """The routes. `clock` tells ms since the epoch."""
    return [
        route("GET", INSIDE + path, _handler(reader, clock, kind, results))
        for path, kind, results in QUESTIONS
    ]


def _handler(reader: UsageReader, clock: Callable[[], int], kind: UsageQuestion, results: Results) -> Handler:
    async def handle(request: Request) -> Response:
        caller = caller_of(request)
        query = asked(request.query_params.multi_items(), kind, caller, clock() // 1000)
        if reasons := reader.not_ready():
            raise unavailable(f"Usage is not known yet: {reasons[0]}.", reason="usage_not_read")
        page = await in_turns(answer(query, reader.index.sums, results))
        return Response(await in_turns(encoding(asdict(page))), media_type="application/json")

    return handle
