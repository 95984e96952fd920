"""The issuer's keys over time: rotated, withdrawn, away, and asked for by thousands of forged tokens."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from schemas.errors import ApiError
from services.web.issuer import AGAIN_S, ASK_S, Issuer
from services.web.tokens import TokenHeader, TokenRefused
from tests.conftest import eventually
from tests.issuer import TokenIssuer, issuing

KEPT_S = 3600.0


class Watch:
    """A clock that stands still until it is told to go on."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def asked(**options: Any) -> AsyncIterator[tuple[TokenIssuer, Issuer, Watch]]:
    """An issuer, and one who has not asked it yet."""
    async with issuing() as there:
        watch = Watch()
        yield there, Issuer(there.url, kept_s=KEPT_S, clock=watch, **options), watch


def header(kid: str = "first") -> TokenHeader:
    return TokenHeader(kid, "ES256")


async def refusal(issuer: Issuer, kid: str) -> int:
    """The status with which a token is refused whose header says `kid`."""
    try:
        await issuer.key(header(kid))
    except TokenRefused:
        return 401
    except ApiError as error:
        return error.status if error.headers["retry-after"] else 0
    raise AssertionError("it was taken")


async def test_who_asks_first_reads_the_keys_and_others_at_a_time_wait_for_the_same_answer() -> None:
    async with asked() as (there, issuer, _):
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(issuer.key, header())
        assert there.asked == 1
        assert (await issuer.key(header())).key_id == "first"
        assert there.asked == 1


async def test_a_rotated_key_is_found_and_the_withdrawn_one_is_not_taken_any_more() -> None:
    async with asked() as (there, issuer, watch):
        await issuer.key(header())
        there.rotate("second")
        watch.now += AGAIN_S
        assert (await issuer.key(header("second"))).key_id == "second"
        assert await refusal(issuer, "first") == 401


async def test_however_many_keys_are_made_up_the_issuer_is_asked_once_in_a_while() -> None:
    async with asked() as (there, issuer, watch):
        await issuer.key(header())
        for times in (1, 2, 3):
            for number in range(1000):
                assert await refusal(issuer, f"made up {times} {number}") == 401
            assert there.asked == times
            watch.now += AGAIN_S
        assert (await issuer.key(header())).key_id == "first"


async def test_away_the_issuers_keys_hold_for_a_while_and_then_no_token_is_taken() -> None:
    async with asked() as (there, issuer, watch):
        await issuer.key(header())
        there.away = True
        watch.now += KEPT_S
        assert (await issuer.key(header())).key_id == "first"
        assert await refusal(issuer, "new") == 503
        watch.now += 1
        assert await refusal(issuer, "first") == 503
        there.away = False
        watch.now += AGAIN_S
        assert (await issuer.key(header())).key_id == "first"


async def test_one_that_was_never_there_is_a_503_and_the_operator_hears_once() -> None:
    with capture_logs() as logs:
        async with asked() as (there, issuer, watch):
            there.away = True
            for _ in range(3):
                assert await refusal(issuer, "first") == 503
                watch.now += AGAIN_S
    warned = [entry for entry in logs if entry["log_level"] == "warning"]
    assert len(warned) == 1
    assert "REJOINDER_JWT_ISSUER" in warned[0]["mend"]


async def test_keys_that_are_none_change_nothing() -> None:
    async with asked() as (there, issuer, watch):
        await issuer.key(header())
        there.published = [{"kty": "oct", "k": "AA", "kid": "first"}]
        watch.now += AGAIN_S
        assert await refusal(issuer, "new") == 503
        assert (await issuer.key(header())).key_id == "first"


async def test_another_issuers_configuration_is_not_believed() -> None:
    with capture_logs() as logs:
        async with asked() as (there, issuer, _):
            there.says = "https://evil.example"
            assert await refusal(issuer, "first") == 503
            assert there.asked == 0
    assert any("evil.example" in str(entry.get("why")) for entry in logs)


async def test_the_operator_may_say_where_the_keys_are() -> None:
    async with issuing() as there:
        issuer = Issuer("https://id.example", f"{there.url}/keys", kept_s=KEPT_S)
        assert (await issuer.key(header())).key_id == "first"


async def test_the_keys_are_read_at_the_start_without_being_asked_for() -> None:
    async with asked() as (there, issuer, _), anyio.create_task_group() as tasks:
        tasks.start_soon(issuer.run)
        await eventually(lambda: there.asked)
        assert (await issuer.key(header())).key_id == "first"
        assert there.asked == 1
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 302 Found\r\nlocation: /keys\r\n\r\n", b"", b"nonsense\r\n\r\n"]
)
async def test_what_is_no_answer_is_away(answer: bytes) -> None:
    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            if answer:
                await stream.send(answer)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        issuer = Issuer("https://id.example", f"http://127.0.0.1:{port}/", kept_s=KEPT_S)
        with anyio.fail_after(2 * ASK_S):
            assert await refusal(issuer, "first") == 503
        tasks.cancel_scope.cancel()
