"""Figures of the overview: finished per second over a range, what is usual for it, and recent failures."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import F, Sum
from django.urls import reverse

from dashboard.queries import shared, spans
from dashboard.queries.backlog import Backlog
from dashboard.queries.workers import Fleet, any_worker, quantile
from dashboard.templatetags.words import duration_text, percent, rate
from monitor import models, rates
from monitor.records import FAILURE

DAY = 86400
ENOUGH = 10  # minutes of history before anything is called usual
MOST_FAILURES = 1000
SHORTEST = 30  # bars of a chart whose history is younger than its range
MOST_KINDS = 7
WAITS = 2.0  # seconds a reading of the waits of a range serves
MINUTES = 30.0  # seconds a reading of a day's minutes serves
_REJECT = re.compile(r"reject requeue=(?:True|False):? ?")
Between = tuple[float, float]  # the 5th and the 95th percentile
FINISHED = ("succeeded", "failed", "retried", "revoked", "rejected", "lost")


@dataclass(frozen=True, slots=True)
class Range:
    """A choice of how far the charts look back."""

    key: str
    label: str
    seconds: int
    step: int  # seconds of one bar


RANGES = (
    Range("15m", "15 min", 900, 10),
    Range("1h", "1 h", 3600, 60),
    Range("6h", "6 h", 21600, 300),
    Range("24h", "24 h", DAY, 1200),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One key figure: its value, what is usual, and its line."""

    label: str
    value: str
    unit: str
    note: str
    href: str
    spark: list[float]
    state: str = ""  # set when outside its usual range


@dataclass(frozen=True, slots=True)
class Failures:
    """Failures of one exception type."""

    kind: str
    message: str
    count: int
    last: float
    spark: list[float]
    href: str


def chosen(key: str | None) -> Range:
    """The range of that key; the shortest for any other."""
    return next((r for r in RANGES if r.key == key), RANGES[0])


