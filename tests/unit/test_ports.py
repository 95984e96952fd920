"""Ports for processes that are told theirs before they start."""

import socket

import pytest

from services.ports import COUNT, LOOPBACK, candidates, free_port, is_free


@pytest.mark.parametrize(
    "outgoing, first, last",
    [
        ("32768\t60999\n", 20_768, 32_767),
        ("16000 65535", 4_000, 15_999),
        ("1024 65535", 20_768, 32_767),
        ("", 20_768, 32_767),
    ],
)
def test_ports_lie_below_those_of_outgoing_connections(outgoing: str, first: int, last: int) -> None:
    ports = candidates(outgoing)

    assert (ports[0], ports[-1], len(ports)) == (first, last, COUNT)


def test_no_port_is_given_twice_though_nobody_listens_yet() -> None:
    ports = [free_port() for _ in range(500)]

    assert len(set(ports)) == len(ports)


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    with socket.create_server((LOOPBACK, free_port())) as listener:
        port = listener.getsockname()[1]
        assert not is_free(port)
    assert is_free(port)
