"""Settings: the only reader of the environment. ``options`` holds the table of what is read."""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url
from django.core.exceptions import ImproperlyConfigured
from environs import Env, EnvError

from dashboard.options import BY_NAME, OPTIONS, Option

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SHORTEST_KEY = 32
KNOWN_KEYS = ("django-insecure", "placeholder", "changeme", "change-me", "change_me", "secret", "0123456789")
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

env = Env()


def _read(name: str) -> str:
    """The text of an option: its variable, else the file it names, else its default."""
    option = BY_NAME[name]
    try:
        value = env.str(option.variable, "").strip()
        path = env.str(f"{option.variable}_FILE", "").strip() if option.secret else ""
    except EnvError as error:
        raise ImproperlyConfigured(f"{option.variable}: {error}") from error
    if value and path:
        raise ImproperlyConfigured(f"{option.variable} and {option.variable}_FILE are both set: unset one.")
    if not path:
        return value or option.default
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ImproperlyConfigured(
            f"{option.variable}_FILE is {path!r}, which cannot be read ({error}): "
            "name a text file that the user who runs Umbel may read."
        ) from error


def _source(option: Option) -> str:
    """Where its value came from: command line, environment, file or default."""
    if option.secret and env.str(f"{option.variable}_FILE", "").strip():
        return "file"
    if not env.str(option.variable, "").strip():
        return "default"
    # The command line hands its options on through the environment, and says which.
    return "command line" if option.name in env.list("UMBEL_ARGUMENTS", []) else "environment"


def _integer(name: str, least: int, most: int) -> int:
    text = _read(name)
    if not text.isascii() or not text.isdigit() or not least <= int(text[:18]) <= most:
        raise _wrong(BY_NAME[name], text, f"give a whole number from {least} to {most}")
    return int(text)


def _switch(name: str) -> bool:
    text = _read(name).lower()
    if text in ("yes", "true", "on", "1"):
        return True
    if text in ("no", "false", "off", "0", ""):
        return False
    raise _wrong(BY_NAME[name], text, "give yes or no")


def _list(name: str) -> list[str]:
    return [part.strip() for part in _read(name).split(",") if part.strip()]


def _pairs(name: str) -> dict[str, str]:
    """name=value, name=value. Whether there are such names and values is the system check's to say."""
    found: dict[str, str] = {}
    for part in _list(name):
        key, equals, value = (text.strip() for text in part.partition("="))
        if not (key and equals and value):
            raise _wrong(BY_NAME[name], part, "give pairs such as purge=admin,shutdown=admin")
        if found.setdefault(key, value) != value:
            raise _wrong(BY_NAME[name], part, f"{key} is there twice; say once what it is")
    return found


def _json(name: str) -> Any:
    text = _read(name)
    try:
        return json.loads(text) if text else None
    except ValueError:
        raise _wrong(BY_NAME[name], text, "give a JSON value") from None


def _url(name: str, example: str) -> str:
    text = _read(name)
    try:
        bad = bool(text) and not urlsplit(text).scheme
    except ValueError:
        bad = True
    if bad:
        raise _wrong(BY_NAME[name], text, f"give a URL such as {example}")
    return text


def _wrong(option: Option, value: str, way_out: str) -> ImproperlyConfigured:
    shown = f"{len(value)} characters that are not shown" if option.secret else repr(value[:80])
    return ImproperlyConfigured(f"{option.variable} ({option.flag}) is {shown}: {way_out}.")


def _data_folder() -> Path:
    home = env.str("XDG_DATA_HOME", "").strip()
    place = _read("data") or str(Path(home or "~/.local/share") / "umbel")
    folder = Path(place).expanduser().absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ImproperlyConfigured(
            f"The data folder {folder} cannot be made ({error.strerror}): "
            "give another with UMBEL_DATA or --data."
        ) from error
    return folder


def _secret_key(folder: Path) -> str:
    """The key given, else the one kept in the data folder, made there at the first start."""
    key = _read("secret-key")
    if key:
        if len(key) < SHORTEST_KEY or len(set(key)) < 12 or key.lower().startswith(KNOWN_KEYS):
            raise ImproperlyConfigured(
                f"UMBEL_SECRET_KEY has {len(key)} characters and is too short or too well known: give "
                f"at least {SHORTEST_KEY} random ones, or unset it: Umbel then makes one in its data folder."
            )
        return key
    path = folder / "secret_key"
    draft = folder / f".secret_key.{secrets.token_hex(6)}"
    try:
        if not path.exists():
            draft.touch(mode=0o600, exist_ok=False)
            draft.write_text(secrets.token_urlsafe(48))
            try:
                os.link(draft, path)  # the first of several processes wins, with a whole file
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        path.chmod(0o600)
        key = path.read_text().strip()
    except OSError as error:
        raise ImproperlyConfigured(
            f"The secret key {path} cannot be kept ({error.strerror}): make the folder writable, "
            "give another with UMBEL_DATA, or set UMBEL_SECRET_KEY."
        ) from error
    if len(key) < SHORTEST_KEY:
        raise ImproperlyConfigured(
            f"The secret key in {path} is too short: delete the file, and Umbel makes one."
        )
    return key


