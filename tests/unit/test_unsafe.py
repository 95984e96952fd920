"""What is not safe is told at the start of the services that it concerns, and nothing else is."""

import json
import os
import subprocess

import pytest

from services.dev.child import service_command
from services.settings import Settings
from services.unsafe import unsafe
from tests.unit.test_deploy import SERVICES

OPEN = {"host": "0.0.0.0", "internal_host": "0.0.0.0", "kafka": "kafka:9093", "kafka_security": "SSL"}
"""A service on a network."""
KEYS = {"api_keys": ("acme=0123456789abcdef",)}


def told(name: str, **settings: object) -> list[str]:
    return [found.setting.removeprefix("REJOINDER_") for found in unsafe(name, Settings(**settings))]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_on_one_machine_nothing_is_said(name: str) -> None:
    assert told(name) == []
    assert told(name, kafka="[::1]:9092,localhost:9093", webhooks_allow_private=1) == []


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_who_serves_clients_of_a_network_without_asking_for_keys_says_so(name: str) -> None:
    assert told(name, **OPEN) == (["API_KEYS"] if name in {"replay", "ingest"} else [])


@pytest.mark.parametrize(
    "asked",
    [KEYS, {"api_keys_file": "/etc/keys"}, {"jwt_issuer": "https://issuer.example"}],
    ids=["keys", "a file", "tokens"],
)
def test_any_way_of_asking_is_enough(asked: dict[str, object]) -> None:
    assert told("replay", **OPEN, **asked) == []


@pytest.mark.parametrize("name", sorted(SERVICES))
@pytest.mark.parametrize("security", ["PLAINTEXT", "SASL_PLAINTEXT"])
def test_kafka_in_the_clear_is_told_by_every_service(name: str, security: str) -> None:
    given = {**OPEN, **KEYS, "kafka": "127.0.0.1:9092,kafka:9092", "kafka_security": security}
    assert told(name, **given) == ["KAFKA_SECURITY"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_only_webhooks_say_that_they_may_call_private_addresses(name: str) -> None:
    given = {**OPEN, **KEYS, "webhooks_allow_private": 1}
    assert told(name, **given) == (["WEBHOOKS_ALLOW_PRIVATE"] if name == "webhooks" else [])


def test_a_warning_names_the_port_and_the_header() -> None:
    (found,) = unsafe("replay", Settings(**OPEN))  # type: ignore[arg-type]
    assert "0.0.0.0:8000" in found.what
    assert "x-rejoinder-tenant" in found.what
    assert found.mend


def test_a_service_says_it_before_it_does_anything() -> None:
    command = [*service_command("replay")[:-1], "--host", "0.0.0.0", "--port", "0", "--kafka", "127.0.0.1:9"]
    environ = {
        **os.environ,
        "REJOINDER_LOG_FORMAT": "json",
        "REJOINDER_INTERNAL_SECRET": "sesame-open-sesame",
    }
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
    first = json.loads((done.stdout + done.stderr).splitlines()[0])
    assert (first["event"], first["level"], first["setting"]) == ("not safe", "warning", "REJOINDER_API_KEYS")
    assert "is away" in done.stderr
