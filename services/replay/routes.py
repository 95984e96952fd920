"""Replay's routes for reads: of clients, and, on a port of its own, of ingest and executors.

    GET /v1/responses/{id}                                  the object, with the output so far
    GET /v1/responses/{id}?stream=true[&starting_after=N]   its events after the cursor, as they come
    GET /v1/responses/{id}/input_items                      its input, in pages

A client gets the same 404 for an id that is unknown, malformed, deleted, another tenant's or hidden (A-15).
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from schemas.errors import ApiError, RejoinderError, invalid, not_found, unavailable
from schemas.ids import parse_response_id, partition_of
from schemas.references import is_reference
from schemas.request import listing
from services.fits import between_commas
from services.loops import in_turns
from services.replay.cursor import START, parse_cursor, wants_stream
from services.replay.items import Items
from services.replay.replay import Deleted, Packed, Replay, Stored
from services.replay.shards import Shards
from services.replay.turn import Item, previous_in, request_body
from services.replay.window import Window
from services.settings import Settings
from services.web.answers import json_answer, named_in, object_answer, read_body
from services.web.callers import Callers
from services.web.connection import connection
from services.web.edge import Handler, route
from services.web.internal import ITEMS_PATH, LOAD_PATH, SERVING_PATH, Found, Serving, Wanted
from services.web.items_apart import found_apart
from services.web.paging import page, parse_paging
from services.web.served import served_in
from services.web.sse import EventStream
from services.web.stream import Disconnected, Sink, while_connected

RESULT_S = 60.0
"""Seconds that a caller waits for a close before it must ask again."""

ITEMS_S = 30.0
"""Seconds for the look-up of the items that a request refers to. Ingest does not wait so long (A-10)."""
WANTED_BYTES = 8 << 20
"""Most bytes of a `Wanted`: ingest bounds the number and the length of references below that."""

_wanted = msgspec.json.Decoder(Wanted).decode
_EVENT_STREAM = "text/event-stream"
_JSON = "application/json"


class PublicRoutes:
    """The reads of clients. What belongs to another of the `shards` is passed on."""

    def __init__(self, replay: Replay, shards: Shards, settings: Settings, callers: Callers) -> None:
        self._replay = replay
        self._shards = shards
        self._items = Items(replay)
        self._settings = settings
        self._callers = callers

    def routes(self) -> Sequence[BaseRoute]:
        """The routes, for an `Edge`."""
        return [
            route("GET", "/v1/responses/{id}", self._or_passed_on(self.response)),
            route("GET", "/v1/responses/{id}/input_items", self._or_passed_on(self.input_items)),
        ]

    def _or_passed_on(self, handler: Handler) -> Handler:
        """`handler`, for what is served here."""

        async def answer(request: Request) -> ASGIApp:
            id = parse_response_id(request.path_params["id"])
            if id is None or not self._shards.have(partition_of(id)):
                return await handler(request)
            await self._callers.tenant(request)
            served_in(request.scope).response = id
            try:
                return await self._shards.pass_on(request, partition_of(id))
            except ApiError as error:
                raise _refused(request, error) from error

        return answer

    async def response(self, request: Request) -> ASGIApp:
        """The object, or the stream if the query asks for it; an `Accept` header alone does not."""
        if wants_stream(request.query_params.get("stream")):
            return await self._stream(request)
        found = await self._find(request)
        is_open = isinstance(found, Window) and not found.state.closed
        return object_answer(await self._replay.object(found), open=is_open)

    async def input_items(self, request: Request) -> Response:
        """A page of the input's items."""
        paging = parse_paging(request.query_params)
        found = await self._find(request)
        body = request_body(await self._replay.request(found))
        await asyncio.sleep(0)
        listed = await in_turns(listing(body, found.id))
        answer = page(listed, paging)
        answer["data"] = await self._resolved(found, body, answer["data"], listed)
        return json_answer(answer)

    async def _resolved(
        self, found: Stored, body: dict[str, Any], shown: list[Item], listed: list[Item]
    ) -> list[Item]:
        """The items of a page (`shown`), with references replaced by their items if these still exist.

        `listed` are all items of the request `body`.
        """
        if not any(map(is_reference, shown)):
            return shown
        given = {item["id"]: original for item, original in zip(listed, body["input"], strict=True)}
        names = {item["id"]: given[item["id"]]["id"] for item in shown if is_reference(item)}
        there = {item.get("id"): item for item in reversed(body["input"]) if not is_reference(item)}
        items = {name: there[name] for name in names.values() if name in there}
        elsewhere = list(dict.fromkeys(name for name in names.values() if name not in there))
        asked = Wanted(found.tenant, previous_in(body), elsewhere)
        while asked.ids:
            answer = await self._found(asked)
            items |= answer.items
            asked = replace(asked, ids=answer.left)
        whole = [items.get(names.get(item["id"], ""), item) | {"id": item["id"]} for item in shown]
        return await in_turns(listing({"input": whole}, found.id))

    async def _found(self, wanted: Wanted) -> Found:
        """Items that are referred to, wherever they are. Raises ApiError."""
        is_far, owner = self._shards.have, self._shards.replays.owner

        async def ask(partition: int, part: Wanted) -> Found:
            if is_far(partition):
                return await self._shards.client.items_at(partition, part)
            return await self._items.find(part)

        return await found_apart(wanted, lambda partition: owner(partition) if is_far(partition) else "", ask)

    async def _stream(self, request: Request) -> ASGIApp:
        query, headers = request.query_params, request.headers
        cursor = parse_cursor(query.get("starting_after"), headers.get("last-event-id"))
        by_browser = _EVENT_STREAM in headers.get("accept", "")
        try:
            found = await self._find(request)
        except ApiError as error:
            raise _refused(request, error) from error
        if by_browser and self._replay.ended(found, cursor):
            return Response(status_code=204)
        return event_stream(self._replay, found, cursor, self._settings)

    async def _find(self, request: Request) -> Stored:
        text = request.path_params["id"]
        tenant = await self._callers.tenant(request)
        id = parse_response_id(text)
        if id is None:
            raise not_found(text)
        served_in(request.scope).response = id
        found = await self._replay.visible(id, tenant)
        if found is None:
            raise not_found(text)
        return found


