"""Names of endpoints that hang: they hold up no other endpoint, and no end of the process."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from services.webhooks.lookups import HostLookups, PrivateAddress
from services.webhooks.sender import CHECKS, Sender
from tests.conftest import eventually
from tests.webhooks import Receiver

DEAD = 100
"""More names than a pool of threads has places: a loop has 4 to 32."""


class NameServer:
    """Knows all names, and says nothing to those that end in `.dead` until it is `free`."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.asked: list[str] = []
        self.addresses = ["127.0.0.1"]

    def look_up(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        if host.endswith(".dead"):
            self.free.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "no server answers")
        return [
            info
            for each in self.addresses
            for info in socket.getaddrinfo(each, port, type=socket.SOCK_STREAM)
        ]


@pytest.fixture
def names() -> Iterator[NameServer]:
    made = NameServer()
    yield made
    made.free.set()


@pytest.fixture
async def sender(names: NameServer) -> AsyncIterator[Sender]:
    made = Sender(allow_private=True, timeout_s=2, look_up=names.look_up)
    yield made
    await made.close()


async def test_a37_names_that_hang_hold_up_no_other_endpoint(names: NameServer, sender: Sender) -> None:
    dead = [sender.send(f"https://{number}.dead/", b"{}", {}) for number in range(DEAD)]
    attempts = [asyncio.ensure_future(each) for each in dead]
    await eventually(lambda: len(names.asked) == DEAD)
    async with Receiver().serving() as receiver:
        url = receiver.url.replace("127.0.0.1", "living.localhost")
        assert (await sender.send(url, b"{}", {})).outcome == "delivered"
    assert {each.outcome for each in await asyncio.gather(*attempts)} == {"timeout"}


async def test_new_endpoints_whose_names_hang_hold_up_no_delivery(names: NameServer, sender: Sender) -> None:
    checks = [asyncio.ensure_future(sender.check_url(f"https://{n}.dead/")) for n in range(DEAD)]
    await eventually(lambda: len(names.asked) == CHECKS)
    async with Receiver().serving() as receiver:
        url = receiver.url.replace("127.0.0.1", "living.localhost")
        assert (await sender.send(url, b"{}", {})).outcome == "delivered"
    names.free.set()
    await asyncio.gather(*checks)  # each attempt looks again
    assert len([host for host in names.asked if host.endswith(".dead")]) == CHECKS


async def test_a_place_is_free_when_its_name_is_answered_not_when_nobody_waits(
    names: NameServer,
) -> None:
    lookups = HostLookups(allow_private=True, most=1, look_up=names.look_up)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await lookups.resolve("a.dead")
    with pytest.raises(OSError, match="1 lookups are under way"):
        await lookups.resolve("living.example")
    names.free.set()

    async def answers() -> bool:
        try:
            return bool(await lookups.resolve("living.example"))
        except OSError:
            return False

    await eventually(answers)


@pytest.mark.parametrize("private", ["127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::7f00:1"])
async def test_p128_one_private_address_among_public_ones_refuses_the_name(
    names: NameServer, private: str
) -> None:
    names.addresses = ["1.1.1.1", private]
    lookups = HostLookups(allow_private=False, most=1, look_up=names.look_up)
    with pytest.raises(PrivateAddress):
        await lookups.resolve("hooks.example")


async def test_p128_a_name_that_turns_private_between_check_and_attempt_is_not_called(
    names: NameServer,
) -> None:
    names.addresses = ["1.1.1.1"]
    sender = Sender(allow_private=False, timeout_s=30, look_up=names.look_up)
    try:
        await sender.check_url("https://hooks.example/")
        names.addresses = ["127.0.0.1"]
        assert (await sender.send("https://hooks.example/", b"{}", {})).outcome == "private_address"
    finally:
        await sender.close()
