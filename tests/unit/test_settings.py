"""Settings: what the environment and flags become, and what a bad one says."""

import re
from pathlib import Path

import msgspec
import pytest

from schemas.errors import SettingsError
from services.settings import SETTINGS, Setting, Settings, environment, load, require_secret

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
SERVICES = PAGE.parents[1] / "services"


def test_nothing_set_gives_the_defaults() -> None:
    assert load({}) == Settings()


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_an_empty_value_is_the_default(setting: Setting) -> None:
    assert load({setting.variable: ""}) == Settings()
    assert load({}, {setting.name: ""}) == Settings()


def test_an_empty_flag_puts_the_default_back() -> None:
    assert load({"REJOINDER_PORT": "81"}, {"port": ""}) == Settings()


def test_a_flag_wins_over_the_variable() -> None:
    assert load({"REJOINDER_PORT": "81"}, {"port": "82"}).port == 82


def test_values_are_read_by_their_type() -> None:
    chosen = load(
        {
            "REJOINDER_CORS_ORIGINS": "https://a.example, http://b.example:81",
            "REJOINDER_STALL_S": "2.5",
            "REJOINDER_KAFKA": "a:1,[::1]:2",
        }
    )
    assert chosen.cors_origins == ("https://a.example", "http://b.example:81")
    assert chosen.stall_s == 2.5
    assert chosen.kafka == "a:1,[::1]:2"


@pytest.mark.parametrize(
    "variable, value",
    [
        ("REJOINDER_PORT", "http"),
        ("REJOINDER_PORT", "65536"),
        ("REJOINDER_PORT", "-1"),
        ("REJOINDER_STALL_S", "0"),
        ("REJOINDER_STALL_S", "nan"),
        ("REJOINDER_STALL_S", "inf"),
        ("REJOINDER_PARTITIONS", "0"),
        ("REJOINDER_LOG_LEVEL", "loud"),
        ("REJOINDER_KAFKA", "localhost"),
        ("REJOINDER_KAFKA", "a:1;b:2"),
        ("REJOINDER_TOPIC_PREFIX", "a/b"),
        ("REJOINDER_TENANT_HEADER", "x tenant"),
        ("REJOINDER_HOST", "a b"),
        ("REJOINDER_REPLAY_URL", "ftp://a"),
        ("REJOINDER_REPLAY_URL", "http://user:secret@a"),
        ("REJOINDER_CORS_ORIGINS", "*"),
        ("REJOINDER_CORS_ORIGINS", "https://a.example/"),
    ],
)
def test_a_bad_value_is_named_with_what_would_fit(variable: str, value: str) -> None:
    takes = next(setting.takes for setting in SETTINGS.values() if setting.variable == variable)
    with pytest.raises(SettingsError) as caught:
        load({variable: value})
    assert str(caught.value) == f"{variable}: {value!r} does not fit; it takes {takes}"


@pytest.mark.parametrize("value", ["sesame-open-sesame", "acme=short", "a b=sesame-open-sesame", "acme="])
def test_a_bad_api_key_is_not_shown(value: str) -> None:
    with pytest.raises(SettingsError, match="REJOINDER_API_KEYS: the value does not fit") as caught:
        load({"REJOINDER_API_KEYS": value})
    assert value not in str(caught.value)


def test_api_keys_are_not_shown_in_logs() -> None:
    chosen = load({"REJOINDER_API_KEYS": "acme=sesame-open-sesame, b=sesame=open=sesame"})
    assert chosen.api_keys == ("acme=sesame-open-sesame", "b=sesame=open=sesame")
    assert "sesame" not in repr(chosen)


def test_a_setting_is_taken_by_its_earlier_name_unless_it_has_the_new_one() -> None:
    assert load({"REJOINDER_WINDOW_MS": "7"}).acceptance_ms == 7
    assert load({"REJOINDER_WINDOW_MS": "7", "REJOINDER_ACCEPTANCE_MS": "8"}).acceptance_ms == 8
    with pytest.raises(SettingsError, match="REJOINDER_WINDOW_MS: 'soon' does not fit"):
        load({"REJOINDER_WINDOW_MS": "soon"})


