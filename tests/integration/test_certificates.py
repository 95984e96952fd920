"""Internal ports with certificates on both sides, over real TLS."""

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from schemas.errors import SettingsError
from services.settings import load
from services.web.ask import Question, Unheard, refusal_of
from services.web.ask import ask as ask_peer
from services.web.certificates import Certificates
from services.web.internal import ReplayAway
from services.web.peer import Peer
from services.web.replay_client import ReplayClient
from services.web.replays import Replays
from services.web.watched import FileBroken
from tests.certificates import Authority, client
from tests.conftest import eventually
from tests.ingesting import SECRET, Ingesting, error_of, executing, ingesting
from tests.serving import HOST, Answer, ask, read_answer

SHOWN = f"authorization: Bearer {SECRET}"
LOAD = "GET /internal/load"


@pytest.fixture
def ours() -> Authority:
    return Authority()


def internal_port(running: Ingesting) -> int:
    return running.replay_settings.internal_port


async def asked(port: int, tls: ssl.SSLContext, request: str = LOAD, *headers: str) -> Answer:
    """Ask over a connection of its own."""
    reader, writer = await asyncio.open_connection(HOST, port, ssl=tls)
    try:
        writer.write("\r\n".join([f"{request} HTTP/1.1", f"host: {HOST}", *headers, "", ""]).encode())
        return await read_answer(reader)
    finally:
        writer.close()


async def serial(port: int, tls: ssl.SSLContext) -> str:
    """That of the certificate which is shown at a port."""
    _, writer = await asyncio.open_connection(HOST, port, ssl=tls)
    shown = writer.get_extra_info("peercert")
    writer.close()
    return str(shown["serialNumber"])


async def test_services_that_show_certificates_serve_clients_as_ever(ours: Authority, tmp_path: Path) -> None:
    async with ingesting(**ours.write(tmp_path)) as running, executing(running):
        made = await running.create()

        async def completed() -> bool:
            return b'"completed"' in (await running.get(made["id"])).body

        await eventually(completed)
        streamed = await running.post({"stream": True})
        relayed = await ask(
            running.port, "POST /v1/responses", b'{"model":"echo","input":"a b","stream":true}'
        )
        for answer in (streamed, relayed):
            assert answer.whole
            assert b"response.completed" in answer.body
        following = await running.post({"previous_response_id": made["id"]})
        assert following.status == 200
        assert (await running.delete(made["id"])).status == 200


async def test_a_caller_without_a_certificate_only_hears_how_the_service_is(
    ours: Authority, tmp_path: Path
) -> None:
    given = ours.write(tmp_path)
    async with ingesting(**given) as running:
        for port in (internal_port(running), running.ingest_settings.internal_port):
            for path in ("/livez", "/readyz", "/metrics"):
                assert (await asked(port, client(ours), f"GET {path}")).status == 200
            for path in (LOAD, "POST /internal/items", "GET /nowhere"):
                answer = await asked(port, client(ours), path, SHOWN)
                assert (answer.status, error_of(answer)["code"]) == (401, "certificate_missing")
                assert "REJOINDER_INTERNAL_CERT_FILE" in error_of(answer)["message"]


async def test_a_certificate_does_not_stand_for_the_secret(ours: Authority, tmp_path: Path) -> None:
    given = ours.write(tmp_path)
    async with ingesting(**given) as running:
        port, tls = internal_port(running), client(ours, given)
        assert (await asked(port, tls, LOAD, SHOWN)).status == 200
        for headers in ((), ("authorization: Bearer another-one-altogether",)):
            answer = await asked(port, tls, LOAD, *headers)
            assert (answer.status, error_of(answer)["code"]) == (401, "wrong_internal_secret")


async def test_who_comes_with_a_strangers_certificate_or_without_tls_is_not_heard(
    ours: Authority, tmp_path: Path
) -> None:
    stranger = Authority().write(tmp_path / "stranger")
    async with ingesting(**ours.write(tmp_path / "ours")) as running:
        port = internal_port(running)
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await asked(port, client(ours, stranger), LOAD, SHOWN)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await ask(port, LOAD, headers=[SHOWN])
        assert (await running.create())["id"]


async def warned(running: Ingesting) -> Mapping[str, Any]:
    """What ingest warns of when it starts."""
    with capture_logs() as logs:
        await running.start_ingest()
        await eventually(lambda: [entry for entry in logs if entry["log_level"] == "warning"])
    return next(entry for entry in logs if entry["log_level"] == "warning")


async def test_a_service_asks_none_of_another_authority_or_name(ours: Authority, tmp_path: Path) -> None:
    """Its log says what to mend, and it is not ready."""
    others = {
        "stranger": Authority().write(tmp_path / "stranger"),
        "name": ours.write(tmp_path / "name", "elsewhere.example"),
    }
    async with ingesting(**ours.write(tmp_path / "ours")) as running:
        for given in others.values():
            await running.stop("ingest")
            await running.stop("replay")
            running.replay_settings = replace(running.replay_settings, **given)
            await running.start_replay()
            assert "certificate" in (await warned(running))["why"].lower()
            assert (await ask(running.port, "GET /readyz")).status == 503


