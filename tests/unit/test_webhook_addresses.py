"""Which addresses and URLs a webhook endpoint may have (P-128)."""

import socket
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ApiError
from services.webhooks.addresses import checked_url, is_public
from services.webhooks.sender import Sender

PRIVATE = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.8.8.8",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.8",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700::1111%eth0",
    "fec0::1",
    "ff02::1",
    "localhost",
]
PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "2606:4700::1111",
    "2001:4860:4860::8888",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_p128_what_is_not_the_public_internet_is_known(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_the_public_internet_is_known(address: str) -> None:
    assert is_public(address)


@given(st.ip_addresses(v=4))
def test_an_address_within_another_is_looked_at(address: IPv4Address) -> None:
    public = is_public(str(address))
    assert is_public(f"::ffff:{address}") == public
    assert is_public(str(IPv6Address(b"\x00\x64\xff\x9b" + bytes(8) + address.packed))) == public
    assert not is_public(str(IPv6Address(b"\x20\x02" + address.packed + bytes(10))))


@given(st.ip_addresses(v=4))
def test_nothing_that_python_takes_for_private_is_public(address: IPv4Address) -> None:
    assert not is_public(str(address)) or (address.is_global and not address.is_reserved)


@pytest.mark.parametrize(
    "url, why",
    [
        ("http://hooks.example/", "https://"),
        ("http://127.0.0.1/", "https://"),
        ("ftp://hooks.example/", "https://"),
        ("hooks.example", "https://"),
        ("//hooks.example/", "https://"),
        ("https:///path", "no host"),
        ("https://hooks.example:0/", "no host"),
        ("https://hooks.example:99999/", "no URL"),
        ("https://hooks.example:port/", "no URL"),
        ("https://[::1/", "no URL"),
        ("https://user@hooks.example/", "user or a password"),
        ("https://user:secret@hooks.example/", "user or a password"),
        ("https://hooks.example/#part", "fragment"),
        ("https://hooks.example/\n", "characters"),
        ("https://hooks .example/", "characters"),
        ("https:\\\\hooks.example", "characters"),
        ("https://hooks.example/" + "a" * 2048, "2048"),
        ("https://127.0.0.1/", "private"),
        ("https://[::1]:8443/", "private"),
        ("https://[::ffff:10.0.0.1]/", "private"),
        ("https://169.254.169.254/latest/meta-data", "private"),
        ("https://LOCALHOST./", "private"),
        ("https://a.localhost/", "private"),
        ("https://metadata.google.internal/", "private"),
        ("https://printer.local/", "private"),
    ],
)
def test_what_is_wrong_with_a_url_is_said(url: str, why: str) -> None:
    with pytest.raises(ApiError, match=why) as refused:
        checked_url(url, allow_private=False)
    assert (refused.value.status, refused.value.param) == (400, "url")


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example",
        "https://hooks.example:8443/a?b=c",
        "https://münchen.example/ä",
        "https://8.8.8.8/",
    ],
)
def test_the_others_pass(url: str) -> None:
    assert checked_url(url, allow_private=False).scheme == "https"


def test_where_private_ones_are_allowed_they_may_have_http_and_the_public_ones_may_not() -> None:
    for url in ("http://127.0.0.1:9/", "http://localhost:9/", "https://10.0.0.1/", "http://[::1]/"):
        checked_url(url, allow_private=True)
    with pytest.raises(ApiError, match="https://"):
        checked_url("http://hooks.example/", allow_private=True)


# Names: the resolver and the sockets are real.


async def test_a_name_that_leads_to_a_private_address_is_refused_when_made_and_at_each_attempt() -> None:
    name = socket.gethostname()
    try:
        address = socket.getaddrinfo(name, 443)[0][4][0]
    except OSError:
        pytest.skip("this machine's own name does not resolve")
    if is_public(str(address)):
        pytest.skip("this machine's own name is public")
    sender = Sender(allow_private=False, timeout_s=5)
    try:
        with pytest.raises(ApiError, match="private") as refused:
            await sender.check_url(f"https://{name}:1/")
        assert refused.value.param == "url"
        assert (await sender.send(f"https://{name}:1/", b"{}", {})).outcome == "private_address"
    finally:
        await sender.close()


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "017700000001"])
async def test_other_spellings_of_an_address_lead_nowhere(host: str) -> None:
    sender = Sender(allow_private=False, timeout_s=5)
    try:
        assert (await sender.send(f"https://{host}:1/", b"{}", {})).status is None
        with pytest.raises(ApiError, match="private"):
            await sender.check_url(f"https://{host}:1/")
    finally:
        await sender.close()


async def test_a_name_that_does_not_resolve_now_may_do_so_later() -> None:
    sender = Sender(allow_private=False, timeout_s=5)
    try:
        await sender.check_url("https://nothing.invalid/")
        assert (await sender.send("https://nothing.invalid/", b"{}", {})).outcome == "unreachable"
    finally:
        await sender.close()
