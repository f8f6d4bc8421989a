"""The runtimes of a task name as bars, and where one run stands among them."""

from __future__ import annotations

from dataclasses import dataclass

from dashboard.queries.tasks import row_of
from dashboard.queries.usual import Usual, all_usual
from dashboard.templatetags.words import short
from monitor import rates
from monitor.models import Task, TaskType
from monitor.records import FAILURE

LABEL = 13.0  # percent of the width that a label needs for itself


@dataclass(frozen=True)
class Distribution:
    """Successful runtimes of the name in bars on a log axis; places in percent of it."""

    values: list[int]
    band: tuple[int, int]
    usual: Usual | None
    runs: int
    p5: float
    marks: list[tuple[float, str]]
    now: float | None
    now_text: float
    now_class: str
    now_seconds: float | None
    axis: list[str]


def distribution(task: Task, now: float) -> Distribution | None:
    """Against its usual runtime: None before the name ever succeeded."""
    kind = TaskType.objects.filter(name=task.name).first() if task.name else None
    if kind is None or not kind.histogram:
        return None
    counts = {int(key): int(count) for key, count in kind.histogram.items()}
    ran = row_of(task, now).ran
    low, high = min(counts), max(counts)
    if ran:
        low, high = min(low, rates.bucket(ran)), max(high, rates.bucket(ran))
    low, high = low - 1, high + 2
    bars = min(44, high - low)
    values = [0] * bars

    def place(seconds: float) -> float:
        return max(0.0, min(99.9, (rates.bucket(seconds) + 0.5 - low) / (high - low) * 100))

    for key, count in counts.items():
        values[min(bars - 1, int((key - low) / (high - low) * bars))] += count
    p5, p50, p95 = rates.quantile(counts, 0.05) or 0.0, kind.p50 or 0.0, kind.p95 or 0.0
    at = place(ran) if ran else None
    text = max(9.0, min(91.0, at or 0.0))
    odd = task.state == FAILURE or (ran or 0.0) > p95
    return Distribution(
        values=values,
        band=(int(place(p5) / 100 * bars), int(place(p95) / 100 * bars)),
        usual=all_usual().get(task.name),
        runs=kind.runs,
        p5=p5,
        marks=_apart([(place(p50), "p50"), (place(p95), "p95")], text if at is not None else None),
        now=at,
        now_text=text,
        now_class="now" if odd else "own",
        now_seconds=ran,
        axis=[short(rates.value(round(low + (high - low) * k / 4))) for k in range(5)],
    )


def _apart(marks: list[tuple[float, str]], taken: float | None) -> list[tuple[float, str]]:
    """Labels that would lie on one another are left out: this run's first, then the median's."""
    shown = [taken] if taken is not None else []
    placed: list[tuple[float, str]] = []
    for x, text in marks:
        free = all(abs(x - other) >= LABEL for other in shown)
        if free:
            shown.append(x)
        placed.append((x, text if free else ""))
    return placed