def _database(folder: Path) -> dict[str, Any]:
    url = _url("database", "postgres://user:password@host/name")
    try:
        found = dj_database_url.parse(url) if url else None
    except (dj_database_url.ParseError, dj_database_url.UnknownSchemeError, ValueError):
        found = None
        raise _wrong(
            BY_NAME["database"], url, "give a URL such as postgres://user:password@host/name"
        ) from None
    database: dict[str, Any] = dict(
        found or {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / "umbel.sqlite3")}
    )
    options: dict[str, Any] = _SQLITE if database["ENGINE"].endswith("sqlite3") else {}
    if database["ENGINE"].endswith("postgresql"):
        options = _POSTGRESQL
    database["OPTIONS"] = {**options, **database.get("OPTIONS", {})}
    return database


# How SQLite is opened is said in monitor.apps; seconds that a write waits for another's.
# Statements for many rows take 140 KiB each while they are kept prepared: not Python's 128 of them.
_SQLITE: dict[str, Any] = {"timeout": 5, "transaction_mode": "IMMEDIATE", "cached_statements": 48}
# A server that went away without a word is found within seconds.
_POSTGRESQL: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
}


def _channels(url: str) -> dict[str, Any]:
    """The channel layer: in this process, or pub/sub of a Redis, which leaves no key and is never full."""
    if not url:
        return {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    if urlsplit(url).scheme not in ("redis", "rediss", "unix"):
        raise _wrong(BY_NAME["channels"], url, "give a URL such as redis://host:6379/2")
    database = urlsplit(url).path.strip("/")
    host = {
        "address": url,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 5,  # seconds of silence before it is asked whether it is there
    }
    # Channels of pub/sub are one space for all databases of a Redis.
    prefix = f"umbel.{database if database.isdigit() else 0}."
    return {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [host], "prefix": prefix},
    }


def _hosts(address: str) -> list[str]:
    own = [socket.gethostname()] if address in ("0.0.0.0", "::") else [address]  # noqa: S104
    shown = [f"[{host}]" if ":" in host else host for host in own]
    return list(dict.fromkeys([*LOOPBACK, *shown, *_list("hosts")]))


def _origins() -> list[str]:
    origins = _list("origins")
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/"):
            raise _wrong(BY_NAME["origins"], origin, "give origins such as https://umbel.example:8443")
    return [origin.rstrip("/") for origin in origins]


def _networks(name: str) -> list[Network]:
    found = []
    for text in _list(name):
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            raise _wrong(BY_NAME[name], text, "give addresses or networks such as 10.0.0.0/8") from None
    return found


def _prefix() -> str:
    prefix = _read("prefix").strip("/")
    if any(not part.isascii() or not part.replace("-", "").isalnum() for part in prefix.split("/") if prefix):
        raise _wrong(BY_NAME["prefix"], prefix, "give a path of letters, digits and dashes, such as /umbel")
    return f"/{prefix}" if prefix else ""


def _folder(name: str) -> Path:
    """An installed wheel carries the folder inside this package, a checkout beside it."""
    return next((path for path in (HERE / name, ROOT / name) if path.is_dir()), ROOT / name)


def _open_api() -> bool:
    """Flower's variable, by Flower's name and words: who comes from there has it set already."""
    text = env.str("FLOWER_UNAUTHENTICATED_API", "").strip().lower()
    return text in ("y", "yes", "t", "true", "on", "1")


# Umbel's own

