"""Counts and percentiles over a span of time."""

from __future__ import annotations

import random

import pytest
from django.db import connection, transaction

from dashboard.queries import spans
from monitor import models, rates
from monitor.records import Rollup
from monitor.store.rollups import KEPT_SECONDS, Rollups, widen

NOW = 1_790_000_000.0
HOUR = 3600


def write(*records: Rollup) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        Rollups().add(cursor, records)


def make_wider(now: float = NOW) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        while widen(cursor, now):
            pass


def exact(samples: list[float], share: float) -> float:
    return sorted(samples)[int(share * (len(samples) - 1))]


def real_shaped(rng: random.Random, count: int) -> list[float]:
    """Runtimes as they are: most take milliseconds, some call a slow service, a few hit a limit of 30 s."""
    kinds = rng.choices(["cached", "usual", "slow", "limit"], [30, 55, 14, 1], k=count)
    draw = {
        "cached": lambda: rng.lognormvariate(-6.5, 0.3),
        "usual": lambda: rng.lognormvariate(-2.0, 0.8),
        "slow": lambda: 1.5 + rng.expovariate(0.7),
        "limit": lambda: 30.0 + rng.random() * 0.05,
    }
    return [draw[kind]() for kind in kinds]


SHAPES = {
    "uniform": lambda rng, n: [rng.uniform(0.001, 100) for _ in range(n)],
    "exponential": lambda rng, n: [rng.expovariate(2.0) for _ in range(n)],
    "many magnitudes": lambda rng, n: [10 ** rng.uniform(-4, 5) for _ in range(n)],
    "real": real_shaped,
}


@pytest.mark.django_db
@pytest.mark.parametrize("shape", SHAPES)
def test_percentiles_over_a_span_are_within_the_stated_error_of_exact_ones(shape: str) -> None:
    rng = random.Random(5)
    begin = int(NOW) - 30 * HOUR
    samples: list[tuple[int, float]] = []
    increments = []
    for value in SHAPES[shape](rng, 5_000):
        at = begin + rng.randrange(30 * HOUR)
        samples.append((at, value))
        histogram = {rates.bucket(value): 1}
        minute = at // 60 * 60
        increments.append(Rollup(60, "name", "a", minute, succeeded=1, runtime=histogram))
        increments.append(Rollup(60, "all", "", minute, succeeded=1))
    write(*increments)
    make_wider()
    for since, until in ((begin, NOW), (NOW - 9 * HOUR, NOW - 2.5 * HOUR), (NOW - 900, NOW)):
        whole = spans.over("name", "a", since, until, NOW)
        start, end = int(since // 60) * 60, -int(-until // 60) * 60
        within = [value for at, value in samples if start <= at < end]
        assert whole.succeeded == len(within) > 0
        for share in (0.05, 0.5, 0.95, 0.99):
            (found,) = spans.percentiles(whole.runtime, share)
            assert found == pytest.approx(exact(within, share), rel=rates.RELATIVE_ERROR + 1e-9)


@pytest.mark.django_db
def test_a_span_is_put_together_of_days_hours_and_minutes_without_counting_twice() -> None:
    rng = random.Random(9)
    begin = int(NOW // 86_400) * 86_400 - 3 * 86_400
    minutes = {begin + 60 * rng.randrange(int((NOW - begin) // 60)): rng.randrange(1, 9) for _ in range(900)}
    write(*(Rollup(60, "all", "", start, started=count) for start, count in minutes.items()))
    make_wider()
    assert set(models.Rollup.objects.values_list("width", flat=True)) == {60, 3600, 86_400}
    for _ in range(25):
        since, until = sorted(rng.uniform(begin, NOW) for _ in range(2))
        start, end = int(since // 60) * 60, -int(-until // 60) * 60
        truly = sum(count for at, count in minutes.items() if start <= at < end)
        assert spans.over("all", "", since, until, NOW).started == truly


@pytest.mark.django_db
def test_what_is_older_than_its_minutes_comes_of_hours_and_days() -> None:
    old = int(NOW - KEPT_SECONDS[60] - 86_400) // HOUR * HOUR
    older = int(NOW - KEPT_SECONDS[3600] - 3 * 86_400) // 86_400 * 86_400
    for width, start, count in ((3600, old, 5), (86_400, older, 7)):
        write(Rollup(width, "queue", "q", start, lost=count), Rollup(width, "all", "", start, lost=count))
    assert spans.over("queue", "q", old + 600, NOW, NOW).lost == 5
    assert spans.over("queue", "q", older + 600, NOW, NOW).lost == 12
    assert spans.over("queue", "other", older, NOW, NOW).lost == 0
    assert spans.percentiles({}, 0.5) == [None]
