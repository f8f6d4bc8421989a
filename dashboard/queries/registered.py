"""Limits of a worker's tasks, as it listed them: "shop.add [time_limit=60.0 rate_limit=10/m]"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dashboard.queries.workers import WorkerView
from dashboard.templatetags.words import duration_text
from monitor import registered as told

MOST_NAMES = 500  # offered by name
MOST_ROWS = 40  # shown with their limits
LONGEST = 32  # characters of one value


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one task name. "" is no limit of its own; the times are in seconds, as text."""

    name: str
    rate: str = ""
    soft: str = ""
    hard: str = ""

    @property
    def any(self) -> bool:
        return bool(self.rate or self.soft or self.hard)


@dataclass(frozen=True, slots=True)
class Registered:
    """Every task name of a worker, those with a limit first; None of them when it has not said yet."""

    tasks: list[Limits]
    known: bool
    # What the pool holds for tasks without times of their own, in words; "" for none and for not known.
    soft: str = ""
    hard: str = ""

    @property
    def rows(self) -> list[Limits]:
        return self.tasks[:MOST_ROWS]

    @property
    def names(self) -> list[str]:
        return sorted(task.name for task in self.tasks[:MOST_NAMES])

    @property
    def more(self) -> int:
        return max(0, len(self.tasks) - MOST_ROWS)


def registered(view: WorkerView) -> Registered:
    """As the worker last answered inspect."""
    details = view.row.details if isinstance(view.row.details, dict) else {}
    listed = details.get("registered")
    if not isinstance(listed, list):
        return Registered([], known=False)
    found = {task.name: task for line in listed if (task := parsed(line)) is not None}
    tasks = sorted(found.values(), key=lambda task: (not task.any, task.name))
    soft, hard = _of_the_pool(details)
    return Registered(tasks, True, soft, hard)


def parsed(line: Any) -> Limits | None:
    """One entry of the list; None when it names no task. What cannot be read is no limit."""
    found = told.parsed(line)
    if found is None:
        return None
    name, attributes = found
    return Limits(
        name,
        _rate(attributes.get("rate_limit", "")),
        _seconds(attributes.get("soft_time_limit", "")),
        _seconds(attributes.get("time_limit", "")),
    )


def _rate(text: str) -> str:
    text = text.strip()
    return "" if text in _NONE else text[:LONGEST]


def _seconds(text: str) -> str:
    text = text.strip()
    if text in _NONE:
        return ""
    # 30.0 is how Celery writes what was given as 30.
    return text.removesuffix(".0")[:LONGEST]


_NONE = ("", "None", "0", "0.0", "False")


def _of_the_pool(details: Mapping[str, Any]) -> tuple[str, str]:
    """A prefork pool tells the times that it was made with: soft, hard, 0 for none."""
    stats = details.get("stats")
    pool = stats.get("pool") if isinstance(stats, dict) else None
    times = pool.get("timeouts") if isinstance(pool, dict) else None
    if not isinstance(times, list) or len(times) != 2:
        return "", ""
    soft, hard = (_positive(value) for value in times)
    return (duration_text(soft) if soft else ""), (duration_text(hard) if hard else "")


def _positive(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 < value < 1e9 else None
