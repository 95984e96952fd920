"""Too many connections and unfinished heads, on real sockets: which are closed, which are still served."""

import asyncio
from asyncio import StreamReader, StreamWriter

from prometheus_client import REGISTRY

from services.web.crowd import CrowdBounds
from services.web.health import routes
from tests.conftest import eventually
from tests.serving import HOST, ask, read_answer, serving

HEAD = b"GET /livez HTTP/1.1\r\nhost: a\r\n"
Socket = tuple[StreamReader, StreamWriter]


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


async def connect(port: int, sent: bytes = b"") -> Socket:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(sent)
    return reader, writer


async def closed(socket: Socket) -> bool:
    """Whether the server closes the connection without a word."""
    try:
        async with asyncio.timeout(5):
            return await socket[0].read(1) == b""
    except ConnectionResetError:
        return True


async def answers(socket: Socket, sent: bytes) -> bool:
    socket[1].write(sent)
    return (await read_answer(socket[0])).status == 200


def hang_up(*sockets: Socket) -> None:
    for _, writer in sockets:
        writer.close()


async def test_of_too_many_unfinished_heads_the_oldest_is_closed_and_others_are_served() -> None:
    turned_out = metric("rejoinder_http_turned_out_total", why="heads")
    others = metric("rejoinder_http_unfinished_heads")
    async with serving(routes(list), bounds=CrowdBounds(heads=3)) as (server, port):
        slow = [await connect(port, HEAD)]
        await eventually(lambda: metric("rejoinder_http_unfinished_heads") == others + 1)
        slow += [await connect(port, HEAD) for _ in range(2)]
        await eventually(lambda: metric("rejoinder_http_unfinished_heads") == others + 3)
        slow.append(await connect(port, HEAD))
        assert await closed(slow[0])
        assert (await ask(port, "GET /livez")).status == 200
        assert await answers(slow[1], b"\r\n")
        assert metric("rejoinder_http_turned_out_total", why="heads") == turned_out + 1
        hang_up(*slow)
        await eventually(lambda: server.connections == 0)
    assert metric("rejoinder_http_unfinished_heads") == others


async def test_of_too_many_connections_one_that_asked_nothing_is_closed_and_a_known_one_never() -> None:
    turned_out = metric("rejoinder_http_turned_out_total", why="connections")
    async with serving(routes(list), bounds=CrowdBounds(connections=2)) as (server, port):
        known = await connect(port)
        assert await answers(known, HEAD + b"\r\n")
        silent = await connect(port)
        await eventually(lambda: server.connections == 2)
        newer = await connect(port)
        assert await closed(silent)
        assert await answers(newer, HEAD + b"\r\n")
        late = await connect(port)  # all the others are known by now
        assert await closed(late)
        assert await answers(known, HEAD + b"\r\n")
        assert metric("rejoinder_http_turned_out_total", why="connections") == turned_out + 2
        hang_up(known, silent, newer, late)


async def test_an_address_has_its_share_and_gets_it_back() -> None:
    async with serving(routes(list), bounds=CrowdBounds(per_address=2)) as (server, port):
        first, second = await connect(port), await connect(port)
        assert await answers(first, HEAD + b"\r\n")
        third = await connect(port)
        assert await closed(third)
        hang_up(first)
        await eventually(lambda: server.connections == 1)
        again = await connect(port)
        assert await answers(again, HEAD + b"\r\n")
        hang_up(second, third, again)


async def test_four_hundred_unfinished_heads_cost_no_more_than_their_bound() -> None:
    """Each may keep its 64 KiB, and what the parser and the socket hold beside it."""
    async with serving(routes(list), bounds=CrowdBounds(heads=20)) as (server, port):
        slow = [await connect(port, HEAD + b"x: " + b"y" * 40_000) for _ in range(400)]
        await eventually(lambda: server.connections == 20)
        assert (await ask(port, "GET /livez")).status == 200
        hang_up(*slow)
