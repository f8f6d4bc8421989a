"""How many match and when, as bars by state: off the counts that are kept, not by counting rows."""

# ruff: noqa: S608 - names of our own tables and columns; every value is a parameter

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from django.db import connection

from dashboard.forms.tasks import SPANS, TaskFilter
from dashboard.queries import newest, text
from dashboard.queries.newest import Wanted, wanted
from dashboard.queries.tasks import count
from monitor.models import Rollup
from monitor.records import ENDED, STATES

BARS = 60
READ = 2_000  # newest rows that are read where nothing is counted for the filters
READ_TEXT = 500  # that hold a text: counted and drawn
DEFAULT_SPAN = 900.0
LONG = 26 * 3600.0  # seconds from which hours are read in place of minutes
DRAWN = ("SUCCESS", "STARTED", "RECEIVED", "PENDING", "REVOKED", "REJECTED", "LOST", "RETRY", "FAILURE")

# A state that tasks end in -> the column that counts it.
_COUNTED = {
    **{"SUCCESS": "succeeded", "FAILURE": "failed", "REVOKED": "revoked"},
    **{"REJECTED": "rejected", "LOST": "lost"},
}


@dataclass(frozen=True)
class Matches:
    """``series``: state and its bars. ``total`` is a lower bound when there is ``more``."""

    series: list[tuple[str, list[float]]]
    begin: float
    end: float
    total: int
    more: bool


def matches(asked: TaskFilter, now: float | None = None) -> Matches:
    """How many match, and when they had their last event."""
    now = time.time() if now is None else now
    begin, end = _ends(asked, now)
    if asked.q and not asked.stuck:
        found = text.find(_COLUMNS, asked.q, unpaged(asked, now), READ_TEXT + 1)
        total, more = min(len(found.rows), READ_TEXT), len(found.rows) > READ_TEXT or found.on is not None
        drawn = _drawn(found.rows, begin, end, BARS)
    else:
        total, more = count(asked, now)
        drawn = _over_time(asked, begin, end, now)
    return Matches([(state, drawn[state]) for state in DRAWN if state in drawn], begin, end, total, more)


def _over_time(asked: TaskFilter, begin: float, end: float, now: float) -> dict[str, list[float]]:
    kept = _kept(asked)
    if kept is None:
        return _read(asked, begin, end, now, BARS)
    by, _ = kept
    # Not finer than what is counted.
    width = 10 if by == "all" and end - begin <= SPANS["1h"] else 60
    bars = max(1, min(BARS, int((end - begin) / width)))
    columns = {s: column for s, column in _COUNTED.items() if not asked.states or s in asked.states}
    drawn = _counted(kept, columns, (begin, end), bars, width)
    # Tasks that have not ended are few enough to be read; beside another filter only if they are asked for.
    states = tuple(state for state in asked.states or STATES if state not in ENDED)
    if states and (asked.states or by == "all"):
        drawn |= _read(replace(asked, states=states), begin, end, now, bars)
    return drawn


def _ends(asked: TaskFilter, now: float) -> tuple[float, float]:
    if asked.since is None and asked.until is None:
        return now - SPANS.get(asked.span, DEFAULT_SPAN), now
    end = min(asked.until or now, now)
    return (asked.since if asked.since is not None else end - DEFAULT_SPAN), end


def _kept(asked: TaskFilter) -> tuple[str, str] | None:
    """By what counts for these filters are kept, and under which key; None: they are not."""
    by = {key: value for key in ("name", "worker", "queue") if (value := getattr(asked, key))}
    if len(by) > 1 or asked.q or asked.error or asked.stuck or "*" in asked.name:
        return None
    return next(iter(by.items()), ("all", ""))


def _counted(
    kept: tuple[str, str], columns: dict[str, str], span: tuple[float, float], bars: int, width: int
) -> dict[str, list[float]]:
    """Hours where they are made and the span is long, and the minutes after them."""
    if not columns:
        return {}
    (by, key), (begin, end) = kept, span
    if end - begin > LONG:
        hours = Rollup.objects.filter(width=3600, by=by, key=key).order_by("-start")
        last = hours.values_list("start", flat=True).first()
        parts = [(60, begin, end)] if last is None else [(3600, begin, last + 1), (60, last + 3600, end)]
    else:
        parts = [(width, begin, end)]
    sums = ", ".join(f"SUM({column})" for column in columns.values())
    drawn: dict[str, list[float]] = {state: [0.0] * bars for state in columns}
    with connection.cursor() as cursor:
        for wide, first, last_start in parts:
            cursor.execute(
                f"SELECT CAST((start + %s - %s) * %s AS integer) AS bar, {sums} FROM {_ROLLUP} "
                'WHERE width = %s AND "by" = %s AND "key" = %s AND start > %s AND start < %s GROUP BY 1',
                [wide / 2, begin, bars / (end - begin), wide, by, key, first - wide / 2, last_start],
            )
            for bar, *counts in cursor.fetchall():
                for state, count in zip(columns, counts, strict=True):
                    drawn[state][max(0, min(bars - 1, int(bar)))] += float(count)
    return {state: values for state, values in drawn.items() if any(values)}


_ROLLUP = Rollup._meta.db_table


def _read(asked: TaskFilter, begin: float, end: float, now: float, bars: int) -> dict[str, list[float]]:
    """Of the newest rows alone."""
    want = replace(unpaged(asked, now), since=begin, until=end)
    return _drawn(newest.newest(_COLUMNS, want, READ).rows, begin, end, bars)


def unpaged(asked: TaskFilter, now: float) -> Wanted:
    return replace(wanted(asked, now), before=None, after=None)


def _drawn(rows: Iterable[tuple[Any, ...]], begin: float, end: float, bars: int) -> dict[str, list[float]]:
    drawn: dict[str, list[float]] = {}
    scale = bars / max(end - begin, 1e-3)
    for state, at, _ in rows:
        if begin <= at <= end:
            values = drawn.setdefault(state, [0.0] * bars)
            values[min(bars - 1, int((at - begin) * scale))] += 1
    return drawn


_COLUMNS = ("state", *newest.KEYS)
