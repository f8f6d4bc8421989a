"""What the API takes in its query strings, read as Flower reads it, and its mistakes in Flower's words."""

from __future__ import annotations

import calendar
import time
from html import escape

from django.http import HttpRequest

TRUE = frozenset({"y", "yes", "t", "true", "on", "1"})
FALSE = frozenset({"n", "no", "f", "false", "off", "0"})
SHOWN = 200  # characters of a wrong value that are said back
MOST = 2**31 - 1


class Wrong(Exception):
    """A request that cannot be answered: the status, and why."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


def string(request: HttpRequest, name: str) -> str | None:
    """The last value given, without spaces around it; None when there is none."""
    value = request.GET.get(name)
    return None if value is None else value.strip().replace("\0", "�")


def chosen(request: HttpRequest, name: str) -> str:
    """A filter: "" when it is not set; Flower's word for that is All."""
    value = string(request, name)
    return "" if value is None or value == "All" else value


def boolean(request: HttpRequest, name: str) -> bool:
    value = string(request, name)
    if value is None:
        return False
    if value.lower() in TRUE:
        return True
    if value.lower() in FALSE:
        return False
    raise _of_type(value, "bool")


def integer(request: HttpRequest, name: str) -> int | None:
    """Cut to what a database can count to."""
    value = string(request, name)
    if value is None:
        return None
    try:
        return max(-MOST, min(int(value[:20]), MOST))
    except ValueError:
        raise _of_type(value, "int") from None


def moment(request: HttpRequest, name: str) -> float | None:
    """``2026-11-22 21:40`` in UTC, as Unix seconds."""
    value = string(request, name)
    if not value:
        return None
    try:
        return float(calendar.timegm(time.strptime(value, "%Y-%m-%d %H:%M")))
    except (ValueError, OverflowError):
        raise Wrong(
            400, "Invalid received_start or received_end, expected format 'YYYY-MM-DD HH:MM'"
        ) from None


def shown(value: str) -> str:
    """A value as it is said back: short, and harmless even where someone takes it for HTML."""
    return escape(value[:SHOWN])


def _of_type(value: str, kind: str) -> Wrong:
    return Wrong(400, f"Invalid argument '{shown(value)}' of type '{kind}'")
