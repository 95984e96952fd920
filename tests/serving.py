"""A server of ours in the test process, and a client that sees how an answer ended."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from starlette.routing import BaseRoute

from services.web.crowd import CrowdBounds
from services.web.edge import Edge
from services.web.server import Server

HOST = "127.0.0.1"
_BOUNDS = CrowdBounds()


@asynccontextmanager
async def serving(
    routes: Sequence[BaseRoute],
    origins: Sequence[str] = (),
    request_s: float = 20,
    hosts: Sequence[str] = (),
    bounds: CrowdBounds = _BOUNDS,
    socket_timeout_s: float = 30,
) -> AsyncIterator[tuple[Server, int]]:
    """A server with these routes, and its port."""
    server = Server(
        Edge(routes, origins, hosts), socket_timeout_s=socket_timeout_s, request_s=request_s, bounds=bounds
    )
    port = await server.start(HOST, 0)
    try:
        yield server, port
    finally:
        await server.drain(0)


class Answer(NamedTuple):
    """An answer: `body` is without its chunking; `whole` is false if the connection broke within it."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool


async def ask(port: int, request: str, body: bytes = b"", headers: Sequence[str] = ()) -> Answer:
    """Send `request` (such as `GET /x`) on a connection of its own and read the answer, however it ends."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        named = any(header.startswith("host:") for header in headers)
        lines = [f"{request} HTTP/1.1", *([] if named else [f"host: {HOST}"]), *headers]
        if body:
            lines.append(f"content-length: {len(body)}")
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return await read_answer(reader)
    finally:
        writer.close()


async def opened(port: int, request: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which `request` (such as `GET /x`) was sent; what comes is the caller's to read."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(f"{request} HTTP/1.1\r\nhost: {HOST}\r\n\r\n".encode())
    return reader, writer


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read one answer to its end, however it ends."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
    status = int(head[0].split()[1])
    if "content-length" in headers:
        return Answer(status, headers, await reader.readexactly(int(headers["content-length"])), True)
    if status in (204, 304):
        return Answer(status, headers, b"", True)
    body, whole = await _chunks(reader)
    return Answer(status, headers, body, whole)


async def _chunks(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    body = b""
    try:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return body, False
    return body, True
