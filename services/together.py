"""Settings that each fit and do not go together: what is wrong, and with which of them. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from services.fits import between_commas, is_safe

_PREFIX = "REJOINDER_"
SERVICE_URLS = ("replay_url", "ingest_url", "analytics_url", "webhooks_url")
"""Settings that say where services of ours find each other."""
INTERNAL_FILES = ("internal_cert_file", "internal_key_file", "internal_ca_file")
"""Settings for certificates at internal ports: all of them or none."""
Given = Mapping[str, Any]
"""The values of settings by their names."""
Wrong = Iterator[tuple[str, str]]
"""A setting, and what is wrong with it."""


def disagreements(given: Given, usual: Given) -> Wrong:
    """What is wrong with the settings `given`, one thing at a time; `usual` are the defaults."""
    if given["max_body_bytes"] > given["max_record_bytes"]:
        what = f"{given['max_body_bytes']} is over max_record_bytes ({given['max_record_bytes']})"
        yield "max_body_bytes", f"{what}; a request must fit into a record"
    if {pair.partition("=")[2] for pair in given["api_keys"]} & set(given["admin_keys"]):
        what = "a key in it is a tenant's in REJOINDER_API_KEYS as well: give admins keys of their own"
        yield "admin_keys", what
    if given["shard"] and given["replay_url"] == usual["replay_url"]:
        what = "needed with REJOINDER_SHARD: name the internal ports of the replays of all shards"
        yield "replay_url", what
    yield from _sasl(given)
    yield from _tokens(given)
    yield from _certificates(given, usual)


def _sasl(given: Given) -> Wrong:
    """Credentials that Kafka wants and that are missing or ambiguous."""
    if "SASL" not in given["kafka_security"]:
        return
    if given["kafka_sasl_mechanism"] != "OAUTHBEARER":
        if not (given["kafka_username"] and given["kafka_password"]):
            what = "needs REJOINDER_KAFKA_USERNAME and REJOINDER_KAFKA_PASSWORD"
            yield "kafka_security", f"{given['kafka_security']} {what}"
        return
    asks = [given[f"kafka_oauth_{name}"] for name in ("url", "client_id", "client_secret")]
    if bool(given["kafka_oauth_token_file"]) == all(asks) or (any(asks) and not all(asks)):
        what = "OAUTHBEARER needs either {0}TOKEN_FILE, or {0}URL, {0}CLIENT_ID and {0}CLIENT_SECRET"
        yield "kafka_sasl_mechanism", what.format(f"{_PREFIX}KAFKA_OAUTH_")


def _tokens(given: Given) -> Wrong:
    """Tokens that would be believed and must not be, and tokens that nobody would ask for."""
    if not given["jwt_issuer"]:
        for name in ("jwt_audience", "jwt_keys_url", "jwt_admin_claim"):
            if given[name]:
                what = f"needed with REJOINDER_{name.upper()}: without it no token is asked for"
                yield "jwt_issuer", what
        return
    if not given["jwt_audience"]:
        what = "needed with an issuer, or the tokens for its other services would open this one"
        yield "jwt_audience", what
    if bool(given["jwt_admin_claim"]) != bool(given["jwt_admin_value"]):
        yield "jwt_admin_claim", "it and REJOINDER_JWT_ADMIN_VALUE need each other"
    for name in ("jwt_issuer", "jwt_keys_url"):
        if given[name] and not is_safe(given[name]):
            what = f"{given[name]} is no https URL: who can change what it says could make tokens"
            yield name, what


def _certificates(given: Given, usual: Given) -> Wrong:
    """Certificates with which internal ports could not be reached."""
    there = [name for name in INTERNAL_FILES if given[name]]
    if not there:
        return
    for name in INTERNAL_FILES:
        if not given[name]:
            yield name, f"needed with {', '.join(f'REJOINDER_{other.upper()}' for other in there)}"
    for name in SERVICE_URLS:
        for url in between_commas(given[name]):
            if url.startswith("http:") and url != usual[name]:
                yield name, f"{url} begins with http, and internal ports have certificates: write https"
