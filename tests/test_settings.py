"""The settings: each option from its variable, secrets from files too, mistakes answered in sentences."""

from __future__ import annotations

import os
import runpy
import stat
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from dashboard import settings as module
from dashboard.options import OPTIONS, table
from tests.conftest import ROOT

KEY = "k3y-of-this-test-0f-enough-characters-Qx7"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``load(UMBEL_PORT="9000")`` reads the settings anew in that environment."""
    for name in [name for name in os.environ if name.startswith("UMBEL_") or name == "XDG_DATA_HOME"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UMBEL_DATA", str(tmp_path / "data"))

    def read(**variables: str) -> dict[str, Any]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return runpy.run_path(str(module.__file__))

    return read


def test_with_nothing_set_it_is_safe_and_local(load: Any, tmp_path: Path) -> None:
    settings = load()
    assert settings["DEBUG"] is False
    assert settings["UMBEL_ADDRESS"] == "127.0.0.1"
    assert settings["UMBEL_PORT"] == 8000
    assert settings["UMBEL_BROKER"] == ""
    assert set(settings["ALLOWED_HOSTS"]) == {"localhost", "127.0.0.1", "[::1]"}
    assert settings["DATABASES"]["default"]["NAME"] == str(tmp_path / "data" / "umbel.sqlite3")
    assert settings["SESSION_COOKIE_HTTPONLY"] and settings["CSRF_COOKIE_HTTPONLY"]
    assert settings["SESSION_COOKIE_SAMESITE"] == "Lax"


def test_the_data_folder_and_the_key_are_for_their_owner_alone(load: Any, tmp_path: Path) -> None:
    key = load()["SECRET_KEY"]
    path = tmp_path / "data" / "secret_key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.read_text() == key
    assert len(key) >= 50
    assert [found.name for found in path.parent.iterdir()] == ["secret_key"]
    assert load()["SECRET_KEY"] == key


def test_a_key_that_others_could_read_is_closed_again(load: Any, tmp_path: Path) -> None:
    load()
    path = tmp_path / "data" / "secret_key"
    path.chmod(0o644)
    load()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("key", ["brief", "placeholder" + "x1y2z3w4" * 5, "a" * 60, "django-insecure-" + KEY])
def test_a_short_or_known_key_is_refused(load: Any, key: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="UMBEL_SECRET_KEY") as error:
        load(UMBEL_SECRET_KEY=key)
    assert key not in str(error.value)


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.secret], ids=lambda o: o.name)
def test_secrets_are_read_from_files(load: Any, tmp_path: Path, option: Any) -> None:
    values = {
        "secret-key": KEY,
        "transport-options": '{"master_name": "m"}',
        "broker-ssl": "true",
        "database": "postgres://u:p@db/umbel",
    }
    value = values.get(option.name, "redis://:p@host:6379/3")
    file = tmp_path / "secret"
    file.write_text(value + "\n")
    settings = load(**{f"{option.variable}_FILE": str(file)})
    found = {
        "secret-key": settings["SECRET_KEY"] == KEY,
        "transport-options": settings["UMBEL_TRANSPORT_OPTIONS"] == {"master_name": "m"},
        "broker-ssl": settings["UMBEL_BROKER_SSL"] is True,
        "database": settings["DATABASES"]["default"].get("HOST") == "db",
        "channels": value in str(settings["CHANNEL_LAYERS"]["default"].get("CONFIG")),
    }
    assert found.get(option.name, settings.get(option.variable) == value)


def test_a_secret_given_twice_is_refused(load: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="are both set"):
        load(UMBEL_BROKER="redis://a", UMBEL_BROKER_FILE="/nowhere")


def test_a_secret_file_that_is_not_there_is_named(load: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="'/nowhere/broker', which cannot be read"):
        load(UMBEL_BROKER_FILE="/nowhere/broker")


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("UMBEL_PORT", "80a", r"UMBEL_PORT \(--port\) is '80a': give a whole number from 0 to 65535"),
        ("UMBEL_PORT", "70000", "'70000'"),
        ("UMBEL_PORT", "-1", "'-1'"),
        ("UMBEL_READ_ONLY", "maybe", "give yes or no"),
        ("UMBEL_PREFIX", "a b", "give a path"),
        ("UMBEL_ORIGINS", "umbel.example", "https://umbel.example:8443"),
        ("UMBEL_TRUSTED_PROXIES", "10.0.0.0/8, proxy.example", "'proxy.example': give addresses or networks"),
        ("UMBEL_RETENTION_DAYS", "0", "from 1 to"),
        ("UMBEL_TRANSPORT_OPTIONS", "{", "give a JSON value"),
        ("UMBEL_TRANSPORT_OPTIONS", "[1]", "give a JSON object"),
        ("UMBEL_DATABASE", "nonsense", "give a URL such as postgres://"),
        ("UMBEL_BROKER", "host", "give a URL such as redis://"),
    ],
)
def test_a_bad_value_is_answered_with_its_name_and_a_way_out(
    load: Any, variable: str, value: str, says: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=says):
        load(**{variable: value})


def test_a_bad_secret_is_not_repeated(load: Any) -> None:
    with pytest.raises(ImproperlyConfigured) as error:
        load(UMBEL_BROKER="hunter2-with-no-scheme")
    assert "hunter2" not in str(error.value)


def test_read_only_and_lists_and_prefix_are_read(load: Any) -> None:
    settings = load(
        UMBEL_READ_ONLY="yes",
        UMBEL_REDACT="iban, pin",
        UMBEL_PREFIX="umbel/",
        UMBEL_HOSTS="umbel.example",
        UMBEL_ORIGINS="https://umbel.example/",
        UMBEL_SECURE="on",
    )
    assert settings["UMBEL_READ_ONLY"] is True
    assert settings["UMBEL_REDACT"] == ["iban", "pin"]
    assert settings["FORCE_SCRIPT_NAME"] == "/umbel"
    assert settings["SESSION_COOKIE_PATH"] == "/umbel"
    assert "umbel.example" in settings["ALLOWED_HOSTS"]
    assert settings["CSRF_TRUSTED_ORIGINS"] == ["https://umbel.example"]
    assert settings["SESSION_COOKIE_SECURE"] and settings["CSRF_COOKIE_SECURE"]


def test_listening_everywhere_does_not_allow_every_host(load: Any) -> None:
    assert "*" not in load(UMBEL_ADDRESS="0.0.0.0")["ALLOWED_HOSTS"]


def test_nothing_but_the_settings_reads_the_environment() -> None:
    readers = [
        str(path.relative_to(ROOT))
        for folder in ("monitor", "dashboard")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "settings.py"
        and any(word in path.read_text() for word in ("os.environ[", "os.environ.get", "getenv(", "env.str("))
    ]
    assert readers == []


def test_the_readme_shows_every_option_as_it_is() -> None:
    assert table() in (ROOT / "README.md").read_text(), "Put the output of python -m dashboard.options there."
