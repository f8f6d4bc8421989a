"""What another pool size would do: arithmetic on measured rates, with their ranges. Pure.

A slot that is always busy ends one task each mean runtime; a queue drains by what all slots end less what
arrives. Both rates are samples: each is an ``Estimate`` with the range in which the true one lies 19 times of
20, and whatever is computed of them takes the worse and the better end along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite, sqrt

from monitor import rates

ENOUGH = 30  # tasks behind a rate before anything is computed of it
SURE = 1.96  # standard errors: 19 of 20


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, the range in which it lies 19 times of 20, and of how many tasks in how long it was made."""

    value: float
    low: float
    high: float
    tasks: int
    seconds: float

    @property
    def enough(self) -> bool:
        return self.tasks >= ENOUGH


@dataclass(frozen=True, slots=True)
class Drain:
    """Seconds until nothing waits: about, at best and at worst. ``inf``: it never does, but grows."""

    about: float
    best: float
    worst: float
    growth: float  # tasks a second that the backlog grows by; below zero it shrinks

    @property
    def never(self) -> bool:
        return not isfinite(self.about)

    @property
    def surely_never(self) -> bool:
        return not isfinite(self.best)


@dataclass(frozen=True, slots=True)
class Outlook:
    """One size, and what it would do."""

    size: int
    ends: Estimate  # tasks a second that the pool would end with every slot busy
    drain: Drain | None  # None: nothing waits


def arrivals(count: int, seconds: float) -> Estimate:
    """Tasks a second that came: as many as counted, give or take what chance does to a count."""
    if seconds <= 0:
        return Estimate(0.0, 0.0, inf, 0, 0.0)
    error = SURE * sqrt(max(count, 1))
    return Estimate(
        count / seconds, max(0.0, count - error) / seconds, (count + error) / seconds, count, seconds
    )


def per_slot(runtime: Mapping[int, int], seconds: float) -> Estimate | None:
    """Tasks a second that one slot ends when it is always busy, from a histogram of runtimes."""
    tasks = sum(runtime.values())
    if tasks <= 0:
        return None
    mean = sum(rates.value(bucket) * n for bucket, n in runtime.items()) / tasks
    spread = sqrt(sum((rates.value(bucket) - mean) ** 2 * n for bucket, n in runtime.items()) / tasks)
    # Of one task nothing is known of the spread: runtimes are taken to vary as much as they last.
    error = SURE * (spread if tasks > 1 else mean) / sqrt(tasks)
    high = inf if mean <= error else 1 / (mean - error)
    return Estimate(1 / mean, 1 / (mean + error), high, tasks, seconds)


def outlook(size: int, waiting: int, arriving: Estimate, slot: Estimate, others: float = 0.0) -> Outlook:
    """A pool of ``size`` slots on queues where ``waiting`` tasks wait and ``others`` end so many a second."""
    ends = Estimate(slot.value * size, slot.low * size, slot.high * size, slot.tasks, slot.seconds)
    if waiting <= 0:
        return Outlook(size, ends, None)
    growth = arriving.value - ends.value - others
    about, best, worst = (
        _time(waiting, worked + others - came)
        for worked, came in (
            (ends.value, arriving.value),
            (ends.high, arriving.low),
            (ends.low, arriving.high),
        )
    )
    return Outlook(size, ends, Drain(about, best, worst, growth))


def break_even(arriving: Estimate, slot: Estimate, others: float = 0.0) -> int:
    """The fewest slots with which the backlog does not grow."""
    left = max(0.0, arriving.value - others)
    return max(1, -int(-left // slot.value)) if slot.value > 0 else 1


def _time(waiting: int, surplus: float) -> float:
    if surplus == inf:
        return 0.0
    return waiting / surplus if surplus > 1e-9 else inf
