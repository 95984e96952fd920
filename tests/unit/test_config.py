"""services/config.py: the operator's file, and who serves a request."""

import json
from pathlib import Path

import pytest

from schemas.errors import ApiError, SettingsError
from schemas.ids import Tenant
from services import config
from services.config import ECHO, UNBOUNDED, Agent, Config, Model, Price, Quota

FILE = """
[[models]]
match = "gpt-*"
base_url = "https://models.example/v1"
api_key_env = "MODELS_KEY"
headers = { x-team = "hunter2" }
timeout = 30
max_concurrency = 5
resumable = true
extensions = "pass"

[[models]]
match = "*"
backend = "chat"
base_url = "http://127.0.0.1:8000/v1"
repeatable = true
drop = ["stream_options"]
vendor_tools = "drop"
give_back = ["reasoning_content"]

[[agents]]
name = "weather"
url = "http://127.0.0.1:8088"
timeout = 5

[[tenants]]
match = "trial-*"
max_open = 20
max_running = 2

[[tenants]]
match = "*"
max_open = 500
"""


def parsed(text: str = FILE) -> Config:
    return config.parse(text, "rejoinder.toml")


def refusal(text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        parsed(text)
    assert str(caught.value).startswith("rejoinder.toml: ")
    return str(caught.value)


def model(lines: str) -> str:
    return f'[[models]]\nmatch = "m"\nbase_url = "http://127.0.0.1/v1"\n{lines}\n'


def test_every_key_of_the_file_is_read() -> None:
    gpt, rest = parsed().models[1:]
    assert (gpt.backend, gpt.base_url) == ("responses", "https://models.example/v1")
    assert (gpt.api_key_env, gpt.headers) == ("MODELS_KEY", {"x-team": "hunter2"})
    assert (gpt.timeout, gpt.max_concurrency, gpt.resumable, gpt.extensions) == (30, 5, True, "pass")
    assert (rest.backend, rest.repeatable, rest.timeout) == ("chat", True, None)
    assert (rest.drop, rest.vendor_tools, rest.give_back) == (
        ("stream_options",),
        "drop",
        ("reasoning_content",),
    )
    assert (gpt.drop, gpt.vendor_tools, gpt.give_back) == ((), "refuse", config.SIGNATURES)
    assert parsed().agents == (Agent(name="weather", url="http://127.0.0.1:8088", timeout=5),)


def test_the_first_match_bounds_a_tenant() -> None:
    assert parsed().quota(Tenant("trial-7")) == Quota(match="trial-*", max_open=20, max_running=2)
    assert parsed().quota(Tenant("acme")) == Quota(match="*", max_open=500)
    assert parsed("").quota(Tenant("acme")) == UNBOUNDED
    assert (UNBOUNDED.max_open, UNBOUNDED.max_running) == (None, None)


def test_every_key_says_what_it_takes() -> None:
    tables = (Model, Agent, Quota, Price, Config)
    assert {key for table in tables for key in table.__struct_fields__} == set(config.KEYS)


def test_the_first_match_serves_a_model_and_echo_is_always_there() -> None:
    assert parsed().route({"model": "gpt-5"}).base_url == "https://models.example/v1"  # type: ignore[union-attr]
    assert parsed().route({"model": "llama"}).backend == "chat"  # type: ignore[union-attr]
    assert parsed().route({"model": "echo"}) == ECHO
    assert parsed("").route({"model": "echo"}) == ECHO


def test_globs_tell_upper_case_from_lower() -> None:
    with pytest.raises(ApiError):
        parsed(model("")).route({"model": "M"})


@pytest.mark.parametrize(
    ("found", "mend"),
    [
        (config.load("", {}), "There is only 'echo': set OPENAI_API_KEY, or name [[models]] in --config"),
        (parsed(model("")), "GET /v1/models lists what there is."),
        (parsed('[[agents]]\nname = "a"\nurl = "http://a"\n'), "GET /v1/models lists what there is."),
    ],
)
def test_whoever_asks_for_an_unknown_model_hears_how_to_mend_it(found: Config, mend: str) -> None:
    with pytest.raises(ApiError) as raised:
        found.route({"model": "gpt-99"})
    assert raised.value.message.startswith(f"The model 'gpt-99' does not exist. {mend}")


def test_an_agent_reference_needs_no_model() -> None:
    body = {"agent_reference": {"type": "agent_reference", "name": "weather"}, "model": "gpt-5"}
    assert parsed().route(body) == parsed().agents[0]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model": "nope"}, "model", "model_not_found"),
        ({"model": "nope\n"}, "model", "model_not_found"),
        ({}, "model", "invalid_value"),
        ({"model": 7}, "model", "invalid_value"),
        ({"model": ""}, "model", "invalid_value"),
        ({"model": "m" * 257}, "model", "invalid_value"),
        ({"agent_reference": {"name": "nope"}}, "agent_reference.name", "agent_not_found"),
        ({"agent_reference": {"name": ["weather"]}}, "agent_reference.name", "agent_not_found"),
        ({"agent_reference": {}}, "agent_reference.name", "agent_not_found"),
        ({"agent_reference": {"type": "other", "name": "weather"}}, "agent_reference", "invalid_value"),
        ({"agent_reference": "weather"}, "agent_reference", "invalid_value"),
    ],
)
def test_a_request_that_nobody_serves_is_refused_and_names_the_field(
    body: dict[str, object], param: str, code: str
) -> None:
    with pytest.raises(ApiError) as caught:
        parsed("[[agents]]\nname = 'weather'\nurl = 'http://127.0.0.1'").validate(body)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)


