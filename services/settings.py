"""Every setting of every service: one frozen struct, read once from the environment and the command line.

A field `port` is the variable `REJOINDER_PORT` and the flag `--port`; the flag overrides the variable. The
description of a field says what it takes, in errors, in `--help` and in docs/settings.md. Names end in their
unit.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from schemas.errors import SettingsError
from schemas.request import MAX_VALUES
from schemas.shards import Shard, parse_shard
from services.fits import between_commas, fits, is_loopback
from services.together import SERVICE_URLS, disagreements

PREFIX = "REJOINDER_"

Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]
Milliseconds = Annotated[int, Meta(ge=1)]
Bytes = Annotated[int, Meta(ge=1024)]


def _takes(description: str) -> Meta:
    return Meta(description=description)


class Settings(Struct, frozen=True, kw_only=True):
    """The operator's choices. Each field's description says what it takes, in which unit."""

    kafka: Annotated[str, _takes("HOST:PORT of a Kafka broker, or several with commas between")] = (
        "127.0.0.1:9092"
    )
    kafka_security: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"],
        _takes("how to talk to Kafka: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"),
    ] = "PLAINTEXT"
    kafka_ca_file: Annotated[str, _takes("a PEM file with the authorities that sign the brokers")] = ""
    kafka_cert_file: Annotated[str, _takes("a PEM file with the client's certificate")] = ""
    kafka_key_file: Annotated[str, _takes("a PEM file with the key of that certificate")] = ""
    kafka_sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"],
        _takes("PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"),
    ] = "PLAIN"
    kafka_username: Annotated[str, _takes("the user name for PLAIN and SCRAM")] = ""
    kafka_password: Annotated[str, _takes("the password of that user; a flag would show it to others")] = ""
    kafka_oauth_token_file: Annotated[
        str, _takes("a file that holds the token for OAUTHBEARER, read for each connection")
    ] = ""
    kafka_oauth_url: Annotated[
        str, _takes("the endpoint that gives a token for OAUTHBEARER to client credentials, an http(s) URL")
    ] = ""
    kafka_oauth_client_id: Annotated[str, _takes("the client's id at that URL")] = ""
    kafka_oauth_client_secret: Annotated[
        str, _takes("the client's secret at that URL; a flag would show it to others")
    ] = ""
    kafka_oauth_scope: Annotated[str, _takes("the scope of the token; empty: none")] = ""
    topic_prefix: Annotated[
        str,
        Meta(pattern=r"^[A-Za-z0-9._-]{0,100}$"),
        _takes("put before every topic and group name: up to 100 letters, digits and ._-"),
    ] = ""
    partitions: Annotated[Count, Meta(le=65536), _takes("partitions of a created topic, 1 to 65536")] = 8
    replication: Annotated[Count, Meta(le=100), _takes("replicas of a created topic, 1 to 100")] = 1
    max_record_bytes: Annotated[
        Bytes,
        _takes("bytes of the largest record, 1024 or more; topics need a max.message.bytes 4096 above"),
    ] = 12 << 20

    closings_days: Annotated[
        int,
        Meta(ge=30, le=36_500),
        _takes("days for which a response's closing can be read in the topic closings, 30 or more"),
    ] = 30
    usage_days: Annotated[
        int,
        Meta(ge=32, le=36_500),
        _takes("days for which usage and costs can be asked for, 32 or more"),
    ] = 90
    records: Annotated[
        Literal[1, 2],
        _takes("the form of event records: 1 as long as a process of the version before runs, else 2"),
    ] = 2

    analytics_instance: Annotated[
        str,
        Meta(pattern=r"^[A-Za-z0-9._-]{0,100}$"),
        _takes(
            "a name that this analytics process keeps over restarts and no other has, such as its pod's: it "
            "is back at once then; up to 100 letters, digits and ._-; empty: none"
        ),
    ] = ""

    host: Annotated[str, _takes("the address to listen on for clients")] = "127.0.0.1"
    port: Annotated[Port, _takes("the public port of replay, and ingest's, 0 to 65535; 0: any free one")] = (
        8000
    )
    internal_host: Annotated[str, _takes("the address for the internal and admin ports")] = "127.0.0.1"
    internal_port: Annotated[
        Port,
        _takes(
            "the port of replay, ingest, analytics and webhooks for services, never for clients, 0 to 65535"
        ),
    ] = 8001
    admin_port: Annotated[
        Port, _takes("the port of executor and projector for /livez, /readyz and /metrics; 0: none")
    ] = 0
    replay_url: Annotated[
        str,
        _takes(
            "where ingest, executors and other replays find replay's internal port, an http(s) URL; with "
            "shards the URLs of all, with commas between"
        ),
    ] = "http://127.0.0.1:8001"
    shard: Annotated[
        tuple[str, ...],
        _takes(
            "the part of the partitions that this replay serves, such as 0/3 for the first third, or several "
            "with commas between; empty: all of them"
        ),
    ] = ()
    ingest_url: Annotated[
        str,
        _takes("where replay finds ingest's internal port, an http(s) URL; empty: it only answers reads"),
    ] = ""
    analytics_url: Annotated[
        str, _takes("where replay finds analytics' internal port, an http(s) URL; empty: there is none")
    ] = ""
    webhooks_url: Annotated[
        str, _takes("where replay finds webhooks' internal port, an http(s) URL; empty: there is none")
    ] = ""
    internal_secret: Annotated[
        str,
        _takes(
            "16 to 256 characters that services show each other at internal ports, the same for all; needed "
            "unless internal_host and the URLs of services are loopback; a flag would show it to others"
        ),
    ] = ""
    internal_cert_file: Annotated[
        str,
        _takes(
            "a PEM file with this service's certificate, for internal ports and for asking at them: with it "
            "both sides show one"
        ),
    ] = ""
    internal_key_file: Annotated[str, _takes("a PEM file with the key of that certificate")] = ""
    internal_ca_file: Annotated[
        str, _takes("a PEM file with the authorities that sign the services' certificates, and no others")
    ] = ""
    cors_origins: Annotated[
        tuple[str, ...],
        _takes("origins whose pages may call the API, such as https://app.example, with commas between"),
    ] = ()
    hosts: Annotated[
        tuple[str, ...],
        _takes(
            "names by which clients may call, such as api.example, with commas between; empty: any, but "
            "localhost alone in `rejoinder dev`"
        ),
    ] = ()
    tenant_header: Annotated[
        str,
        Meta(pattern=r"^[A-Za-z0-9-]{1,100}$"),
        _takes("the request header that names the tenant; the proxy in front must set it"),
    ] = "x-rejoinder-tenant"
    api_keys: Annotated[
        tuple[str, ...],
        _takes("TENANT=KEY pairs with commas between, keys of 16 to 256 characters; empty: no key is asked"),
    ] = ()
    admin_keys: Annotated[
        tuple[str, ...],
        _takes("keys that may read what all tenants used, of 16 to 256 characters, with commas between"),
    ] = ()
    api_keys_file: Annotated[
        str,
        _takes("a file of hashed API keys, as `rejoinder keys add` writes it, read again when it changes"),
    ] = ""
    jwt_issuer: Annotated[
        str,
        _takes("whose tokens (JWT) callers may show: an https URL, as their `iss` has it; empty: nobody's"),
    ] = ""
    jwt_audience: Annotated[str, _takes("what the `aud` of such a token must be, or have")] = ""
    jwt_keys_url: Annotated[
        str,
        _takes(
            "where the issuer's public keys (JWKS) are, an https URL; empty: where its OpenID configuration "
            "says"
        ),
    ] = ""
    jwt_tenant_claim: Annotated[
        str, _takes("the claim that is the tenant: its name, or the way to it with dots between")
    ] = "tenant"
    jwt_admin_claim: Annotated[
        str, _takes("the claim that makes an admin, named in the same way; empty: no token does")
    ] = ""
    jwt_admin_value: Annotated[str, _takes("what an admin's token has there, alone or in a list")] = ""
    jwt_leeway_s: Annotated[
        float, Meta(ge=0, le=300), _takes("seconds by which the issuer's clock may differ, 0 to 300")
    ] = 30
    jwt_keys_kept_s: Annotated[
        Seconds, _takes("seconds for which the issuer's keys hold while it cannot be asked, above 0")
    ] = 21_600
    store_dir: Annotated[
        str, _takes("replay's own directory for its store, on a disk; empty: a new one for each process")
    ] = ""
    config: Annotated[str, _takes("the path of rejoinder.toml (models, agents, quotas); empty: none")] = ""

    max_body_bytes: Annotated[
        Bytes,
        _takes(
            "bytes of the largest request body, at most max_record_bytes, of a smaller one seven eighths if "
            "not set; a larger body is a 413"
        ),
    ] = 8 << 20
    max_body_values: Annotated[
        Count, _takes("JSON values in a request body, above which it is a 413; 100,000 hold ingest for 0.1 s")
    ] = MAX_VALUES
    max_queue: Annotated[
        Count,
        _takes("open responses above which a POST is refused (429); 1.25 times all slots keep waits short"),
    ] = 625
    acceptance_ms: Annotated[
        Milliseconds, _takes("milliseconds within which an accepted request must reach the log, or is void")
    ] = 60_000
    skew_ms: Annotated[Milliseconds, _takes("milliseconds by which clocks may differ, 1 or more")] = 10_000
    barrier_s: Annotated[
        Seconds, _takes("seconds that a read waits for the log before it answers 503, above 0")
    ] = 5
    run_deadline_s: Annotated[Seconds, _takes("seconds that a response may stay open, above 0")] = 21_600
    ephemeral_s: Annotated[
        Seconds,
        _takes("seconds that a background response with store: false is kept after its end, above 0"),
    ] = 600
    upstream_idle_s: Annotated[Seconds, _takes("seconds of silence that an upstream may take, above 0")] = 600
    models_s: Annotated[
        float,
        Meta(gt=0, le=200),
        _takes("seconds after which an executor asks its upstreams anew for their models, at most 200"),
    ] = 30
    lease_s: Annotated[
        float,
        Meta(ge=3, le=6),
        _takes(
            "seconds for which a claim may start its upstream call, 3 to 6: more than a beat and its way "
            "through the log, less than a takeover"
        ),
    ] = 5
    max_attempts: Annotated[Count, _takes("claims of one response after which it fails, 1 or more")] = 5
    max_events: Annotated[Count, _takes("events of a response, after which it ends incomplete")] = 1_000_000
    max_output_bytes: Annotated[
        Bytes, _takes("bytes of all events of one response, after which it ends incomplete, 1024 or more")
    ] = 64 << 20
    max_conversation_bytes: Annotated[
        Bytes, _takes("bytes of the turns before a response, above which it fails, 1024 or more")
    ] = 64 << 20
    slots: Annotated[Count, _takes("responses that one executor runs at once, 1 or more")] = 500

    webhooks_keys: Annotated[
        tuple[str, ...],
        _takes(
            "ID=KEY pairs with commas between, each key 32 bytes in base64, which seal secrets of webhook "
            "endpoints: the first seals, all open; empty: no endpoint can be made"
        ),
    ] = ()
    webhooks_allow_private: Annotated[
        Literal[0, 1],
        _takes("1: webhook endpoints may be on private addresses, there with http too; for development"),
    ] = 0
    webhooks_endpoints: Annotated[Count, _takes("webhook endpoints that a tenant may have, 1 or more")] = 20
    webhooks_timeout_s: Annotated[
        float, Meta(gt=0, le=14), _takes("seconds that a webhook endpoint has to answer, above 0, at most 14")
    ] = 10
    webhooks_attempts: Annotated[
        Count, _takes("webhooks that a worker sends at once, an eighth of them to one endpoint at most")
    ] = 256

    replay_memory_bytes: Annotated[
        Bytes, _takes("bytes of recent events that replay keeps in memory, 1024 or more")
    ] = 512 << 20
    stall_s: Annotated[Seconds, _takes("seconds that a reader may take nothing before it is dropped")] = 30
    request_s: Annotated[
        Seconds, _takes("seconds within which a request must come whole, headers and body, or it is a 408")
    ] = 20
    max_connections: Annotated[
        Count, _takes("open connections of a port, above which the oldest that sent no request is closed")
    ] = 10_000
    max_unfinished_heads: Annotated[
        Count, _takes("connections of a port amid a request's headers, above which the slowest is closed")
    ] = 1_000
    max_connections_per_address: Annotated[
        int,
        Meta(ge=0),
        _takes(
            "open connections of one client address, 0: any number. For ports without a balancer in front"
        ),
    ] = 0
    socket_timeout_s: Annotated[
        Seconds, _takes("seconds without an acknowledgement after which the system drops a connection")
    ] = 30
    keepalive_s: Annotated[Seconds, _takes("seconds of silence on a stream before a keep-alive line")] = 15
    grace_s: Annotated[Seconds, _takes("seconds that a stopping service has to finish, above 0")] = 20

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _takes("debug, info, warning or error")
    ] = "info"
    traces_url: Annotated[
        str,
        _takes(
            "where a collector takes traces by OTLP over HTTP, an http(s) URL such as "
            "http://127.0.0.1:4318/v1/traces; empty: no traces"
        ),
    ] = ""
    traces_ratio: Annotated[
        float,
        Meta(ge=0, le=1),
        _takes("the fraction of the traces that begin here that is sent, 0 to 1; who calls with one decides"),
    ] = 1
    access_log: Annotated[
        Literal["on", "off"],
        _takes("on or off: a log line for each request of a client; off in `rejoinder dev` unless set"),
    ] = "on"
    audit_log: Annotated[
        Literal["on", "off"],
        _takes(
            "on or off: a log line for each delete and for uses of keys; off in `rejoinder dev` unless set"
        ),
    ] = "on"
    log_format: Annotated[
        Literal["auto", "console", "json"], _takes("console, json, or auto: console on a terminal, else json")
    ] = "auto"

    @property
    def shards(self) -> tuple[Shard, ...]:
        """What `shard` names."""
        return tuple(shard for text in self.shard if (shard := parse_shard(text)) is not None)

    def __repr__(self) -> str:
        """All settings but the secrets, because settings end up in logs."""
        shown = (f"{name}={getattr(self, name)!r}" for name in SETTINGS if name not in SECRETS)
        return f"Settings({', '.join(shown)})"


_DEFAULTS = Settings()
SECRETS = frozenset(
    {
        "kafka_password",
        "kafka_oauth_client_secret",
        "api_keys",
        "admin_keys",
        "internal_secret",
        "webhooks_keys",
    }
)
"""Settings whose values no log line and no error shows."""


class Setting(Struct, frozen=True):
    """One setting as people meet it: its variable, its flag, what it takes, its default."""

    name: str
    variable: str
    flag: str
    takes: str
    default: str


def _settings() -> Iterator[Setting]:
    for known in msgspec.inspect.type_info(Settings).fields:  # type: ignore[attr-defined]
        name = known.name
        yield Setting(
            name,
            PREFIX + name.upper(),
            "--" + name.replace("_", "-"),
            _description(known.type),
            _text(known.default),
        )


def _description(type: msgspec.inspect.Type) -> str:
    assert isinstance(type, msgspec.inspect.Metadata)
    assert type.extra_json_schema is not None
    return str(type.extra_json_schema["description"])


def _text(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


SETTINGS: Mapping[str, Setting] = {setting.name: setting for setting in _settings()}
"""Every setting by its name, in the order of the struct."""


def load(environ: Mapping[str, str], flags: Mapping[str, str] | None = None) -> Settings:
    """The settings of `environ` (`REJOINDER_*`), overridden by `flags` (by field name).

    An empty value, also a flag's, stands for the default. Raises SettingsError, which names the variable or
    flag, its value and what it takes; also for a variable that looks like a misspelt setting.
    """
    sources = {name: _source(setting, environ) for name, setting in SETTINGS.items()}
    _refuse_misspelt(environ)
    sources |= {name: (SETTINGS[name].flag, text) for name, text in (flags or {}).items()}
    values = {name: _value(name, source, text) for name, (source, text) in sources.items() if text}
    if "max_record_bytes" in values:
        # An operator with topics of another size sets one bound: what must fit into a record follows it.
        fitting = min(_DEFAULTS.max_body_bytes, values["max_record_bytes"] * 7 // 8)
        values.setdefault("max_body_bytes", fitting)
    settings = Settings(**values)
    _check_together(settings)
    return settings


def environment(settings: Mapping[str, object]) -> dict[str, str]:
    """The variables that hand `settings` (by field name) to a child process."""
    return {SETTINGS[name].variable: _text(value) for name, value in settings.items()}


RENAMED: Mapping[str, str] = {"acceptance_ms": "window_ms"}
"""By setting, the name that it had in the version before. Its variable is taken for one more version, so that
old and new processes can run on one environment."""


def _source(setting: Setting, environ: Mapping[str, str]) -> tuple[str, str]:
    """The variable that a setting is read from, and its text; "" if there is none."""
    text = environ.get(setting.variable, "")
    before = PREFIX + RENAMED.get(setting.name, setting.name).upper()
    return (setting.variable, text) if text else (before, environ.get(before, ""))


def _refuse_misspelt(environ: Mapping[str, str]) -> None:
    """Only what is close to a setting: Kubernetes adds variables of its own for a service `rejoinder`."""
    known = [name.upper() for name in (*SETTINGS, *RENAMED.values())]
    for variable in environ:
        name = variable.removeprefix(PREFIX)
        if name != variable and name not in known:
            for meant in get_close_matches(name, known, n=1, cutoff=0.8):
                raise SettingsError(f"{variable}: no such setting; is {PREFIX}{meant} meant?")


def _value(name: str, source: str, text: str) -> Any:
    wanted = Settings.__annotations__[name]
    parts = between_commas(text) if isinstance(getattr(_DEFAULTS, name), tuple) else text
    try:
        value = msgspec.convert(parts, wanted, strict=False)
    except msgspec.ValidationError:
        raise _bad(name, source, text) from None
    if not fits(name, value):
        raise _bad(name, source, text)
    return value


def _bad(name: str, source: str, text: str) -> SettingsError:
    value = "the value" if name in SECRETS else repr(text)
    return SettingsError(f"{source}: {value} does not fit; it takes {SETTINGS[name].takes}")


def require_secret(settings: Settings) -> None:
    """Raise SettingsError if services would ask each other over a network without a secret.

    On loopback they need none: only this machine's own processes can ask.
    """
    urls = [(name, url) for name in SERVICE_URLS for url in between_commas(getattr(settings, name)) if url]
    hosts = [(name, urlsplit(url).hostname or "") for name, url in urls]
    for name, host in [("internal_host", settings.internal_host), *hosts]:
        if not settings.internal_secret and not is_loopback(host):
            what = f"needed, since {PREFIX}{name.upper()} ({host}) is not loopback"
            mend = "give all services the same 16 to 256 characters (openssl rand -hex 32)"
            raise SettingsError(f"{PREFIX}INTERNAL_SECRET: {what}; {mend}")


def _check_together(settings: Settings) -> None:
    given = {name: getattr(settings, name) for name in SETTINGS}
    usual = {name: getattr(_DEFAULTS, name) for name in SETTINGS}
    for name, what in disagreements(given, usual):
        raise SettingsError(f"{PREFIX}{name.upper()}: {what}")