DATA = _data_folder()
UMBEL_BROKER = _url("broker", "redis://host:6379/0")
UMBEL_RESULT_BACKEND = _url("result-backend", "redis://host:6379/1")
UMBEL_ADDRESS = _read("address").strip("[]")
UMBEL_PORT = _integer("port", 0, 65535)
UMBEL_PREFIX = _prefix()
UMBEL_READ_ONLY = _switch("read-only")
UMBEL_BULK_MOST = _integer("bulk-most", 1, 50_000)  # a worker remembers no more revokes
UMBEL_BULK_RATE = _integer("bulk-rate", 1, 100_000)
UMBEL_BULK_HOLD = _integer("bulk-hold", 0, 30)
UMBEL_HOLD = _integer("hold", 0, 30)
UMBEL_PERMISSIONS = _pairs("permissions")
UMBEL_PERMISSION_RULE = _read("permission-rule")
UMBEL_REASONS = _pairs("reasons")
UMBEL_SECURE = _switch("secure")
UMBEL_TRUSTED_PROXIES = _networks("trusted-proxies")
UMBEL_REDACT = _list("redact")
UMBEL_OPEN_API = _open_api()
UMBEL_SESSION_IDLE = _integer("session-idle-hours", 0, 168) * 3600
UMBEL_RETENTION_DAYS = _integer("retention-days", 1, 36_500)
UMBEL_RETENTION_FAILURES_DAYS = _integer("retention-failures-days", 1, 36_500)
UMBEL_RETENTION_ROWS = _integer("retention-rows", 1_000, 10**12)
UMBEL_KEY_PREFIX = _read("key-prefix")
UMBEL_EVENT_EXCHANGE = _read("event-exchange")
UMBEL_CONTROL_EXCHANGE = _read("control-exchange")
UMBEL_RESULT_KEY_PREFIX = _read("result-key-prefix")
UMBEL_TRANSPORT_OPTIONS = _json("transport-options") or {}
UMBEL_BROKER_SSL = _json("broker-ssl")
# systemd's, for services of Type=notify.
NOTIFY_SOCKET = env.str("NOTIFY_SOCKET", "")
UMBEL_CHANNELS = _url("channels", "redis://host:6379/2")

# What the settings page shows: each option with its value, and where that came from.
UMBEL_GIVEN = {option.name: (_read(option.name), _source(option)) for option in OPTIONS}

if not isinstance(UMBEL_TRANSPORT_OPTIONS, dict):
    raise _wrong(BY_NAME["transport-options"], str(UMBEL_TRANSPORT_OPTIONS), "give a JSON object")

# Django

SECRET_KEY = _secret_key(DATA)
DEBUG = False
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.humanize",
    "channels",
    "monitor",
    "dashboard",
]
MIDDLEWARE = [
    "dashboard.middleware.headers",
    "dashboard.middleware.Sender",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "dashboard.middleware.Idle",
    "dashboard.middleware.OwnSite",
    "dashboard.middleware.DatabaseAway",
    "django_htmx.middleware.HtmxMiddleware",
]
ROOT_URLCONF = "dashboard.urls"
ASGI_APPLICATION = "dashboard.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [_folder("templates")],
        "APP_DIRS": False,
        "OPTIONS": {
            "loaders": [
                (
                    "django.template.loaders.cached.Loader",
                    ["django.template.loaders.filesystem.Loader"],
                )
            ],
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "dashboard.context_processors.frame",
            ],
        },
    }
]
DATABASES = {"default": _database(DATA)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CHANNEL_LAYERS: dict[str, dict[str, Any]] = {"default": _channels(UMBEL_CHANNELS)}
FORCE_SCRIPT_NAME = UMBEL_PREFIX or None
STATIC_URL = "static/"
STATICFILES_DIRS = [_folder("static")]
USE_TZ = True
TIME_ZONE = "UTC"
USE_I18N = False

# Safety

ALLOWED_HOSTS = _hosts(UMBEL_ADDRESS)
CSRF_TRUSTED_ORIGINS = _origins()
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = "overview"
SESSION_COOKIE_NAME = "umbel_session"
SESSION_COOKIE_AGE = 7 * 24 * 3600
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = UMBEL_SECURE
SESSION_COOKIE_PATH = UMBEL_PREFIX or "/"
CSRF_COOKIE_NAME = "umbel_csrf"
CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SECURE = UMBEL_SECURE
CSRF_COOKIE_PATH = UMBEL_PREFIX or "/"
CSRF_FAILURE_VIEW = "dashboard.views.errors.csrf_failed"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
SECURE_REFERRER_POLICY = "same-origin"
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if UMBEL_SECURE else 0
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if UMBEL_SECURE else None
X_FRAME_OPTIONS = "DENY"
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
DATA_UPLOAD_MAX_NUMBER_FIELDS = 2_000
DATA_UPLOAD_MAX_NUMBER_FILES = 0
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 10},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

# The log: one line a thing, to standard error; no request bodies, no e-mail to admins.

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": "dashboard.logs.Line",
            "format": "{asctime} {levelname:<8} {name}: {message}",
            "style": "{",
        }
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "django": {"handlers": [], "level": "WARNING", "propagate": True},
        "django.server": {"handlers": [], "level": "WARNING", "propagate": True},
        # Who signed in, and who changed which user.
        "dashboard": {"handlers": [], "level": "INFO", "propagate": True},
    },
}
