"""The secret of internal ports: a caller without it is told only that, and how to mend it."""

from msgspec.structs import replace
from structlog.testing import capture_logs

from schemas.ids import response_id
from tests.conftest import eventually
from tests.ingesting import SECRET, Ingesting, error_of, ingesting
from tests.serving import ask

PATHS = ["GET /internal/load", f"GET /internal/responses/{response_id(0, bytes(16))}", "POST /internal/items"]


def internal_port(running: Ingesting) -> int:
    return running.replay_settings.internal_port


async def test_without_the_secret_or_with_another_one_every_path_is_a_401_that_says_how_to_mend_it() -> None:
    async with ingesting() as running:
        for path in PATHS:
            for shown in ([], ["authorization: Bearer another-one-altogether"], ["authorization: Bearer ü"]):
                answer = await ask(internal_port(running), path, headers=shown)
                error = error_of(answer)
                assert (answer.status, error["code"]) == (401, "wrong_internal_secret")
                assert "REJOINDER_INTERNAL_SECRET" in error["message"]
                assert SECRET not in error["message"]


async def test_with_it_all_is_answered_and_without_it_only_how_the_service_is() -> None:
    async with ingesting() as running:
        shown = [f"authorization: Bearer {SECRET}"]
        assert (await ask(internal_port(running), "GET /internal/load", headers=shown)).status == 200
        for path in ("/livez", "/readyz", "/metrics"):
            assert (await ask(internal_port(running), f"GET {path}")).status == 200


async def test_an_ingest_with_another_secret_is_not_ready_and_its_log_says_how_to_mend_it() -> None:
    async with ingesting() as running:
        await running.stop("ingest")
        running.ingest_settings = replace(running.ingest_settings, internal_secret="another-one-altogether")
        with capture_logs() as logs:
            await running.start_ingest()
            await eventually(lambda: [entry for entry in logs if entry["log_level"] == "warning"])
        (told,) = (entry for entry in logs if entry["log_level"] == "warning")
        assert "REJOINDER_INTERNAL_SECRET" in told["why"]
        assert (await ask(running.port, "GET /readyz")).status == 503
