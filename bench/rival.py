"""The rival: a Responses server that keeps a row per response and rewrites it for every event.

This is how such servers are commonly built, made as fast as that can be: one process on uvloop and
httptools, SQLite with WAL and without a sync per commit, prepared statements, msgspec; the row's events stay
encoded and are neither parsed nor encoded again, only copied. For every event the row is read, decoded,
changed, encoded and written back. Live readers are fed from memory, all that is pending in one write; the row
is read for what a reader missed. Its events are those of Rejoinder's model echo.

    python -m bench.rival --port 8000 --database rival.db
"""

import argparse
import asyncio
import secrets
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from itertools import chain
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from schemas import events, response
from schemas.ids import ResponseId, Tenant
from schemas.steps import finished
from services import echo
from services.executor.backend import RunRequest
from services.executor.backends.scripted import scripting


class Row(msgspec.Struct):
    """What one response's row holds: the object as a GET shows it, and every event so far, encoded."""

    response: dict[str, Any]
    events: list[msgspec.Raw]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Row).decode


class Rows:
    """The table: id, JSON."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in (
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "cache_size=-262144",
            "mmap_size=1073741824",
        ):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute("CREATE TABLE IF NOT EXISTS responses (id TEXT PRIMARY KEY, body BLOB)")

    def create(self, id: str, row: Row) -> None:
        """Insert the row."""
        self._database.execute("INSERT INTO responses VALUES (?, ?)", (id, _encode(row)))

    def read(self, id: str) -> Row | None:
        """The row, decoded."""
        found = self._database.execute("SELECT body FROM responses WHERE id = ?", (id,)).fetchone()
        return _decode(found[0]) if found else None

    def write(self, id: str, row: Row) -> None:
        """Rewrite the whole row."""
        self._database.execute("UPDATE responses SET body = ? WHERE id = ?", (_encode(row), id))


class Watcher:
    """A live reader: the frames it has not taken yet."""

    def __init__(self) -> None:
        self._pending: list[bytes] = []
        self._wake = asyncio.Event()
        self._ended = False

    def push(self, frame: bytes) -> None:
        """Hand over the next frame."""
        self._pending.append(frame)
        self._wake.set()

    def end(self) -> None:
        """End the stream: no frame follows."""
        self._ended = True
        self._wake.set()

    async def writes(self) -> AsyncIterator[bytes]:
        """Everything pending, joined into one write at a time, to the end."""
        while not (self._ended and not self._pending):
            await self._wake.wait()
            self._wake.clear()
            pending, self._pending = self._pending, []
            yield b"".join(pending)


class Runs:
    """Runs responses and feeds their watchers."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._watchers: dict[str, set[Watcher]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, body: dict[str, Any]) -> dict[str, Any]:
        """Store the row, start the run, and return the initial object."""
        id = ResponseId(f"resp_0000{secrets.token_hex(16)}")
        initial = response.initial(body, id, int(time.time()), "echo")
        self._rows.create(id, Row(initial, []))
        self._tasks[id] = asyncio.create_task(self._run(id, body, initial))
        return initial

    def stop(self, id: str) -> None:
        """Stop the run, if it runs still."""
        if id in self._tasks:
            self._tasks[id].cancel()

    def read(self, id: str) -> Row | None:
        """The row, decoded."""
        return self._rows.read(id)

    async def _run(self, id: ResponseId, body: dict[str, Any], initial: dict[str, Any]) -> None:
        said = [{"role": "user", "content": body["input"]}]
        request = RunRequest(id, Tenant("default"), 1, body, said, initial)
        script = finished(scripting(request, echo.steering(body)))
        opening = [{"type": type, "response": initial} for type in (events.CREATED, events.QUEUED)]
        try:
            for number, event in enumerate(chain(opening, script.events())):
                self._append(id, event | {"sequence_number": number})
                await asyncio.sleep(0)  # other tasks get a turn between two events
        finally:
            del self._tasks[id]
            for watcher in self._watchers.pop(id, ()):
                watcher.end()

    def _append(self, id: str, event: dict[str, Any]) -> None:
        """Read, decode, change, encode, write: once per event."""
        row = self._rows.read(id)
        assert row is not None
        encoded = _encode(event)
        row.events.append(msgspec.Raw(encoded))
        _change(row.response, event)
        self._rows.write(id, row)
        frame = events.frame(event["type"], event["sequence_number"], encoded)
        for watcher in self._watchers.get(id, ()):
            watcher.push(frame)

    async def stream(self, id: str, after: int) -> AsyncIterator[bytes]:
        """The frames after `after`: what the row holds, then what comes."""
        watcher = Watcher()
        if id in self._tasks:
            self._watchers.setdefault(id, set()).add(watcher)
        else:
            watcher.end()
        try:
            row = self._rows.read(id)
            yield b"".join(_frames(row.events if row else [], after + 1))
            async for write in watcher.writes():
                yield write
        finally:
            self._watchers.get(id, set()).discard(watcher)


def _change(response: dict[str, Any], event: dict[str, Any]) -> None:
    """Bring the object up to date with one event of model echo."""
    match event["type"]:
        case "response.output_text.delta":
            response["output"][0]["content"][0]["text"] += event["delta"]
        case "response.output_item.added" | "response.output_item.done":
            response["output"] = [event["item"]]
        case "response.content_part.added" | "response.content_part.done":
            response["output"][0]["content"] = [event["part"]]
        case "response.in_progress":
            response["status"] = "in_progress"
        case "response.completed":
            response.update(event["response"])


def _frames(stored: list[msgspec.Raw], first: int) -> Iterator[bytes]:
    for number, encoded in enumerate(stored[first:], first):
        yield events.frame(_type_of(encoded).type, number, bytes(encoded))


class _Typed(msgspec.Struct):
    type: str


_type_of = msgspec.json.Decoder(_Typed).decode


def app(runs: Runs) -> Starlette:
    """The three routes that the benchmarks use."""

    async def create(request: Request) -> Response:
        return _json(runs.start(msgspec.json.decode(await request.body())))

    async def show(request: Request) -> Response:
        id = request.path_params["id"]
        row = runs.read(id)
        if row is None:
            return Response(status_code=404)
        if request.query_params.get("stream") != "true":
            return _json(row.response)
        after = int(request.query_params.get("starting_after", "-1"))
        return StreamingResponse(runs.stream(id, after), media_type="text/event-stream")

    async def cancel(request: Request) -> Response:
        runs.stop(request.path_params["id"])
        return _json({})

    return Starlette(
        routes=[
            Route("/v1/responses", create, methods=["POST"]),
            Route("/v1/responses/{id}", show),
            Route("/v1/responses/{id}/cancel", cancel, methods=["POST"]),
        ]
    )


def _json(content: object) -> Response:
    return Response(_encode(content), media_type="application/json")


def main() -> None:
    """Serve until SIGTERM; prints `ready URL` first, like `rejoinder dev`."""
    parser = argparse.ArgumentParser(description="The read-modify-write rival.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--database", required=True)
    arguments = parser.parse_args()
    listening = socket.create_server(("127.0.0.1", arguments.port))
    server = uvicorn.Server(
        uvicorn.Config(
            app(Runs(Rows(arguments.database))),
            loop="uvloop",
            http="httptools",
            log_level="warning",
            access_log=False,
        )
    )
    print(f"ready http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    server.run([listening])


if __name__ == "__main__":
    main()
