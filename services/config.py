"""Reads the operator's file `rejoinder.toml`: models and agents, where they are, bounds of tenants, prices.

    [[models]]                              # the first whose `match` fits a request's `model` serves it
    match = "gpt-*"
    backend = "responses"                   # responses | chat | scripted
    base_url = "https://models.example/v1"
    api_key_env = "MODELS_API_KEY"          # the name of a variable, never the secret itself

    [[agents]]                              # for agent_reference: {"type": "agent_reference", "name": …}
    name = "weather"
    url = "http://127.0.0.1:8088"           # the agent serves {url}/responses

    [[tenants]]                             # the first whose `match` fits a request's tenant bounds it
    match = "trial-*"
    max_open = 20
    max_running = 2

    [[prices]]                              # the first whose `model` fits a response's model prices it
    model = "gpt-*"
    input = 1.25                            # per million tokens
    cached_input = 0.125
    output = 10
    currency = "usd"
    valid_from = 2026-08-01                 # of equal globs the latest that is in force

Model `echo` is built in. Without a file, and with OPENAI_API_KEY set, every other model is OpenAI's (or
OPENAI_BASE_URL's). URLs come from here only, never from a request. Ingest asks `Config.validate` before it
accepts a request, an executor asks `Config.route` for the backend, both ask `Config.quota`; all are pure. The
file is strict: an unknown key, or a bad value, stops the start with an error that names it.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, field

from schemas.errors import SettingsError, invalid
from schemas.ids import Tenant
from schemas.models import MAX_NAME
from services import echo

OPENAI_URL = "https://api.openai.com/v1"

Kind = Literal["responses", "chat", "scripted"]
"""The protocol of a model's upstream; `services.executor.backends.KINDS` has the backend of each."""
_RESUMABLE: frozenset[Kind] = frozenset({"responses", "scripted"})
"""Kinds whose streams can be rejoined with a cursor."""

GiveBack = Literal[
    "extra_content",
    "provider_specific_fields",
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "thinking_blocks",
    "thought_signature",
]
"""Fields of an answer that some server wants back with the assistant's turn (U-65)."""
SIGNATURES: tuple[GiveBack, ...] = ("extra_content", "provider_specific_fields", "thought_signature")
"""Fields in which servers sign a call. Some refuse the next turn without them; none refuses its own."""

KEYS: Mapping[str, str] = {
    "models": "a list of [[models]] tables",
    "agents": "a list of [[agents]] tables",
    "tenants": "a list of [[tenants]] tables",
    "prices": "a list of [[prices]] tables",
    "match": 'a glob over the names of models, or of tenants, such as "gpt-*"; the first that fits wins',
    "name": "the name that requests give in agent_reference.name",
    "backend": '"responses", "chat" or "scripted"',
    "base_url": "an http(s) URL without credentials; {base_url}/responses or /chat/completions is called",
    "url": "an http(s) URL without credentials; the agent serves {url}/responses",
    "api_key_env": "the name of the environment variable that holds the API key",
    "headers": "a table of header names and values that are sent with every call",
    "timeout": "seconds of silence before a call is given up, above 0; else REJOINDER_UPSTREAM_IDLE_S",
    "max_concurrency": "how many calls one executor makes at once, 1 or more",
    "repeatable": "true if a call may be made again when an executor dies before any output",
    "resumable": 'true if its background streams can be rejoined with a cursor (backend "responses")',
    "extensions": '"keep" (events outside the Responses API stay beside the stream) or "pass" (they join it)',
    "drop": 'a list of fields that are left out of every call, such as ["stream_options"]',
    "vendor_tools": '"refuse" or "drop" tools that only a vendor can run, as web_search (backend "chat")',
    "give_back": 'a list of fields that the server wants back: any of "extra_content", '
    '"provider_specific_fields", "reasoning", "reasoning_content", "reasoning_details", "thinking_blocks", '
    '"thought_signature" (backend "chat")',
    "max_open": "how many responses of one tenant may be open, 1 or more; above, its POSTs are refused (429)",
    "max_running": "how many responses of one tenant an executor runs at once, 1 or more; the others wait",
    "model": 'a glob over the names of models, such as "gpt-*"; the first that fits and is in force wins',
    "input": "the price of a million input tokens, 0 or more, with at most 6 decimals",
    "cached_input": "the price of a million of them that came from the cache; else that of `input`",
    "cache_write": "the price of a million of them that were written to the cache; else that of `input`",
    "output": "the price of a million output tokens, 0 or more, with at most 6 decimals",
    "currency": 'three letters, such as "usd"',
    "valid_from": "a date (from midnight UTC) or a date with a time, such as 2026-08-01; else: from ever",
}
"""Every key of the file and what it takes: the text of errors, and of the docs."""
REQUIRED: Mapping[str, str] = {
    "match": 'match = "gpt-*"',
    "base_url": 'base_url = "https://models.example/v1"',
    "name": 'name = "weather"',
    "url": 'url = "http://127.0.0.1:8088"',
    "model": 'model = "gpt-*"',
    "input": "input = 1.25",
    "output": "output = 10",
}
"""By required key of a table, an example."""

