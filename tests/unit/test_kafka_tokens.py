"""Tokens for OAUTHBEARER: from a file, or from a token endpoint that a real HTTP server plays."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from aiohttp import web

from services.eventlog.kafka_tokens import ClientCredentials, EndpointTokens, FileTokens, NoToken


async def test_a_file_is_read_anew_for_every_connection(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first\n")
    tokens = FileTokens(tmp_path / "token")
    assert await tokens.token() == "first"
    (tmp_path / "token").write_text("second")
    assert await tokens.token() == "second"


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe"])
async def test_a_file_without_a_token_is_told_with_its_variable(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(NoToken, match=r"REJOINDER_KAFKA_OAUTH_TOKEN_FILE: "):
        await FileTokens(tmp_path / "token").token()


class Endpoint:
    """A token endpoint: grants `token-N`, or answers as it is told."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.url = ""
        self.answer: tuple[int, object] | None = None
        self.expires_in: object = 3600

    async def grant(self, request: web.Request) -> web.Response:
        form = {name: values[0] for name, values in parse_qs(await request.text()).items()}
        self.asked.append(form | {"authorization": request.headers["authorization"]})
        if self.answer is not None:
            status, body = self.answer
            return web.json_response(body, status=status)
        lasts = {} if self.expires_in is None else {"expires_in": self.expires_in}
        return web.json_response(
            {"access_token": f"token-{len(self.asked)}", "token_type": "Bearer", **lasts}
        )


@asynccontextmanager
async def endpoint() -> AsyncIterator[Endpoint]:
    made = Endpoint()
    app = web.Application()
    app.router.add_post("/token", made.grant)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
    try:
        yield made
    finally:
        await runner.cleanup()


def tokens_of(made: Endpoint, scope: str = "") -> EndpointTokens:
    return EndpointTokens(ClientCredentials(made.url, "rejoinder", "a secret", scope))


async def test_an_endpoint_is_asked_by_the_grant_of_client_credentials() -> None:
    async with endpoint() as made:
        assert await tokens_of(made, "kafka").token() == "token-1"
        basic = base64.b64encode(b"rejoinder:a+secret").decode()
        assert made.asked == [
            {"grant_type": "client_credentials", "scope": "kafka", "authorization": f"Basic {basic}"}
        ]


async def test_a_token_is_shared_until_shortly_before_its_end() -> None:
    async with endpoint() as made:
        tokens = tokens_of(made)
        assert set(await asyncio.gather(*(tokens.token() for _ in range(20)))) == {"token-1"}
        made.expires_in = "0"  # some servers say numbers as text
        tokens = tokens_of(made)
        assert [await tokens.token(), await tokens.token()] == ["token-2", "token-3"]


@pytest.mark.parametrize(
    "answer, why",
    [
        (
            (401, {"error": "invalid_client", "error_description": "a secret"}),
            r"refuses a token \(401, invalid",
        ),
        ((500, "what?"), r"refuses a token \(500\)"),
        ((302, {}), r"refuses a token \(302\)"),
        ((200, {"token": "x"}), "answers with no access_token"),
        ((200, []), "answers with no access_token"),
    ],
)
async def test_a_refusal_is_told_with_its_variables_and_without_secrets(
    answer: tuple[int, object], why: str
) -> None:
    async with endpoint() as made:
        made.answer = answer
        with pytest.raises(NoToken, match=rf"^NoToken: REJOINDER_KAFKA_OAUTH_URL: .*{why}") as told:
            await tokens_of(made).token()
        assert "a secret" not in str(told.value)


async def test_an_endpoint_that_is_away_is_told() -> None:
    async with endpoint() as made:
        pass
    with pytest.raises(NoToken, match=r"REJOINDER_KAFKA_OAUTH_URL: .* cannot be asked for a token"):
        await tokens_of(made).token()