def test_validate_refuses_what_echo_cannot_run() -> None:
    with pytest.raises(ApiError) as caught:
        parsed().validate({"model": "echo", "metadata": {"echo.tokens": "many"}})
    assert caught.value.param == "metadata.echo.tokens"
    elsewhere = {"model": "gpt-5", "metadata": {"echo.tokens": "many"}}
    assert parsed().validate(elsewhere) == parsed().models[1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models = 3", ["models", "a list of [[models]] tables"]),
        ("[[model]]", ["model: unknown key", "models, agents"]),
        (model("timeot = 3"), ["models[0].timeot: unknown key", "timeout"]),
        (model('timeout = "3"'), ["models[0].timeout", "seconds"]),
        (model("timeout = 0"), ["models[0].timeout: 0", "above 0"]),
        (model("timeout = nan"), ["models[0].timeout: nan", "above 0"]),
        (model("max_concurrency = 0"), ["models[0].max_concurrency: 0", "1 or more"]),
        (model("max_concurrency = 1.5"), ["models[0].max_concurrency", "1 or more"]),
        (model('backend = "magic"'), ["models[0].backend", "magic", '"chat"']),
        (model('extensions = "drop"'), ["models[0].extensions", '"pass"']),
        (model('backend = "chat"\nresumable = true'), ["models[0].resumable"]),
        (model('drop = "stream_options"'), ["models[0].drop", 'such as ["stream_options"]']),
        (model('drop = ["model"]'), ["models[0].drop: 'model' cannot be left out", "a list of fields"]),
        (model("drop = ['']"), ["models[0].drop: ''"]),
        (model('resumable = true\ndrop = ["store"]'), ["models[0].drop: 'store' cannot be left out"]),
        (model('vendor_tools = "drop"'), ["models[0].vendor_tools", 'backend = "chat"']),
        (model("give_back = []"), ["models[0].give_back", 'backend = "chat"']),
        (model('backend = "chat"\nvendor_tools = "run"'), ["models[0].vendor_tools", '"refuse" or "drop"']),
        (
            model('backend = "chat"\ngive_back = ["role"]'),
            ["models[0].give_back", "'role'", "a list of fields"],
        ),
        ('[[agents]]\nname = "a"\nurl = "http://a"\ndrop = ["input"]', ["agents[0].drop: 'input'"]),
        (model('backend = "scripted"'), ["models[0].backend", "remove base_url"]),
        (model('api_key_env = "sk-12345"'), ["models[0].api_key_env", "environment variable"]),
        (model('headers = { "a b" = "c" }'), ["models[0].headers", "'a b'"]),
        (model('headers = { a = "c\\nd" }'), ["models[0].headers", "'a'"]),
        (model("headers = { a = 1 }"), ["models[0].headers", "a table of header names"]),
        (model('headers = { Host = "x" }'), ["models[0].headers: Host", "remove it"]),
        ('[[models]]\nbase_url = "http://a"', ["models[0]", "match"]),
        ('[[models]]\nmatch = "m"', ["models[0].base_url", "http(s) URL"]),
        ('[[models]]\nmatch = "m"\nbase_url = "ftp://a"', ["models[0].base_url", "http(s) URL"]),
        ('[[models]]\nmatch = "m"\nbase_url = "http://[a"', ["models[0].base_url", "not a URL"]),
        ('[[models]]\nmatch = "m"\nbase_url = "http://a:b/"', ["models[0].base_url", "not a URL"]),
        ('[[models]]\nmatch = "echo"\nbackend = "scripted"', ["models[0].match", "built in"]),
        ('[[agents]]\nname = ""\nurl = "http://a"', ["agents[0].name"]),
        ('[[agents]]\nname = "a"\nurl = "http://a"\n' * 2, ["agents[1].name: 'a'", "name of its own"]),
        ('[[agents]]\nname = "a"\nurl = "a"', ["agents[0].url", "http(s) URL"]),
        (
            '[[agents]]\nname = "a"\nurl = "http://a"\nmatch = "*"',
            ["agents[0].match: unknown key", "name, url"],
        ),
        ('[[tenants]]\nmatch = ""', ["tenants[0].match", "a glob over"]),
        ('[[tenants]]\nmatch = "*"\nmax_open = 0', ["tenants[0].max_open: 0", "1 or more"]),
        ('[[tenants]]\nmatch = "*"\nmax_running = 1.5', ["tenants[0].max_running", "1 or more"]),
        (
            '[[tenants]]\nname = "acme"\nmatch = "acme"',
            ["tenants[0].name: unknown key", "match, max_open, max_running"],
        ),
        ("models = 1 2", ["not TOML", "line 1"]),
    ],
)
def test_a_bad_key_or_value_names_itself_and_says_how_to_mend_it(text: str, says: list[str]) -> None:
    for part in says:
        assert part in refusal(text)


