"""`rejoinder keys`: an operator makes a key, sees it once, and takes it away again."""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.web.api_keys import granted, parse_keys
from tests.process import REJOINDER


def keys(file: Path | None, *command: str, status: int = 0) -> tuple[str, str]:
    """What the command prints, and what it says beside that."""
    given = {} if file is None else {"REJOINDER_API_KEYS_FILE": str(file)}
    said = subprocess.run(
        [REJOINDER, "keys", *command],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert said.returncode == status, said
    return said.stdout, said.stderr


def test_a_key_is_shown_once_and_opens_what_it_was_made_for(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    shown, said = keys(file, "add", "ci", "--tenant", "acme", "--lasts", "90d")
    key = shown.strip()
    assert shown == f"{key}\n"
    assert len(key) >= 43
    assert key not in said
    raw = file.read_bytes()
    assert key.encode() not in raw
    found = granted(parse_keys(raw)).find(key)
    assert found is not None
    assert (found.tenant, found.name, found.admin) == ("acme", "ci", False)
    assert found.expires is not None
    assert file.stat().st_mode & 0o777 == 0o600
    listed, _ = keys(file, "list")
    assert listed.startswith("ci  acme  until 20")
    assert key not in listed


def test_a_key_is_taken_away_and_all_else_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    for command in (["one", "--tenant", "acme"], ["two", "--admin"], ["three", "--tenant", "a", "--admin"]):
        keys(file, "add", *command)
    file.chmod(0o640)
    before = [b"# why\n", *file.read_bytes().splitlines(keepends=True)]
    file.write_bytes(b"".join(before))
    (tmp_path / "link").symlink_to(file)
    keys(tmp_path / "link", "revoke", "two")
    assert file.read_bytes().splitlines(keepends=True) == [before[0], before[1], before[3]]
    assert file.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "link").is_symlink()
    assert keys(file, "list")[0] == "one  acme\nthree  a (admin)\n"
    assert keys(file, "list", "--tenant", "acme")[0] == "one  acme\n"
    assert {path.name for path in tmp_path.iterdir()} == {"keys", "link"}


def test_commands_at_a_time_lose_no_key(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    keys(file, "add", "old", "--tenant", "acme")
    commands = [["add", f"k{n}", "--tenant", "acme"] for n in range(4)] + [["revoke", "old"]]
    with ThreadPoolExecutor(len(commands)) as pool:
        made = [out.strip() for out, _ in pool.map(lambda command: keys(file, *command), commands)]
    known = granted(parse_keys(file.read_bytes()))
    assert all(known.find(key) for key in made[:-1])
    assert len(known) == 4


@pytest.mark.parametrize(
    "command, status, why",
    [
        (["add", "ci"], 2, "--tenant NAME, or --admin"),
        (["add", "ci", "--tenant", "a/b"], 2, "tenant: 'a/b' does not fit"),
        (["add", "a b", "--tenant", "acme"], 2, "name: 'a b' does not fit"),
        (["add", "known", "--tenant", "acme"], 1, "has a key named known"),
        (["revoke", "nobody"], 1, "has no key named nobody"),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    tmp_path: Path, command: list[str], status: int, why: str
) -> None:
    file = tmp_path / "keys"
    file.write_text(json.dumps({"sha256": "0" * 64, "name": "known", "tenant": "acme"}))
    before = file.read_bytes()
    shown, said = keys(file, *command, status=status)
    assert (shown, why in said, said.count("\n")) == ("", True, 1), said
    assert file.read_bytes() == before


def test_a_last_line_without_an_end_gets_one(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(json.dumps({"sha256": "0" * 64, "name": "known", "tenant": "acme"}))
    keys(file, "add", "ci", "--tenant", "acme")
    assert len(list(parse_keys(file.read_bytes()))) == 2


def test_without_a_file_and_with_a_broken_one_nothing_is_made(tmp_path: Path) -> None:
    assert "REJOINDER_API_KEYS_FILE: needed" in keys(None, "add", "ci", "--tenant", "acme", status=2)[1]
    file = tmp_path / "keys"
    file.write_text("half a li")
    assert "line 1: this is no JSON object: mend it first" in keys(file, "list", status=1)[1]
    assert keys(file, "add", "ci", "--tenant", "acme", status=1)[0] == ""
    assert file.read_text() == "half a li"