class InternalRoutes:
    """The reads of ingest and executors (`services.web.internal`). They are trusted: no tenant is checked."""

    def __init__(
        self, replay: Replay, settings: Settings, port: Callable[[], int], caught_up: Callable[[], bool]
    ) -> None:
        self._replay = replay
        self._items = Items(replay)
        self._settings = settings
        self._port = port
        """Returns the public port."""
        self._caught_up = caught_up
        """Whether the log was read to its end since the start."""

    def routes(self) -> Sequence[BaseRoute]:
        """The routes, for an `Edge`."""
        return [
            route("GET", "/internal/responses/{id}", self.view),
            route("GET", "/internal/responses/{id}/stream", self.stream),
            route("GET", "/internal/responses/{id}/result", self.result),
            route("GET", "/internal/responses/{id}/turn", self.turn),
            route("POST", ITEMS_PATH, self.items),
            route("GET", LOAD_PATH, self.load),
            route("GET", SERVING_PATH, self.serving),
        ]

    async def view(self, request: Request) -> Response:
        """What the log says of an id, known or not."""
        return json_answer(await self._replay.view(named_in(request), _offset(request)))

    async def stream(self, request: Request) -> ASGIApp:
        """All events of a response."""
        return event_stream(self._replay, await self._find(request), START, self._settings)

    async def result(self, request: Request) -> Response:
        """The final object, once the response has closed; 204 if it was deleted."""
        final = await self._closed(request, await self._find(request))
        return Response(status_code=204) if final is None else Response(final, media_type=_JSON)

    async def turn(self, request: Request) -> Response:
        """The turn of a response, once it has closed."""
        found = await self._find(request)
        final = await self._closed(request, found)
        if final is None:
            raise not_found(found.id)
        return json_answer(await self._items.turn(found, final))

    async def items(self, request: Request) -> Response:
        """The items that a request refers to."""
        try:
            wanted = _wanted(await read_body(request, WANTED_BYTES))
        except msgspec.DecodeError as error:
            raise invalid(str(error), None) from error
        try:
            async with asyncio.timeout(ITEMS_S):
                return json_answer(await self._items.find(wanted))
        except TimeoutError:
            raise unavailable("The items cannot be looked up in time.") from None

    async def load(self, _: Request) -> Response:
        """How many responses are open."""
        return json_answer(self._replay.load())

    async def serving(self, _: Request) -> Response:
        """Which partitions this replay serves. Only a shard names the others: its settings have all."""
        named = between_commas(self._settings.replay_url) if self._settings.shard else ()
        return json_answer(Serving(*self._replay.serving(), self._port(), list(named), self._caught_up()))

    async def _find(self, request: Request) -> Stored:
        id = named_in(request)
        found = await self._replay.find(id, _offset(request))
        if found is None or isinstance(found, Deleted):
            raise not_found(id)
        return found

    async def _closed(self, request: Request, found: Stored) -> bytes | None:
        """Wait for the final object; None if the response was deleted."""
        if isinstance(found, Packed):
            return await self._replay.object(found)
        # The wait may take hours: a drain cuts it, and the caller asks another replica.
        connection(request.scope).streaming = True
        try:
            async with while_connected(request.receive), asyncio.timeout(RESULT_S):
                return await self._replay.result(found)
        except TimeoutError:
            raise unavailable("The response is still open.", retry_after=1) from None


def _refused(request: Request, error: ApiError) -> RejoinderError:
    """`error`; for a browser's stream a cut instead of a 503: an EventSource gives up for good on any status
    but 200, and reconnects after a reset (A-18).
    """
    by_browser = _EVENT_STREAM in request.headers.get("accept", "")
    streams = wants_stream(request.query_params.get("stream"))
    return Disconnected(error.message) if by_browser and streams and error.status == 503 else error


def event_stream(replay: Replay, found: Stored, cursor: int, settings: Settings) -> EventStream:
    """An answer that streams the events after `cursor`."""
    sink = Sink()
    chunks = replay.chunks(found, cursor, sink.push)
    return EventStream(chunks, sink=sink, keepalive_s=settings.keepalive_s, stall_s=settings.stall_s)


def _offset(request: Request) -> int | None:
    text = request.query_params.get("offset")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise invalid("offset must be an integer", "offset")
    return int(text)
