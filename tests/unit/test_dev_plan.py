"""What `rejoinder dev` gives its services: who finds whom, and one secret for all."""

from pathlib import Path
from typing import get_args

import pytest

from services.dev.system import Optional, plan_of, sealing_key
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


def test_the_key_of_webhooks_lasts_with_the_data_directory(tmp_path: Path) -> None:
    made = sealing_key(tmp_path / "data")
    assert load({"REJOINDER_WEBHOOKS_KEYS": made}).webhooks_keys == (made,)
    assert sealing_key(tmp_path / "data") == made
    assert sealing_key(tmp_path / "other") != made
    (file,) = (tmp_path / "data").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_secret_is_made_for_all_of_them_unless_there_is_one() -> None:
    (made,) = {settings.internal_secret for settings in plan().values()}
    (another,) = {settings.internal_secret for settings in plan().values()}
    assert len(made) == 64
    assert made != another
    given = "sesame-open-sesame"
    assert {settings.internal_secret for settings in plan(given).values()} == {given}


@pytest.mark.parametrize("name", get_args(Optional))
def test_a_service_that_is_left_out_is_not_asked_either(name: Optional) -> None:
    whole = plan()
    asked = getattr(whole["replay"], f"{name}_url")
    assert asked == f"http://127.0.0.1:{whole[name].internal_port}"
    made = plan_of(Settings(), {}, [name], colors=False)
    left = {name: load(environ) for name, environ, _ in made}
    assert left.keys() == whole.keys() - {name}
    assert getattr(left["replay"], f"{name}_url") == ""
