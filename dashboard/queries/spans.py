"""What happened over a span of time to all tasks, or to those of a name, worker or queue: from the counts.

Percentiles come of histograms (``monitor.rates``): within 2.7 % of a value that was measured.
"""

from __future__ import annotations

from collections.abc import Iterable

from django.db.models import Q

from monitor import models, rates
from monitor.records import Rollup
from monitor.store.rollups import COUNTS, KEPT_SECONDS, added

MINUTE, HOUR, DAY = 60, 3600, 86_400
_COLUMNS = ("width", "start", *COUNTS, "runtime", "wait")


def over(by: str, key: str, since: float, until: float, now: float) -> Rollup:
    """All of ``[since, until)``, to the minute; what is older than minutes are kept for, to the hour or day.

    ``by``: all (with key ''), name, worker or queue. What is not made yet is read as minutes.
    """
    start, end = _floor(since, MINUTE), -_floor(-until, MINUTE)
    minutes_from, hours_from = (_floor(now - KEPT_SECONDS[width], HOUR) for width in (MINUTE, HOUR))
    rows = models.Rollup.objects.filter(by=by, key=key)
    days = _made(DAY, _floor(start, DAY) if start < hours_from else -_floor(-start, DAY), _floor(end, DAY))
    hours = _made(
        HOUR, _floor(start, HOUR) if start < minutes_from else -_floor(-start, HOUR), _floor(end, HOUR)
    )
    hours -= {hour for day in days for hour in range(day, day + DAY, HOUR)}
    whole = Rollup(int(end - start), by, key, start)
    wanted = [(DAY, days), (HOUR, hours), (MINUTE, None)]
    for width, starts in wanted:
        if starts is not None:
            found = rows.filter(width=width, start__in=starts) if starts else rows.none()
        else:
            found = rows.filter(_outside(start, end, days, hours), width=MINUTE)
        for row in found.values_list(*_COLUMNS):
            whole = added(whole, _record(by, key, row))
    return whole


def percentiles(histogram: rates.Histogram, *shares: float) -> list[float | None]:
    """Seconds below which these shares (0 to 1) lie; None of an empty histogram."""
    return [rates.quantile(histogram, share) for share in shares]


def _made(width: int, start: int, end: int) -> set[int]:
    """The slices of this width within that were made of narrower ones."""
    made = models.Rollup.objects.filter(width=width, by="all", key="", start__gte=start, start__lt=end)
    return set(made.values_list("start", flat=True))


def _outside(start: int, end: int, days: Iterable[int], hours: Iterable[int]) -> Q:
    """What lies between the wider slices."""
    taken = sorted([*((day, day + DAY) for day in days), *((hour, hour + HOUR) for hour in hours)])
    free = Q(pk__in=[])
    for begin, over in [*taken, (end, end)]:
        if begin > start:
            free |= Q(start__gte=start, start__lt=begin)
        start = max(start, over)
    return free


def _record(by: str, key: str, row: tuple[object, ...]) -> Rollup:
    width, start, *counts, runtime, wait = row
    record = Rollup(int(str(width)), by, key, int(str(start)), **dict(zip(COUNTS, counts, strict=True)))  # type: ignore[arg-type]
    record.runtime, record.wait = _histogram(runtime), _histogram(wait)
    return record


def _histogram(stored: object) -> rates.Histogram:
    return {int(bucket): count for bucket, count in stored.items()} if isinstance(stored, dict) else {}


def _floor(at: float, step: int) -> int:
    return int(at // step) * step
