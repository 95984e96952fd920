"""What deploy/ says, held against what the services take. There is no container engine here to run it."""

import re
from pathlib import Path

import pytest

from services.settings import SETTINGS

DEPLOY = Path(__file__).parents[2] / "deploy"
FILES = [path for path in sorted(DEPLOY.rglob("*")) if path.is_file()]
VARIABLES = {setting.variable for setting in SETTINGS.values()}
COMMANDS = {"ingest", "replay", "executor", "projector", "topics"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_variable_is_a_setting(path: Path) -> None:
    named = set(re.findall(r"REJOINDER_[A-Z_]+[A-Z]", path.read_text()))
    assert named <= VARIABLES


def test_every_service_is_deployed() -> None:
    for name in ("compose.yaml", "kubernetes/rejoinder.yaml"):
        told = set(re.findall(r"(?:command|args): \[(\w+)", (DEPLOY / name).read_text()))
        assert told == COMMANDS, name
