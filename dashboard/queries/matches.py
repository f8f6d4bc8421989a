"""What matches over time, as bars by state: off the counts that are kept, not by counting rows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from dashboard.forms.tasks import SPANS, TaskFilter
from dashboard.queries import newest, text
from dashboard.queries.newest import wanted
from monitor.models import Rollup
from monitor.records import ENDED, STATES

BARS = 60
READ = 5_000  # newest rows that are read where nothing is counted for the filters
READ_TEXT = 1_000  # with a text among them
DEFAULT_SPAN = 900.0
LONG = 26 * 3600.0  # seconds from which hours are read in place of minutes
DRAWN = ("SUCCESS", "STARTED", "RECEIVED", "PENDING", "REVOKED", "REJECTED", "LOST", "RETRY", "FAILURE")

# A state that tasks end in -> the column that counts it.
_COUNTED = {
    **{"SUCCESS": "succeeded", "FAILURE": "failed", "REVOKED": "revoked"},
    **{"REJECTED": "rejected", "LOST": "lost"},
}
_Bar = tuple[str, float, int]  # state, time, how many


def over_time(
    asked: TaskFilter, now: float | None = None
) -> tuple[list[tuple[str, list[float]]], list[float]]:
    """Matches by state in stretches of time, and the ends of the axis."""
    now = time.time() if now is None else now
    begin, end = _ends(asked, now)
    counted = _counted(asked, begin, end)
    if counted is None:
        count, found = BARS, _read(asked, begin, end, now)
    else:
        # Not finer than what is counted; tasks that have not ended are few enough to be read.
        width, bars = counted
        count = max(1, min(BARS, int((end - begin) / width)))
        open_states = tuple(s for s in asked.states or STATES if s not in ENDED)
        found = [*bars, *(_read(replace(asked, states=open_states), begin, end, now) if open_states else [])]
    size = max((end - begin) / count, 1e-3)
    drawn: dict[str, list[float]] = {}
    for state, at, many in found:
        bars_of = drawn.setdefault(state, [0.0] * count)
        bars_of[max(0, min(count - 1, int((at - begin) / size)))] += many
    return [(state, drawn[state]) for state in DRAWN if state in drawn], [begin, end]


def _ends(asked: TaskFilter, now: float) -> tuple[float, float]:
    if asked.since is None and asked.until is None:
        return now - SPANS.get(asked.span, DEFAULT_SPAN), now
    end = min(asked.until or now, now)
    return (asked.since if asked.since is not None else end - DEFAULT_SPAN), end


def _counted(asked: TaskFilter, begin: float, end: float) -> tuple[int, list[_Bar]] | None:
    """The width of what is counted, and its bars; None where nothing is counted for these filters."""
    by = {key: value for key in ("name", "worker", "queue") if (value := getattr(asked, key))}
    if len(by) > 1 or asked.q or asked.error or asked.stuck or "*" in asked.name:
        return None
    columns = {s: column for s, column in _COUNTED.items() if not asked.states or s in asked.states}
    kind, key = next(iter(by.items()), ("all", ""))
    rows = Rollup.objects.filter(by=kind, key=key, start__lt=end)
    if not columns:
        return 1, []
    if end - begin <= LONG:
        width = 10 if kind == "all" and end - begin <= SPANS["1h"] else 60
        return width, _bars(rows.filter(width=width, start__gt=begin - width), columns)
    hours = rows.filter(width=3600, start__gt=begin - 3600)
    last = hours.order_by("-start").values_list("start", flat=True).first()
    tail = begin - 60 if last is None else last + 3599
    return 3600, _bars(hours, columns) + _bars(rows.filter(width=60, start__gt=tail), columns)


def _bars(rows: object, columns: dict[str, str]) -> list[_Bar]:
    found: list[_Bar] = []
    for start, width, *counts in rows.values_list("start", "width", *columns.values()):  # type: ignore[attr-defined]
        found += [(state, start + width / 2, n) for state, n in zip(columns, counts, strict=True) if n]
    return found


def _read(asked: TaskFilter, begin: float, end: float, now: float) -> Iterable[_Bar]:
    """Of the newest rows alone."""
    want = replace(wanted(asked, now), since=begin, until=end, before=None, after=None)
    columns = ("state", *newest.KEYS)
    if asked.q:
        rows = text.find(columns, asked.q, want, READ_TEXT).rows
    else:
        rows = newest.newest(columns, want, READ).rows
    counts = Counter((state, round(at, 1)) for state, at, _ in rows)
    return [(state, at, many) for (state, at), many in counts.items()]
