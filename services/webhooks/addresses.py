"""Which addresses a delivery may go to: the public internet alone, unless the operator allows more (P-128).

An address within an IPv6 address (mapped, NAT64) is looked at as well. Only what is known to be public
passes: of IPv6 the global unicast space without the parts that lead elsewhere, of IPv4 what no registry
reserves.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from yarl import URL

from schemas.errors import ApiError, invalid
from schemas.webhooks import MAX_URL_LENGTH

_METADATA = IPv4Address("168.63.129.16")
"""Azure's host, with the credentials of a machine: the one such address in the public space."""
_ANYCAST_6TO4 = IPv4Network("192.88.99.0/24")
_IETF_V4 = IPv4Network("192.0.0.0/24")
_NAT64 = IPv6Network("64:ff9b::/96")
"""Here stands the IPv4 address behind it: all that a network with IPv6 alone sees of IPv4."""
_GLOBAL_V6 = IPv6Network("2000::/3")
_ELSEWHERE = tuple(
    map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
)  # Teredo and other special uses, documentation, 6to4
_LOCAL_NAMES = ("localhost", "local", "internal", "home.arpa")
"""Names that no public name server knows, and all below them."""


def is_public(address: str) -> bool:
    """Whether a connection to `address` can only reach the public internet. False for what is no address."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return _is_public_v4(found) if isinstance(found, IPv4Address) else _is_public_v6(found)


def _is_public_v4(address: IPv4Address) -> bool:
    special = address in _ANYCAST_6TO4 or address in _IETF_V4 or address == _METADATA
    return address.is_global and not address.is_multicast and not special


def _is_public_v6(address: IPv6Address) -> bool:
    if address.scope_id is not None:
        return False
    if address.ipv4_mapped is not None:
        return _is_public_v4(address.ipv4_mapped)
    if address in _NAT64:
        return _is_public_v4(IPv4Address(address.packed[-4:]))
    return address in _GLOBAL_V6 and not any(address in network for network in _ELSEWHERE)


def checked_url(text: str, *, allow_private: bool) -> URL:
    """`text` as the URL of an endpoint. Raises ApiError (400, `url`).

    It is parsed by what connects later, so both see the same host. Whether a name leads to a private address
    is seen when it is resolved. With `allow_private` plain http is taken to a host that is private by its
    name or address, since a receiver under development has no certificate.
    """
    try:
        url = URL(text)
        port = url.explicit_port
    except ValueError as error:
        raise _bad(f"it is no URL ({error})") from error
    if not text.isprintable() or " " in text or "\\" in text:
        raise _bad("it has characters that no URL has")
    if len(text) > MAX_URL_LENGTH:
        raise _bad(f"it has more than {MAX_URL_LENGTH} characters")
    host = url.raw_host or ""
    private = _is_private_host(host)
    if url.scheme != "https" and not (allow_private and private and url.scheme == "http"):
        raise _bad("it must begin with https://")
    if not host or port == 0:
        raise _bad("it names no host that can be called")
    if url.user is not None or url.password is not None:
        raise _bad("it must not hold a user or a password: the signature proves who sends")
    if url.fragment:
        raise _bad("it must have no fragment (#…): that is never sent")
    if private and not allow_private:
        raise private_refused()
    return url


def _is_private_host(host: str) -> bool:
    """Whether a host is private by what it is called. An address is by what it is."""
    plain = host.lower().rstrip(".")
    try:
        ip_address(plain.partition("%")[0])
    except ValueError:
        return any(plain == name or plain.endswith(f".{name}") for name in _LOCAL_NAMES)
    return not is_public(plain)


def private_refused() -> ApiError:
    """400: the endpoint is not on the public internet."""
    return _bad("its host is private, or leads to an address that is not on the public internet")


def _bad(why: str) -> ApiError:
    return invalid(f"Invalid 'url': {why}.", "url")
