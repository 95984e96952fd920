"""From settings to adapters: what cannot be used is told as a setting, before anything connects (A-23)."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from schemas.errors import SettingsError
from services.connect import kafka_settings
from services.settings import Settings

TLS = Settings(kafka_security="SSL")


@pytest.mark.parametrize("name", ["kafka_ca_file", "kafka_cert_file", "kafka_key_file"])
def test_a_file_that_is_not_there_is_named_with_its_variable(name: str) -> None:
    with pytest.raises(SettingsError, match=f"^REJOINDER_{name.upper()}: cannot read /nope: No such file"):
        kafka_settings(replace(TLS, **{name: "/nope"}))


@pytest.mark.parametrize("name", ["kafka_ca_file", "kafka_cert_file"])
def test_a_file_that_is_no_pem_file_is_told_with_what_is_taken(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a certificate")
    with pytest.raises(SettingsError, match=f"^REJOINDER_{name.upper()}: cannot be used .* takes PEM files"):
        kafka_settings(replace(TLS, **{name: str(tmp_path / "file")}))


def test_without_tls_no_file_is_needed() -> None:
    assert kafka_settings(Settings()).ca_file is None