MAX_PRICE = 1e9
"""Above all prices of a million tokens."""
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_URL = re.compile(r"[!-~]+")
_UNDROPPABLE = frozenset({"input", "messages", "model", "stream"})
"""Fields that a call needs, or its answer to be a stream."""
_RESUMING = frozenset({"background", "store"})
"""Fields that a resumable upstream needs to keep its stream."""
_RESERVED_HEADERS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "content-type", "accept"}
)


class Options(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys that models and agents share. `timeout` is in seconds; None: the executor's setting."""

    api_key_env: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    timeout: float | None = None
    max_concurrency: int = 1000
    repeatable: bool = False
    resumable: bool = False
    extensions: Literal["keep", "pass"] = "keep"
    drop: tuple[str, ...] = ()


class Model(Options, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Models whose name fits the glob `match`."""

    match: str
    backend: Kind = "responses"
    base_url: str = ""
    vendor_tools: Literal["refuse", "drop"] = "refuse"
    give_back: tuple[GiveBack, ...] = SIGNATURES

    def __repr__(self) -> str:
        return f"<model {self.match!r} {self.backend}>"

    @property
    def label(self) -> str:
        """What records and metrics call this route."""
        return self.match

    def __hash__(self) -> int:
        return hash(self.match)  # routes are keys of dictionaries, and `headers` has no hash


class Agent(Options, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A hosted agent: it speaks the Responses protocol at `{url}/responses`."""

    name: str
    url: str

    def __repr__(self) -> str:
        return f"<agent {self.name!r}>"

    @property
    def label(self) -> str:
        """What records and metrics call this route."""
        return self.name

    def __hash__(self) -> int:
        return hash(self.name)


class Quota(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The bounds of each tenant whose name fits the glob `match`.

    `max_open` holds over all services, `max_running` in each executor. None: only the bounds of all tenants
    hold.
    """

    match: str
    max_open: int | None = None
    max_running: int | None = None


class Price(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a million tokens cost of models whose name fits the glob `model`, from `valid_from` on."""

    model: str
    input: float
    cached_input: float | None = None
    cache_write: float | None = None
    output: float
    currency: str = "usd"
    valid_from: Any = None

    @property
    def since(self) -> int:
        """When it is in force from, in ms since the epoch. Raises ValueError for what is no time."""
        if self.valid_from is None:
            return 0
        given = self.valid_from if isinstance(self.valid_from, date) else str(self.valid_from)
        moment = datetime.fromisoformat(str(given))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0, round(moment.timestamp() * 1000))


LISTED = "GET /v1/models lists what there is."
UNBOUNDED = Quota(match="*")
ECHO = Model(match="echo", backend="scripted", repeatable=True, resumable=True)
Route = Model | Agent
"""The model or agent that serves a request. Its repr shows its name and no secret."""


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The models and agents that exist, and the tenants' quotas, in order of precedence."""

    models: tuple[Model, ...] = ()
    agents: tuple[Agent, ...] = ()
    tenants: tuple[Quota, ...] = ()
    prices: tuple[Price, ...] = ()

    def routes(self) -> Iterator[Route]:
        """All models and agents."""
        yield from self.models
        yield from self.agents

    def route(self, body: Mapping[str, Any]) -> Route:
        """The route of the request `body`: an agent if the request names one, else its model.

        Raises ApiError (400), which names the field, if there is none.
        """
        if body.get("agent_reference") is not None:
            return self._agent(body["agent_reference"])
        model = body.get("model")
        if not isinstance(model, str) or not 0 < len(model) <= MAX_NAME:
            raise invalid(f"model must be a string of 1 to {MAX_NAME} characters.", "model")
        served = next((served for served in self.models if fnmatchcase(model, served.match)), None)
        if served is None or is_glob(served.match):
            # An agent's name is accepted as a model: clients pick it from the list of models.
            named = (agent for agent in self.agents if agent.name == model)
            found: Route | None = next(named, served)
        else:
            found = served
        if found is not None:
            return found
        raise invalid(f"The model '{model}' does not exist. {self._mend}", "model", "model_not_found")

    def validate(self, body: Mapping[str, Any]) -> Route:
        """The route of `body`, as `route`; also checks the body for that backend. Raises ApiError (400)."""
        route = self.route(body)
        if isinstance(route, Model) and route.backend == "scripted":
            echo.steering(body)
        return route

    def quota(self, tenant: Tenant) -> Quota:
        """The bounds of `tenant`."""
        fitting = (quota for quota in self.tenants if fnmatchcase(tenant, quota.match))
        return next(fitting, UNBOUNDED)

    @property
    def _mend(self) -> str:
        """What whoever asks for an unknown model can do. With `echo` alone that is the operator."""
        if self.models == (ECHO,) and not self.agents:
            return "There is only 'echo': set OPENAI_API_KEY, or name [[models]] in --config rejoinder.toml."
        return LISTED

    def _agent(self, reference: object) -> Agent:
        if (
            not isinstance(reference, Mapping)
            or reference.get("type", "agent_reference") != "agent_reference"
        ):
            what = 'agent_reference must be an object {"type": "agent_reference", "name": …}.'
            raise invalid(what, "agent_reference")
        name = reference.get("name")
        for agent in self.agents:
            if agent.name == name:
                return agent
        what = f"The agent '{str(name)[:MAX_NAME]}' does not exist. {LISTED}"
        raise invalid(what, "agent_reference.name", "agent_not_found")


def is_glob(match: str) -> bool:
    """Whether `match` is a glob, and no plain name."""
    return any(sign in match for sign in "*?[")


def label_of(route: Route | None) -> str:
    """What records and metrics call `route`; "" without one."""
    return "" if route is None else route.label


def unbounded(_: Tenant) -> Quota:
    """The quota of every tenant, if none is configured."""
    return UNBOUNDED


def load(path: str, environ: Mapping[str, str]) -> Config:
    """The configuration in the file at `path`; without one ("") that of `environ`. Always with `echo`.

    Raises SettingsError, which names the file, what is wrong, and what would be right.
    """
    if not path:
        return Config(models=(ECHO, *_openai(environ)))
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SettingsError(f"config: cannot read {path}: {why}") from error
    return parse(text, path)


def api_key(route: Route, environ: Mapping[str, str]) -> str:
    """The API key for calls of `route`, "" if it needs none. Raises SettingsError if the key is missing."""
    if not route.api_key_env:
        return ""
    key = environ.get(route.api_key_env, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise SettingsError(f"{route.api_key_env}: {route!r} needs an API key in this variable; set it")
    return key


def parse(text: str, path: str) -> Config:
    """The configuration in `text`, the TOML of the file at `path`. Raises SettingsError."""
    try:
        config = msgspec.convert(tomllib.loads(text), Config)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise SettingsError(f"{path}: {_explain(str(error))}") from error
    wrong = next(_wrongs(config), None)
    if wrong:
        raise SettingsError(f"{path}: {wrong}")
    return msgspec.structs.replace(config, models=(ECHO, *config.models))


def _openai(environ: Mapping[str, str]) -> Iterator[Model]:
    if environ.get("OPENAI_API_KEY"):
        url = environ.get("OPENAI_BASE_URL") or OPENAI_URL
        openai = Model(match="*", base_url=url, api_key_env="OPENAI_API_KEY")
        wrong = _wrong_url("OPENAI_BASE_URL", url)
        if wrong:
            raise SettingsError(wrong)
        yield openai


def _wrongs(config: Config) -> Iterator[str]:
    """The faults that the types do not show, one at a time."""
    for index, model in enumerate(config.models):
        yield from (f"models[{index}].{wrong}" for wrong in _wrong_model(model))
    names = [agent.name for agent in config.agents]
    for index, agent in enumerate(config.agents):
        if not agent.name or agent.name in names[:index]:
            yield f"agents[{index}].name: {agent.name!r} is empty or taken; give each agent a name of its own"
        wrongs = [_wrong_url("url", agent.url), *_wrong_options(agent)]
        yield from (f"agents[{index}].{wrong}" for wrong in wrongs if wrong)
    for index, quota in enumerate(config.tenants):
        yield from (f"tenants[{index}].{wrong}" for wrong in _wrong_quota(quota))
    for index, price in enumerate(config.prices):
        yield from (f"prices[{index}].{wrong}" for wrong in _wrong_price(price))
    yield from _same_prices(config.prices)


def _wrong_model(model: Model) -> Iterator[str]:
    if not model.match or model.match == ECHO.match:
        yield f"match: {model.match!r} is empty or built in; it takes {KEYS['match']}"
    if model.backend != "scripted":
        wrong = _wrong_url("base_url", model.base_url) if model.base_url else _missing("models", "base_url")
        yield from filter(None, [wrong])
    elif model.base_url or model.api_key_env or model.headers:
        yield 'backend: "scripted" calls nobody; remove base_url, api_key_env and headers'
    if model.resumable and model.backend not in _RESUMABLE:
        yield f'resumable: backend = "{model.backend}" cannot be resumed; remove it, or use "responses"'
    for key, default in (("vendor_tools", "refuse"), ("give_back", SIGNATURES)):
        if model.backend != "chat" and getattr(model, key) != default:
            yield f'{key}: only backend = "chat" translates; remove it, or use that backend'
    yield from _wrong_options(model)


def _wrong_options(options: Options) -> Iterator[str]:
    """The faults of `options`. None shows a header's value, which may be a secret."""
    if options.api_key_env is not None and not _VARIABLE.fullmatch(options.api_key_env):
        yield f"api_key_env: not the name of a variable; it takes {KEYS['api_key_env']}"
    if options.timeout is not None and not options.timeout > 0:
        yield f"timeout: {options.timeout} does not fit; it takes {KEYS['timeout']}"
    if options.max_concurrency < 1:
        yield f"max_concurrency: {options.max_concurrency} does not fit; it takes {KEYS['max_concurrency']}"
    kept = _UNDROPPABLE | _RESUMING if options.resumable else _UNDROPPABLE
    for dropped in options.drop:
        if not dropped or dropped in kept:
            yield f"drop: {dropped!r} cannot be left out of a call; it takes {KEYS['drop']}"
    for name, value in options.headers.items():
        if name.lower() == "authorization" and options.api_key_env is not None:
            yield f"headers: {name} is what api_key_env sends; use one of the two"
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            yield f"headers: {name!r} is no header name, or has a value that no header can hold"
        if name.lower() in _RESERVED_HEADERS:
            yield f"headers: {name} is set by Rejoinder itself; remove it"


def _wrong_quota(quota: Quota) -> Iterator[str]:
    if not quota.match:
        yield f"match: '' fits no tenant; it takes {KEYS['match']}"
    for key, bound in (("max_open", quota.max_open), ("max_running", quota.max_running)):
        if bound is not None and bound < 1:
            yield f"{key}: {bound} does not fit; it takes {KEYS[key]}"


def _wrong_price(price: Price) -> Iterator[str]:
    if not price.model:
        yield f"model: '' fits no model; it takes {KEYS['model']}"
    for key in ("input", "cached_input", "cache_write", "output"):
        amount = getattr(price, key)
        if amount is not None and not (amount >= 0 and round(amount, 6) == amount < MAX_PRICE):
            yield f"{key}: {amount} does not fit; it takes {KEYS[key]}"
    if not re.fullmatch("[A-Za-z]{3}", price.currency):
        yield f"currency: {price.currency!r} does not fit; it takes {KEYS['currency']}"
    try:
        _ = price.since
    except ValueError:
        yield f"valid_from: {price.valid_from} does not fit; it takes {KEYS['valid_from']}"


def _same_prices(prices: Sequence[Price]) -> Iterator[str]:
    """Two prices of one glob from one time on: nobody could say which counts."""
    first: dict[tuple[str, int], int] = {}
    for index, price in enumerate(prices):
        earlier = first.setdefault((price.model, price.since), index)
        if earlier != index:
            when = "no valid_from" if price.valid_from is None else f"valid_from = {price.valid_from}"
            what = f"both have model = {price.model!r} and {when}"
            yield f"prices[{earlier}] and prices[{index}]: {what}; remove one, or give it another valid_from"


def _wrong_url(key: str, url: str) -> str | None:
    """What is wrong with `url`, without the URL itself (it may hold a password); None if nothing."""
    takes = f"it takes {KEYS.get(key, KEYS['base_url'])}"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return f"{key}: not a URL; {takes}"
    if parts.username is not None or parts.password is not None:
        return f"{key}: has credentials in it; name their variable in api_key_env instead"
    if not good or parts.query or parts.fragment or not _URL.fullmatch(url):
        return f"{key}: missing, or not a plain http(s) URL; {takes}"
    return None


def _missing(table: str, key: str) -> str:
    """The error of a table without a `key` that it needs."""
    article = "an" if table == "agents" else "a"
    what = f"{KEYS[key]}; such as {REQUIRED[key]}"
    kind = "a number" if key in ("input", "output") else "a string"
    return f"{key}: missing; {article} [[{table}]] table needs it, {kind}: {what}"


_MISSING = re.compile(r"Object missing required field `(?P<key>[^`]*)` - at `\$\.(?P<at>[^`]*)`")
_UNKNOWN = re.compile(r"unknown field `(?P<key>[^`]*)`(?: - at `\$\.?(?P<at>[^`]*)`)?")
_AT = re.compile(r"(?P<why>.*) - at `\$\.?(?P<at>[^`]*)`")


_TABLES: Mapping[str, type[Struct]] = {"models": Model, "agents": Agent, "tenants": Quota, "prices": Price}


def _table(at: str) -> str:
    return at.partition("[")[0]


def _explain(why: str) -> str:
    """The error of msgspec in the terms of the file: where, what is wrong, what the key takes."""
    if found := _UNKNOWN.search(why):
        at, key = found["at"] or "", found["key"]
        known = _TABLES.get(_table(at), Config)
        place = f"{at}.{key}" if at else key
        return f"{place}: unknown key; the keys here are {', '.join(known.__struct_fields__)}"
    if found := _MISSING.search(why):
        return f"{found['at']}.{_missing(_table(found['at']), found['key'])}"
    if found := _AT.fullmatch(why):
        key = re.sub(r"\[[^\]]*\]", "", found["at"]).rpartition(".")[2]
        takes = f"; it takes {KEYS[key]}" if key in KEYS else ""
        return f"{found['at']}: {found['why']}{takes}"
    return why
