"""What `rejoinder dev` gives its services: who finds whom, and one secret for all."""

from services.dev.system import plan_of
from services.settings import Settings, load

VARIABLE = "REJOINDER_INTERNAL_SECRET"


def plan(secret: str = "") -> dict[str, Settings]:
    made = plan_of(Settings(internal_secret=secret), {}, colors=False)
    return {name: load(environ) for name, environ, _ in made}


def test_services_find_each_other_at_their_internal_ports() -> None:
    services = plan()
    ingest, replay = services["ingest"], services["replay"]
    assert replay.ingest_url == f"http://127.0.0.1:{ingest.internal_port}"
    assert {services[name].replay_url for name in ("ingest", "executor")} == {
        f"http://127.0.0.1:{replay.internal_port}"
    }
    assert len({ingest.port, ingest.internal_port, replay.port, replay.internal_port}) == 4


def test_a_secret_is_made_for_all_of_them_unless_there_is_one() -> None:
    (made,) = {settings.internal_secret for settings in plan().values()}
    (another,) = {settings.internal_secret for settings in plan().values()}
    assert len(made) == 64
    assert made != another
    given = "sesame-open-sesame"
    assert {settings.internal_secret for settings in plan(given).values()} == {given}
