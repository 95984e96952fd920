"""The tests' own client: what a server may do is no failure of a test, and what it may not do is one."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.api import Api
from tests.wire import ask

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
AWAY = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\ncontent-length: 2\r\n\r\n{}"


@contextmanager
def server(*answers: bytes) -> Iterator[str]:
    """Answers one connection after the other with these bytes, then closes it."""

    def serve() -> None:
        for answer in answers:
            client, _ = listener.accept()
            with client:
                client.recv(1 << 16)
                client.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            serving.join(timeout=10)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nx: y\r\nz"])
def test_a_connection_that_closes_without_an_answer_is_a_broken_one(answer: bytes) -> None:
    with server(answer) as url, pytest.raises(ConnectionError):
        ask(url, "GET", "/")


def test_what_is_no_http_is_a_failure() -> None:
    with server(b"hello\r\n\r\n") as url, pytest.raises(AssertionError):
        ask(url, "GET", "/")


def test_a_refusal_that_may_be_repeated_is_repeated() -> None:
    with server(AWAY, AWAY, OK) as url:
        assert Api(url).response("resp_1") == {}
    with server(AWAY, OK) as url, Api(url).stream("resp_1") as stream:
        assert stream.status == 200
