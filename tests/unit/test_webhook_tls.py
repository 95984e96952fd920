"""Whose certificate a delivery trusts, shown with real TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from services.webhooks.sender import Sender
from tests.serving import HOST


@asynccontextmanager
async def receiver(certificate: trustme.LeafCert) -> AsyncIterator[tuple[int, list[bytes]]]:
    """An HTTPS server with `certificate`: its port, and what it was asked."""
    asked: list[bytes] = []

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    server = await asyncio.start_server(say, HOST, 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        server.close()


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """The one authority that the machine trusts."""
    made = trustme.CA()
    path = tmp_path / "authorities.pem"
    made.cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return made


Certificate = Callable[[trustme.CA], trustme.LeafCert]


@pytest.mark.parametrize(
    "certificate, host, delivered",
    [
        pytest.param(lambda ours: ours.issue_cert(HOST, "localhost"), "localhost", True, id="right name"),
        pytest.param(lambda ours: ours.issue_cert(HOST, "localhost"), HOST, True, id="right address"),
        pytest.param(lambda ours: ours.issue_cert("hooks.example"), "localhost", False, id="wrong name"),
        pytest.param(lambda ours: ours.issue_cert("localhost"), HOST, False, id="a name, not the address"),
        pytest.param(
            lambda _: trustme.CA().issue_cert(HOST, "localhost"), "localhost", False, id="unknown authority"
        ),
    ],
)
async def test_p128_nothing_is_sent_to_whom_no_trusted_authority_vouches_for(
    authority: trustme.CA, certificate: Certificate, host: str, delivered: bool
) -> None:
    sender = Sender(allow_private=True, timeout_s=5)
    try:
        async with receiver(certificate(authority)) as (port, asked):
            result = await sender.send(f"https://{host}:{port}/", b"{}", {})
        assert (result.outcome, bool(asked)) == (("delivered", True) if delivered else ("unreachable", False))
    finally:
        await sender.close()
