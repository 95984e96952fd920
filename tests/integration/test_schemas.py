"""The published documents of a system that asks for keys, and of one whose log is away (A-28)."""

from tests.ingesting import ingesting
from tests.serving import ask

PATHS = ("/schemas", "/schemas/asyncapi.json", "/openapi.json")


async def test_schemas_are_for_everybody_and_need_no_log() -> None:
    async with ingesting(api_keys=("one=sesame-open-sesame",)) as running:
        assert (await ask(running.public, "GET /v1/models")).status == 401
        running.log.available = False
        for path in PATHS:
            assert (await ask(running.public, f"GET {path}")).status == 200
        assert (await ask(running.public, "GET /schemas/nothing")).status == 404
