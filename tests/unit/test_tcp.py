"""Ports for processes that are told theirs before they start."""

import socket
import subprocess
import sys

import pytest

from services.broker.tcp import COUNT, LOOPBACK, candidates, free_port, is_free


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


TAKE = "import random; random.seed(1); from services.broker.tcp import free_port"
TAKE += "; print(*(free_port() for _ in range(50)), flush=True); input()"


def test_two_processes_that_try_the_same_ports_get_different_ones() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    taken: set[str] = set()
    children = [subprocess.Popen([sys.executable, "-c", TAKE], **pipes) for _ in range(2)]  # type: ignore[call-overload]
    for child in children:
        taken.update(child.stdout.readline().split())
    said = [child.communicate("\n")[1] for child in children]

    assert len(taken) == 100
    assert said == ["", ""], "the claims are given back in silence"


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    with socket.create_server((LOOPBACK, free_port())) as listener:
        port = listener.getsockname()[1]
        assert not is_free(port)
    assert is_free(port)
