"""docs/security.md: its rights are those of the code, and every topic and every secret setting is in it."""

import re
from pathlib import Path

from services.acls import WHO, acls
from services.cli import SERVICES
from services.eventlog.topics import topics
from services.settings import SECRETS, SETTINGS, Settings
from services.terminal.acls import commands

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
ACLS = acls(Settings())


def rows() -> list[str]:
    """The table of rights: what of one user is alike on several topics is a row."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for acl in ACLS:
        found.setdefault((acl.who, acl.resource, ", ".join(acl.operations), acl.why), []).append(acl.name)
    all_topics = {getattr(topics(), name) for name in topics().__struct_fields__}
    named = {key: ", ".join(f"`{name}`" for name in names) for key, names in found.items()}
    return [
        f"| {who} | {'all topics' if set(names) == all_topics else f'{kind} {named[who, kind, may, why]}'} "
        f"| {may} | {why} |"
        for (who, kind, may, why), names in found.items()
    ]


def test_the_table_has_the_rights_of_the_code() -> None:
    table = PAGE.split("<!-- acls -->")[1].split("<!-- /acls -->")[0].strip().splitlines()
    assert table == ["| who | on | may | to |", "|---|---|---|---|", *rows()]


def test_every_service_has_rights_of_its_own() -> None:
    assert {*SERVICES, "webhooks"} <= set(WHO)
    assert {acl.who for acl in ACLS} == set(WHO)


def test_every_topic_is_written_and_read_by_somebody() -> None:
    for name in topics().__struct_fields__:
        there = {op for acl in ACLS if acl.name == getattr(topics(), name) for op in acl.operations}
        assert {"Read", "Write", "Create", "DescribeConfigs"} <= there, name


def test_who_faces_the_internet_appends_nothing() -> None:
    assert not [acl for acl in ACLS if acl.who == "replay" and "Write" in acl.operations]


def test_the_page_says_what_is_in_every_topic() -> None:
    part = PAGE.split("## What is in which topic")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([\w.]+)` \|", part, re.MULTILINE)) == {
        getattr(topics(), name) for name in topics().__struct_fields__
    }


def test_the_page_says_how_each_secret_is_changed() -> None:
    part = PAGE.split("## Keys, and how each is changed")[1]
    for name in SECRETS - {"kafka_oauth_client_secret"}:  # one of `…_OAUTH_…`
        assert f"`{SETTINGS[name].variable}`" in part, name


def test_the_commands_are_those_of_kafkas_tool() -> None:
    lines = list(commands(ACLS, "broker:9092", "User:rejoinder-{}"))
    assert len(lines) == len(ACLS)
    assert lines[0] == (
        "kafka-acls.sh --bootstrap-server broker:9092 --add --allow-principal User:rejoinder-ingest "
        "--topic responses.events --resource-pattern-type literal --operation Write"
    )


def test_rights_are_behind_the_prefix() -> None:
    assert all(acl.name.startswith("p.") for acl in acls(Settings(topic_prefix="p.")))