async def test_who_asks_without_a_certificate_is_told_what_it_lacks(ours: Authority, tmp_path: Path) -> None:
    async with ingesting(**ours.write(tmp_path)) as running:
        for url in (running.ingest_settings.replay_url, running.replay_settings.ingest_url):
            peer = Peer(url, secret=SECRET, tls=client(ours))
            with pytest.raises(ReplayAway, match="REJOINDER_INTERNAL_CERT_FILE"):
                await ReplayClient(Replays([peer])).loads()
            answered = await ask_peer(peer, Question("GET", "/internal/load", {}, b"", 5, 1 << 20))
            with pytest.raises(Unheard, match="REJOINDER_INTERNAL_CERT_FILE"):
                refusal_of("the service", answered)
            await peer.close()


async def test_a_new_certificate_is_taken_without_a_restart_and_open_connections_go_on(
    ours: Authority, tmp_path: Path
) -> None:
    given = ours.write(tmp_path)
    async with ingesting(**given) as running, executing(running):
        port = internal_port(running)
        before = await serial(port, client(ours))
        stream = asyncio.create_task(
            running.post({"stream": True, "metadata": {"echo.tokens": "40", "echo.interval_ms": "100"}})
        )
        ours.write(tmp_path)

        async def renewed() -> bool:
            return await serial(port, client(ours)) != before

        await eventually(renewed)
        assert (await asked(port, client(ours, given), LOAD, SHOWN)).status == 200
        answer = await stream
        assert answer.whole
        assert b"response.completed" in answer.body


async def test_an_authority_that_is_added_is_taken_without_a_restart(ours: Authority, tmp_path: Path) -> None:
    following = Authority()
    theirs = following.write(tmp_path / "theirs")
    async with ingesting(**ours.write(tmp_path / "ours")) as running:
        port = internal_port(running)
        ours.write(tmp_path / "ours", HOST, following)

        async def taken() -> bool:
            try:
                return (await asked(port, client(ours, theirs), LOAD, SHOWN)).status == 200
            except (OSError, asyncio.IncompleteReadError):
                return False

        await eventually(taken)


async def test_files_that_do_not_fit_keep_what_was_there(ours: Authority, tmp_path: Path) -> None:
    given = ours.write(tmp_path)
    async with ingesting(**given) as running:
        port = internal_port(running)
        before = await serial(port, client(ours))
        with capture_logs() as logs:
            (tmp_path / "key").write_bytes((tmp_path / "key").read_bytes()[:-40])
            await eventually(lambda: REGISTRY.get_sample_value("rejoinder_certificates_broken") == 1)
        assert await serial(port, client(ours)) == before
        assert [entry for entry in logs if "certificates of internal ports" in entry["event"]]
        ours.write(tmp_path)
        await eventually(lambda: REGISTRY.get_sample_value("rejoinder_certificates_broken") == 0)


async def test_a_stream_that_is_cut_within_tls_does_not_end_cleanly(ours: Authority, tmp_path: Path) -> None:
    given = ours.write(tmp_path)
    async with ingesting(**given) as running:
        id = (await running.create())["id"]
        reader, writer = await asyncio.open_connection(HOST, internal_port(running), ssl=client(ours, given))
        head = f"GET /internal/responses/{id}/stream HTTP/1.1\r\nhost: {HOST}\r\n{SHOWN}\r\n\r\n"
        writer.write(head.encode())
        await reader.readuntil(b"response.queued")
        await running.stop("replay")
        with pytest.raises((ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)):
            await reader.readuntil(b"0\r\n\r\n")
        writer.transport.abort()


async def test_a_head_that_is_too_large_is_refused_within_tls(ours: Authority, tmp_path: Path) -> None:
    given = ours.write(tmp_path)
    async with ingesting(**given) as running:
        answer = await asked(internal_port(running), client(ours, given), LOAD, "x: " + "y" * (70 << 10))
        assert answer.status == 431


async def test_files_that_cannot_be_used_stop_the_start(ours: Authority, tmp_path: Path) -> None:
    given = ours.write(tmp_path)
    other = Authority().write(tmp_path / "other")
    files = [
        Path(given["internal_cert_file"]),
        Path(given["internal_key_file"]),
        Path(given["internal_ca_file"]),
    ]
    wrong = [
        (files[0], Path(other["internal_key_file"]), files[2]),
        (files[0], files[1], tmp_path / "nowhere"),
        (files[1], files[1], files[2]),
    ]
    for cert, key, authorities in wrong:
        with pytest.raises(FileBroken):
            await Certificates((cert, key, authorities)).first()


@pytest.mark.parametrize(
    "given, why",
    [
        ({"CERT_FILE": "c", "KEY_FILE": "k"}, "INTERNAL_CA_FILE: needed with REJOINDER_INTERNAL_CERT_FILE"),
        ({"CA_FILE": "a"}, "INTERNAL_CERT_FILE: needed with REJOINDER_INTERNAL_CA_FILE"),
    ],
)
def test_the_three_files_need_each_other(given: dict[str, str], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        load({f"REJOINDER_INTERNAL_{name}": value for name, value in given.items()})


def test_with_certificates_services_are_asked_by_https() -> None:
    files = {f"REJOINDER_INTERNAL_{name}_FILE": name for name in ("CERT", "KEY", "CA")}
    with pytest.raises(SettingsError, match="REJOINDER_INGEST_URL: http://ingest:8001 begins with http"):
        load({**files, "REJOINDER_INGEST_URL": "http://ingest:8001"})
    assert load({**files, "REJOINDER_INGEST_URL": "https://ingest:8001"}).internal_cert_file == "CERT"