def throughput(span: Range, now: float | None = None) -> dict[str, Any]:
    """``{"t": […], "succeeded": […], "retried": […], "failed": […], "step"}`` per second, whole bars only."""
    now = time.time() if now is None else now
    end = int(now // span.step) * span.step
    start = end - span.seconds
    rows = {row["at"]: row for row in _sums(start, end, span.step)}
    if not rows:
        return {"t": [], "succeeded": [], "retried": [], "failed": [], "step": span.step}
    first = min(rows)
    if first > start and not _has_before(start, span.step):
        # There is nothing older: the bars there are need not stand in a corner.
        start = max(start, min(first, end - SHORTEST * span.step))
    times = list(range(start, end, span.step))
    data: dict[str, Any] = {"t": times, "step": span.step}
    for name in ("succeeded", "retried", "failed"):
        data[name] = [round((rows[t][name] if t in rows else 0) / span.step, 4) for t in times]
    return data


def figures(span: Range, fleet: Fleet, waiting: Backlog) -> list[Figure]:
    """The six figures on top."""
    now = fleet.now
    chart = throughput(span, now)
    usual = shared.reading("usual figures", MINUTES, lambda: _usual(now))
    recent = list(_sums(int(now // 10) * 10 - 60, int(now // 10) * 10, 10))
    total: Counter[str] = Counter()
    for row in recent:
        total.update({name: row[name] for name in FINISHED})
    ended = sum(total[name] for name in FINISHED)
    tasks, workers = reverse("tasks"), reverse("workers")
    series = _series(chart)
    out = [
        _figure(
            "Throughput",
            ended / 60,
            usual["all"],
            rate,
            "/s",
            tasks,
            series["all"],
            "",
        ),
        _figure(
            "Failing",
            total["failed"] / ended if ended else None,
            usual["failed"],
            percent,
            "",
            f"{tasks}?state=FAILURE",
            series["failed"],
            "failed",
        ),
        _figure(
            "Retrying",
            total["retried"] / ended if ended else None,
            usual["retried"],
            percent,
            "",
            f"{tasks}?state=RETRY",
            series["retried"],
            "retry",
        ),
    ]
    waits = shared.reading(f"waits {span.key}", WAITS, lambda: _waits(span, now))
    p95, median = spans.percentiles(waits, 0.95, 0.5)
    value, _, unit = duration_text(p95).partition("\u00a0")
    note = f"median {duration_text(median)}" if waits else "no history yet"
    out.append(Figure("Wait, p95", value, unit, note, tasks, _line(fleet)))
    full = sum(w.full for w in fleet.workers)
    note = f"{full} of {fleet.online} workers full" if fleet.online else "no worker online"
    out.append(Figure("Busy slots", str(fleet.busy), f"of {fleet.size}", note, workers, []))
    oldest = waiting.oldest
    note = f"oldest {duration_text(oldest)}" if oldest is not None else "nothing waits"
    grows = any(queue.grows for queue in waiting.queues)
    shown = f"{waiting.waiting:,}{'+' if waiting.more else ''}"
    out.append(Figure("Waiting", shown, "", note, f"{tasks}?state=PENDING", [], "slow" if grows else ""))
    return out


def failures(span: Range, now: float | None = None) -> tuple[list[Failures], int, bool]:
    """Failures by exception, how many in all, and whether there are more than were read."""
    now = time.time() if now is None else now
    since = now - span.seconds
    rows = list(
        models.Task.objects.filter(state=FAILURE, seen_at__gte=since)
        .order_by("-seen_at")
        .values_list("uuid", "exception_type", "exception", "seen_at")[:MOST_FAILURES]
    )
    found: dict[str, list[tuple[str, str, float]]] = {}
    for uuid, kind, text, at in rows:
        found.setdefault(kind or _kind(text or ""), []).append((uuid, text or "", at))
    ranked = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))[:MOST_KINDS]
    bins = 30
    views = []
    for kind, each in ranked:
        spark = [0.0] * bins
        for _, _, at in each:
            spark[min(bins - 1, max(0, int((at - since) / span.seconds * bins)))] += 1
        uuid, text, last = each[0]
        href = reverse("task", args=[uuid]) if uuid.strip("./") else f"{reverse('tasks')}?state=FAILURE"
        views.append(Failures(kind, _message(text, kind), len(each), last, spark, href))
    return views, len(rows), len(rows) == MOST_FAILURES


def _waits(span: Range, now: float) -> rates.Histogram:
    return spans.over("all", "", now - span.seconds, now, now).wait


def nothing_seen() -> bool:
    """Whether no worker is listed and no task was ever seen."""
    return not models.Task.objects.exists() and not any_worker()


def _sums(start: int, end: int, step: int) -> list[Mapping[str, Any]]:
    """Sums of what was counted of all tasks, by ``at``, the start of each step."""
    return list(
        models.Rollup.objects.filter(width=_width(step), by="all", key="", start__gte=start, start__lt=end)
        .annotate(at=F("start") - F("start") % step)
        .values("at")
        .annotate(**{name: Sum(name) for name in FINISHED})
        .order_by("at")
    )


def _has_before(start: int, step: int) -> bool:
    older = models.Rollup.objects.filter(width=_width(step), by="all", key="", start__lt=start)
    return older.exists()


def _width(step: int) -> int:
    """Of the slices that make a step: the widest."""
    return 10 if step % 60 else 60


def _usual(now: float) -> dict[str, Between | None]:
    """Throughput and shares by the minutes of a day, None with too few of them."""
    minutes = _sums(int(now) - DAY, int(now // 60) * 60, 60)
    wholes = [_all(row) for row in minutes]
    found = {"all": _between([whole / 60 for whole in wholes])}
    for name in ("failed", "retried"):
        found[name] = _between(
            [row[name] / whole for row, whole in zip(minutes, wholes, strict=True) if whole]
        )
    return found


def _between(past: list[float]) -> Between | None:
    low, high = quantile(past, 0.05), quantile(past, 0.95)
    return None if low is None or high is None or len(past) < ENOUGH else (low, high)


def _all(row: Mapping[str, Any]) -> int:
    return sum(int(row[name]) for name in FINISHED)


def _series(chart: Mapping[str, Any]) -> dict[str, list[float]]:
    trios = zip(chart["succeeded"], chart["retried"], chart["failed"], strict=True)
    whole = [sum(trio) for trio in trios]
    share = {
        name: [v / w if w else 0.0 for v, w in zip(chart[name], whole, strict=True)]
        for name in ("failed", "retried")
    }
    return {"all": whole, **share}


def _figure(  # noqa: PLR0917 - one line of a table each
    label: str,
    value: float | None,
    usual: Between | None,
    said: Any,
    unit: str,
    href: str,
    spark: list[float],
    state: str,
) -> Figure:
    """With its usual range: the 5th to the 95th percentile of the minutes of a day."""
    text = said(value)
    if text.endswith("%"):
        text, unit = text[:-1], "%"
    if usual is None:
        return Figure(label, text, unit, "no history yet", href, spark)
    low, high = usual
    first, last = said(low).rstrip("%"), said(high)
    note = f"usual {last}" if first == last.rstrip("%") else f"usual {first} to {last}"
    out = bool(state) and value is not None and value > max(high * 1.25, 0.001)
    return Figure(label, text, unit, note, href, spark, state if out else "")


def _line(fleet: Fleet) -> list[float]:
    """The mean wait in twenty slices of the recent span."""
    bins: list[list[float]] = [[] for _ in range(20)]
    for at, wait in fleet.recent.waits:
        bins[min(19, max(0, int((at - fleet.now + fleet.recent.span) / fleet.recent.span * 20)))].append(wait)
    return [sum(b) / len(b) if b else 0.0 for b in bins] if fleet.recent.waits else []


def _kind(text: str) -> str:
    """Of a failure whose exception has no type: a task that raised Reject says so in words."""
    return "Rejected" if _REJECT.match(text) else "Unknown exception"


def _message(text: str, kind: str) -> str:
    """The exception without the type that stands before it."""
    text = _REJECT.sub("", text)
    start = text.find("(")
    if start > 0 and text.endswith(")") and text[:start].rpartition(".")[2] == kind.rpartition(".")[2]:
        text = text[start + 1 : -1].strip("'\"")
    return text[:160]
