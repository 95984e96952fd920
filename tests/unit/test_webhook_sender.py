"""What an answer of an endpoint comes to, whatever it looks like."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.webhooks.sender import ANSWER_BYTES, MOST_SAID, Sender
from tests.conftest import PATIENCE
from tests.serving import HOST

HEAD = b"HTTP/1.1 %03d X\r\ncontent-length: %d\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HANGS_S = 2.0
"""Seconds for an answer where they run out: enough for what comes before the server hangs."""


@asynccontextmanager
async def answering(answer: bytes, *, hangs: bool) -> AsyncIterator[str]:
    """The URL of a server that says `answer` to whatever is asked, and then hangs or hangs up."""
    over = asyncio.Event()

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if hangs:
            await over.wait()
        writer.close()

    server = await asyncio.start_server(say, HOST, 0)
    try:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}/"
    finally:
        over.set()
        server.close()


@pytest.mark.parametrize("hangs", [True, False])
@pytest.mark.parametrize(
    "answer, said",
    [
        (HEAD % (200, 10) + b"half", ("delivered", 200)),
        (HEAD % (500, 10) + b"half", ("refused", 500)),
        (HEAD % (307, 0), ("redirected", 307)),
        (HEAD % (204, 0), ("delivered", 204)),
        (HEAD % (200, 10 * ANSWER_BYTES) + bytes(10 * ANSWER_BYTES), ("delivered", 200)),
        (HEAD % (100, 0) + HEAD % (200, 0), ("delivered", 200)),
    ],
)
async def test_a37_the_status_counts_whatever_becomes_of_the_body(
    answer: bytes, said: tuple[str, int], hangs: bool
) -> None:
    sender = Sender(allow_private=True, timeout_s=HANGS_S if hangs else PATIENCE)
    try:
        async with answering(answer, hangs=hangs) as url:
            result = await sender.send(url, b"{}", {})
        assert (result.outcome, result.status) == said
    finally:
        await sender.close()


@pytest.mark.parametrize(
    "answer, hangs, outcome",
    [
        (b"", True, "timeout"),
        (b"", False, "unreachable"),
        (b"HTTP/1.1 200", False, "unreachable"),
        (b"hello\r\n\r\n", False, "unreachable"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 100_000, False, "unreachable"),
        (HEAD % (0, 0), False, "unreachable"),  # the parser takes any three digits, a record does not
        (HEAD % (99, 0), False, "unreachable"),
        (CONTINUE * (ANSWER_BYTES // len(CONTINUE) * 100), True, "unreachable"),
    ],
)
async def test_a37_without_a_status_it_is_a_failure(answer: bytes, hangs: bool, outcome: str) -> None:
    sender = Sender(allow_private=True, timeout_s=HANGS_S if outcome == "timeout" else PATIENCE)
    try:
        async with answering(answer, hangs=hangs) as url:
            result = await sender.send(url, b"{}", {})
        assert (result.outcome, result.status) == (outcome, None)
    finally:
        await sender.close()


async def test_answers_are_bounded_each_not_what_a_connection_says_in_its_life() -> None:
    body = bytes(ANSWER_BYTES)
    connections = 0

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await reader.readline():
            await reader.readuntil(b"{}")
            writer.write(HEAD % (200, len(body)) + body)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(say, HOST, 0)
    url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}/"
    sender = Sender(allow_private=True, timeout_s=PATIENCE)
    try:
        for _ in range(2 * MOST_SAID // ANSWER_BYTES):
            assert (await sender.send(url, b"{}", {})).outcome == "delivered"
        assert connections == 1
    finally:
        await sender.close()
        server.close()