@pytest.mark.parametrize(
    ("text", "place", "example"),
    [
        ('[[models]]\nbackend = "chat"', "models[0].match: missing; a [[models]]", 'match = "gpt-*"'),
        (
            '[[models]]\nmatch = "m"',
            "models[0].base_url: missing; a [[models]]",
            'base_url = "https://models.example/v1"',
        ),
        ('[[agents]]\nurl = "http://a"', "agents[0].name: missing; an [[agents]]", 'name = "weather"'),
        (
            '[[agents]]\nname = "a"\nurl = "http://a"\n[[agents]]\nname = "b"',
            "agents[1].url: missing; an [[agents]]",
            'url = "http://127.0.0.1:8088"',
        ),
        ("[[tenants]]\nmax_open = 1", "tenants[0].match: missing; a [[tenants]]", 'match = "gpt-*"'),
    ],
)
def test_a_key_that_is_missing_says_where_what_it_takes_and_how_it_may_look(
    text: str, place: str, example: str
) -> None:
    said = refusal(text)
    assert said.startswith(f"rejoinder.toml: {place} table needs it, a string: ")
    assert said.endswith(f"; such as {example}")


def test_secrets_show_neither_in_reprs_nor_in_errors() -> None:
    assert "hunter2" not in repr(parsed())
    assert "MODELS_KEY" not in repr(parsed().models)
    assert "hunter2" not in refusal('[[models]]\nmatch = "m"\nbase_url = "http://me:hunter2@a/v1"')
    assert "hunter2" not in refusal(model('headers = { authorization = "hunter2\\n" }'))


def test_a_file_that_cannot_be_read_names_itself(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read .*missing\.toml: No such file"):
        config.load(f"{tmp_path}/missing.toml", {})


def test_a_file_is_loaded_and_the_environment_adds_nothing_to_it(tmp_path: Path) -> None:
    path = tmp_path / "rejoinder.toml"
    path.write_text(FILE)
    assert config.load(str(path), {"OPENAI_API_KEY": "sk"}) == parsed()


def test_without_a_file_echo_is_all_there_is() -> None:
    assert config.load("", {}).models == (ECHO,)


def test_without_a_file_an_openai_key_brings_all_other_models() -> None:
    loaded = config.load("", {"OPENAI_API_KEY": "sk-secret"})
    assert loaded.route({"model": "echo"}) == ECHO
    assert loaded.route({"model": "gpt-5"}) == Model(
        match="*", base_url="https://api.openai.com/v1", api_key_env="OPENAI_API_KEY"
    )
    elsewhere = config.load("", {"OPENAI_API_KEY": "sk", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"})
    assert elsewhere.models[1].base_url == "http://127.0.0.1:9/v1"
    assert "sk-secret" not in repr(loaded)


def test_a_bad_openai_base_url_stops_the_start() -> None:
    with pytest.raises(SettingsError, match="OPENAI_BASE_URL: missing, or not"):
        config.load("", {"OPENAI_API_KEY": "sk", "OPENAI_BASE_URL": "nowhere"})


@pytest.mark.parametrize("url", ["http://x y/v1", "http://x\t/v1", "http://ä.example"])
def test_a_url_is_one_word_of_ascii(url: str) -> None:
    text = f'[[models]]\nmatch = "m"\nbase_url = {json.dumps(url)}\n'
    with pytest.raises(SettingsError, match="base_url"):
        config.parse(text, "rejoinder.toml")


def test_a_key_is_sent_in_one_way() -> None:
    model = '[[models]]\nmatch = "m"\nbase_url = "http://x"\napi_key_env = "KEY"\n'
    with pytest.raises(SettingsError, match="api_key_env"):
        config.parse(f'{model}headers = {{ Authorization = "Bearer x" }}\n', "rejoinder.toml")
