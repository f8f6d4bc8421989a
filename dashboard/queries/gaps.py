"""Spans in which Umbel was not listening, for every chart and list that they touch."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from dashboard.queries.feed import SILENT
from dashboard.queries.shared import reading
from dashboard.templatetags.words import clock, duration_text, stamp
from monitor import models

SHARED = 1.0  # seconds
MOST = 500  # gaps read, the newest
SHOWN = 20  # of one chart or list; closer ones are joined before any is left out
LISTENED = 1.0  # seconds between two spans that count as having listened
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Blind:
    """One such span, by Umbel's clock; ``ended_at`` is None while it lasts."""

    started_at: float
    ended_at: float | None
    reason: str = ""
    broken: bool = False  # several in one, with time between in which it listened

    @property
    def words(self) -> str:
        """ "blind from 14:02:11 to 14:02:43", with the day when it is not today's."""
        blind = "blind at times" if self.broken else "blind"
        begin = _moment(self.started_at)
        if self.ended_at is None:
            return f"{blind} since {begin}"
        end = _moment(self.ended_at)
        if begin == end:
            return f"blind for {duration_text(max(self.ended_at - self.started_at, 0.001))} at {begin}"
        return f"{blind} from {begin} to {end}"

    @property
    def id(self) -> str:
        return f"gap-{self.started_at * 1000:.0f}"

    def part(self, begin: float, end: float) -> tuple[float, float]:
        """Its place on an axis from ``begin`` to ``end``: start and width in percent."""
        span = max(end - begin, 1e-6)
        left = max(0.0, (self.started_at - begin) / span * 100)
        right = 100.0 if self.ended_at is None else min(100.0, (self.ended_at - begin) / span * 100)
        return left, max(0.0, right - left)


def between(begin: float, end: float, now: float | None = None) -> list[Blind]:
    """Those that touch a span of time, oldest first; at most ``SHOWN``."""
    now = time.time() if now is None else now
    touching = [
        gap for gap in _all(now) if gap.started_at <= end and (gap.ended_at is None or gap.ended_at >= begin)
    ]
    return _joined(touching, max(end - begin, 0.0))


def among(moments: Sequence[float], *, newest: bool, now: float | None = None) -> dict[int, list[Blind]]:
    """Where they stand among moments that fall: before which index, newest first.

    ``newest`` says that the first of the moments is the last there is: then a span after it counts, too.
    """
    if not moments:
        return {}
    now = time.time() if now is None else now
    found: dict[int, list[Blind]] = {}
    for gap in reversed(between(moments[-1], now if newest else moments[0], now)):
        # A moment within the span (a gap may be told a little longer than it was) stands above it.
        place = next((i for i, moment in enumerate(moments) if moment <= gap.started_at), len(moments))
        found.setdefault(place, []).append(gap)
    return found


def _all(now: float) -> list[Blind]:
    """Oldest first. An engine that is silent now has left no row: it hears nothing since its last word."""
    gaps, told_at = reading("gaps", SHARED, _read)
    if now - told_at > SILENT and not any(gap.ended_at is None for gap in gaps):
        return [*gaps, Blind(told_at, None, "Umbel's engine is silent")]
    return gaps


def _read() -> tuple[list[Blind], float]:
    rows = models.Gap.objects.order_by("-started_at").values_list("started_at", "ended_at", "reason")[:MOST]
    told_at = models.Feed.objects.filter(pk=1).values_list("at", flat=True).first()
    return [Blind(*row) for row in rows][::-1], told_at or math.inf


def _joined(gaps: list[Blind], span: float) -> list[Blind]:
    """Spans that overlap, or would be one band to the eye, as one: a broker that flaps makes hundreds."""
    near = 0.0 if len(gaps) <= SHOWN else span / 200
    joined: list[Blind] = []
    for gap in gaps:
        last = joined[-1] if joined else None
        if last is not None and (last.ended_at is None or gap.started_at - last.ended_at <= near):
            ends = None if last.ended_at is None or gap.ended_at is None else max(last.ended_at, gap.ended_at)
            broken = last.broken or gap.broken or gap.started_at - (last.ended_at or math.inf) > LISTENED
            joined[-1] = Blind(last.started_at, ends, last.reason or gap.reason, broken)
        else:
            joined.append(gap)
    return joined[-SHOWN:]


def _moment(at: float) -> str:
    today = at // DAY == time.time() // DAY
    return clock(at) if today else stamp(at)
