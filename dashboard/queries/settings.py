"""What the settings page shows: options with their sources, versions, what history costs and will lose."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from django.conf import settings
from django.db import DatabaseError

from dashboard import permissions, process
from dashboard.models import WebProcess
from dashboard.options import OPTIONS
from dashboard.process import siblings
from dashboard.queries.shared import reading
from monitor.models import Threshold
from monitor.redact import DEFAULT
from monitor.store import sizes
from monitor.store.pruning import Retention

HIDDEN = "set, not shown"
SHARED = 60.0  # seconds that readers share the sizes: counting millions of rows takes a while
PACKAGES = ("umbel", "django", "channels", "daphne", "celery", "kombu", "redis", "msgspec")
# Options by what they are about, in the order of the page; the rest comes last.
GROUPS = {
    "What is watched": (
        *("broker", "result-backend", "key-prefix", "event-exchange", "transport-options", "broker-ssl"),
        *("control-exchange", "result-key-prefix"),
    ),
    "History": (
        *("database", "data", "retention-days", "retention-failures-days", "retention-rows"),
        "redact",
    ),
}


@dataclass(frozen=True)
class Shown:
    """An option as it is set. ``value`` is never a secret."""

    flag: str
    variable: str
    value: str
    source: str  # command line, environment, file or default
    help: str


def options() -> list[tuple[str, list[Shown]]]:
    """Every option, by group."""
    given: dict[str, tuple[str, str]] = settings.UMBEL_GIVEN
    grouped: dict[str, list[Shown]] = {group: [] for group in (*GROUPS, "Pages and people")}
    for option in OPTIONS:
        value, source = given.get(option.name, (option.default, "default"))
        group = next((g for g, names in GROUPS.items() if option.name in names), "Pages and people")
        shown = Shown(
            option.flag, option.variable, _value(option.name, option.secret, value), source, option.help
        )
        grouped[group].append(shown)
    open_api = Shown(
        "",
        "FLOWER_UNAUTHENTICATED_API",
        "yes" if settings.UMBEL_OPEN_API else "no",
        "environment" if settings.UMBEL_OPEN_API else "default",
        "Opens /api and /metrics to programs on this machine without a password, as Flower does; "
        "never to web pages.",
    )
    grouped["Pages and people"].append(open_api)
    return [(group, shown) for group, shown in grouped.items() if shown]


def _value(name: str, secret: bool, value: str) -> str:
    if name == "data":
        return str(settings.DATA)
    if not value:
        return ""
    if not secret:
        return value
    # A URL without its user part says which server it is; nothing else of a secret is shown.
    return DEFAULT.url(value) if "://" in value and name != "secret-key" else HIDDEN


@dataclass(frozen=True)
class Webs:
    """The processes that serve pages; ``keys`` is how many different secret keys they sign with."""

    rows: list[tuple[WebProcess, bool]]  # with whether its key is that of this process
    keys: int


def webs() -> Webs | None:
    """None where one process is all there is."""
    if process.is_alone():
        return None
    own = siblings.fingerprint()
    try:
        alive = siblings.alive()
    except DatabaseError:
        return None
    return Webs([(one, one.key == own) for one in alive], len({one.key for one in alive}))


def commands() -> list[tuple[str, str, str]]:
    """Each command with the role it needs, and whether it wants a reason."""
    return [
        (name, permissions.needed(name), permissions.reason_for(name))
        for name in sorted(permissions.COMMANDS)
    ]


def has_rule() -> bool:
    """Whether a rule of the site's own is asked as well."""
    return bool(settings.UMBEL_PERMISSION_RULE)


def thresholds() -> list[Threshold]:
    """Task names for which people have set when a run is slow or stuck, the last first."""
    return list(Threshold.objects.order_by("-at")[:200])


def versions() -> list[tuple[str, str]]:
    """What runs here."""
    found = [("Python", platform.python_version())]
    for package in PACKAGES:
        try:
            found.append((package.capitalize(), version(package)))
        except PackageNotFoundError:
            continue
    return found


def storage(now: float | None = None) -> sizes.Sizes | None:
    """Tables and what retention will remove; None while the database cannot say."""
    now = time.time() if now is None else now
    return reading("sizes", SHARED, lambda: _sizes(now))


def _sizes(now: float) -> sizes.Sizes | None:
    kept = Retention(
        days=settings.UMBEL_RETENTION_DAYS,
        rows=settings.UMBEL_RETENTION_ROWS,
        failures_days=settings.UMBEL_RETENTION_FAILURES_DAYS,
    )
    try:
        return sizes.sizes(kept, now)
    except DatabaseError:
        return None
