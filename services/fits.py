"""What a setting's value must be like beyond its type: forms of addresses, URLs, names and keys. Pure."""

import re
from base64 import b64decode
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from schemas.ids import parse_tenant
from schemas.shards import parse_shard

SEALING_KEY_BYTES = 32
"""Bytes of an operator's key for the secrets of webhooks."""
_URLS = frozenset(
    {
        "analytics_url",
        "ingest_url",
        "jwt_issuer",
        "jwt_keys_url",
        "kafka_oauth_url",
        "traces_url",
        "webhooks_url",
    }
)
"""Settings that are one http(s) URL."""
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:,\[\]/]+):[0-9]{1,5}")
_HOST = re.compile(r"[0-9A-Za-z.:_-]+")
_NAME = re.compile(r"[0-9A-Za-z_-]+(\.[0-9A-Za-z_-]+)*\.?")
_API_KEY = re.compile(r"([^=]+)=([!-~]{16,256})")
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SECRET = re.compile(r"[!-~]{16,256}")


def fits(name: str, value: Any) -> bool:
    """Whether `value` fits in ways that its type does not show."""
    match name:
        case "kafka":
            return all(map(_ADDRESS.fullmatch, between_commas(value)))
        case "host" | "internal_host":
            return bool(_HOST.fullmatch(value))
        case "replay_url":
            return all(map(is_url, between_commas(value)))
        case "shard":
            return all(parse_shard(shard) is not None for shard in value)
        case _ if name in _URLS:
            return is_url(value)
        case "api_keys":
            pairs = [_API_KEY.fullmatch(pair) for pair in value]
            return all(pair is not None and parse_tenant(pair[1]) is not None for pair in pairs)
        case "admin_keys":
            return all(_SECRET.fullmatch(key) for key in value)
        case "webhooks_keys":
            ids = {pair.partition("=")[0] for pair in value}
            return all(map(_is_sealing_key, value)) and len(ids) == len(value)
        case "internal_secret":
            return bool(_SECRET.fullmatch(value))
        case "hosts":
            return all(_NAME.fullmatch(name) for name in value)
        case "cors_origins":
            return all(is_url(origin) and not urlsplit(origin).path for origin in value)
        case _:
            return True


def _is_sealing_key(pair: str) -> bool:
    """Whether `pair` is an id and a key of 32 bytes in base64."""
    id, _, key = pair.partition("=")
    try:
        return bool(_KEY_ID.fullmatch(id)) and len(b64decode(key, validate=True)) == SEALING_KEY_BYTES
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, only reaches this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def between_commas(text: str) -> tuple[str, ...]:
    """The parts of a text that has commas between them."""
    return tuple(part.strip() for part in text.split(","))


def is_url(text: str) -> bool:
    """Whether `text` is an http(s) URL without query, fragment and user."""
    try:
        parts = urlsplit(text)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and not (parts.query or parts.fragment or "@" in parts.netloc)
        )
    except ValueError:
        return False


def is_safe(url: str) -> bool:
    """Whether what is at `url` cannot be exchanged on its way: by https, or on this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