def test_an_admins_key_is_no_tenants_key() -> None:
    with pytest.raises(SettingsError, match="REJOINDER_ADMIN_KEYS") as caught:
        load({"REJOINDER_API_KEYS": "acme=sesame-open-sesame", "REJOINDER_ADMIN_KEYS": "sesame-open-sesame"})
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("value", ["short", "sesame open sesame", "s" * 257])
def test_a_bad_internal_secret_is_not_shown(value: str) -> None:
    with pytest.raises(SettingsError, match="REJOINDER_INTERNAL_SECRET: the value does not fit") as caught:
        load({"REJOINDER_INTERNAL_SECRET": value})
    assert value not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REJOINDER_INTERNAL_HOST", "0.0.0.0"),
        ("REJOINDER_INTERNAL_HOST", "::"),
        ("REJOINDER_REPLAY_URL", "http://replay:8001"),
        ("REJOINDER_INGEST_URL", "http://10.0.0.1:8001"),
        ("REJOINDER_ANALYTICS_URL", "http://10.0.0.1:8001"),
        ("REJOINDER_WEBHOOKS_URL", "http://10.0.0.1:8001"),
    ],
)
def test_services_that_ask_each_other_over_a_network_need_a_secret(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^REJOINDER_INTERNAL_SECRET: needed, since {variable} "):
        require_secret(load({variable: value}))
    require_secret(load({variable: value, "REJOINDER_INTERNAL_SECRET": "sesame-open-sesame"}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "[::1]"])
def test_on_loopback_services_need_no_secret(host: str) -> None:
    require_secret(
        load({"REJOINDER_REPLAY_URL": f"http://{host}:1", "REJOINDER_INGEST_URL": f"http://{host}:2"})
    )


def test_a_bad_flag_is_named_as_the_flag() -> None:
    with pytest.raises(SettingsError, match=r"^--keepalive-s: 'soon' does not fit; it takes seconds"):
        load({}, {"keepalive_s": "soon"})


def test_a_misspelt_variable_is_refused_and_a_foreign_one_is_not() -> None:
    with pytest.raises(SettingsError, match="REJOINDER_KAFKAS: no such setting; is REJOINDER_KAFKA meant"):
        load({"REJOINDER_KAFKAS": "a:1"})
    with pytest.raises(SettingsError, match="is REJOINDER_API_KEYS meant"):  # or the API would ask for no key
        load({"REJOINDER_API_KEY": "acme=sesame-open-sesame"})
    assert load({"REJOINDER_PORT_8000_TCP_ADDR": "10.0.0.1", "REJOINDER_TEST_KAFKA": "a:1"}) == Settings()


def test_the_variables_that_are_no_settings_are_on_the_page_and_stop_nothing() -> None:
    code = "".join(path.read_text() for path in SERVICES.rglob("*.py"))
    others = set(re.findall(r"REJOINDER_[A-Z_]+[A-Z]", code)) - {each.variable for each in SETTINGS.values()}
    assert others == {"REJOINDER_WATCH_API_KEY", "REJOINDER_CACHE"}
    assert all(f"`{variable}`" in PAGE.read_text() for variable in others)
    assert load(dict.fromkeys(others, "x")) == Settings()


def test_a_body_must_fit_into_a_record() -> None:
    with pytest.raises(SettingsError, match=r"REJOINDER_MAX_BODY_BYTES: .* a request must fit into a record"):
        load({"REJOINDER_MAX_RECORD_BYTES": "2048", "REJOINDER_MAX_BODY_BYTES": "2049"})


@pytest.mark.parametrize(
    ("record", "body"), [(1 << 20, 7 << 17), (2048, 1792), (12 << 20, 8 << 20), (64 << 20, 8 << 20)]
)
def test_the_bound_of_bodies_follows_that_of_records_unless_it_is_set(record: int, body: int) -> None:
    assert load({"REJOINDER_MAX_RECORD_BYTES": str(record)}).max_body_bytes == body
    both = {"REJOINDER_MAX_RECORD_BYTES": str(record), "REJOINDER_MAX_BODY_BYTES": "1024"}
    assert load(both).max_body_bytes == 1024


@pytest.mark.parametrize(
    "given", [{}, {"REJOINDER_KAFKA_USERNAME": "me"}, {"REJOINDER_KAFKA_PASSWORD": "hush"}]
)
def test_sasl_needs_a_user_and_a_password(given: dict[str, str]) -> None:
    with pytest.raises(
        SettingsError, match=r"REJOINDER_KAFKA_SECURITY: SASL_SSL needs .*USERNAME and .*PASSWORD"
    ):
        load({"REJOINDER_KAFKA_SECURITY": "SASL_SSL", **given})


OAUTH = {"REJOINDER_KAFKA_SECURITY": "SASL_SSL", "REJOINDER_KAFKA_SASL_MECHANISM": "OAUTHBEARER"}
FILE = {"REJOINDER_KAFKA_OAUTH_TOKEN_FILE": "/token"}
URL = {"REJOINDER_KAFKA_OAUTH_URL": "https://id.example/token"}
CLIENT = {"REJOINDER_KAFKA_OAUTH_CLIENT_ID": "me", "REJOINDER_KAFKA_OAUTH_CLIENT_SECRET": "hush"}


@pytest.mark.parametrize("given", [{}, URL, CLIENT, FILE | URL, FILE | URL | CLIENT, FILE | CLIENT])
def test_a_token_comes_from_one_place(given: dict[str, str]) -> None:
    with pytest.raises(
        SettingsError, match=r"_SASL_MECHANISM: OAUTHBEARER needs either .*TOKEN_FILE, or .*URL"
    ):
        load(OAUTH | given)


@pytest.mark.parametrize(
    "given", [FILE, URL | CLIENT, URL | CLIENT | {"REJOINDER_KAFKA_OAUTH_SCOPE": "kafka"}]
)
def test_a_token_needs_no_user(given: dict[str, str]) -> None:
    assert load(OAUTH | given).kafka_username == ""


@pytest.mark.parametrize("variable", ["REJOINDER_KAFKA_PASSWORD", "REJOINDER_KAFKA_OAUTH_CLIENT_SECRET"])
def test_a_secret_is_not_shown(variable: str) -> None:
    assert "hush" not in repr(load({variable: "hush"}))


def test_a_child_reads_what_its_parent_handed_on() -> None:
    given = Settings(port=81, cors_origins=("https://a.example", "https://b.example"), stall_s=1.5)
    assert load(environment(msgspec.structs.asdict(given))) == given


def test_every_setting_is_used() -> None:
    paths = (path for path in SERVICES.rglob("*.py") if path.name != "settings.py")
    code = "".join(path.read_text() for path in paths)
    unused = [name for name in SETTINGS if not re.search(rf"settings\.{name}\b", code)]
    assert unused == []


def test_the_page_lists_every_setting_and_no_other() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{setting.variable}` | {f'`{setting.default}`' if setting.default else ''} | {setting.takes} |"
        for setting in SETTINGS.values()
    ]
