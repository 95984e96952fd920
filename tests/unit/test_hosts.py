"""By which names a server may be called."""

import pytest

from services.web.hosts import Hosts, names_inside


@pytest.mark.parametrize(
    "host",
    [
        "api.example",
        "API.Example:8000",
        "api.example.",
        "api.example.:80",
        "127.0.0.1:8000",
        "10.1.2.3",
        "[::1]:8000",
        "[::1]",
        "",
    ],
)
def test_its_own_names_and_every_address_pass(host: str) -> None:
    assert host in Hosts(["api.example"])


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost", "api.example.evil.example", "127.0.0.1.evil.example",
     "xapi.example", "[::1].evil.example", "127.1", "[evil.example]"],
)  # fmt: skip
def test_another_name_does_not(host: str) -> None:
    assert host not in Hosts(["api.example"])


def test_without_names_any_passes() -> None:
    assert "evil.example" in Hosts()


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_a_port_on_loopback_is_called_by_its_name(address: str) -> None:
    assert names_inside(address) == ("localhost",)


@pytest.mark.parametrize("address", ["0.0.0.0", "10.0.0.1", "replay"])
def test_a_port_for_other_machines_has_no_names_of_ours(address: str) -> None:
    assert names_inside(address) == ()


@pytest.mark.parametrize("host", ["[", "a:b:c", "[::1", "host name", "\u00e9.example", "api.example/x"])
def test_what_is_no_host_is_nobodys_name(host: str) -> None:
    assert host not in Hosts(["api.example"])
