"""Mergeable histograms of durations in logarithmic buckets, for the usual runtimes of each task name.

A bucket spans a factor of 1.055, so a quantile read from it is within 2.7 % of a true sample value.
A histogram is a plain ``dict[int, int]`` (bucket -> count): it adds, merges and stores as JSON as it is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import exp, floor, isfinite, log

Histogram = dict[int, int]

RELATIVE_ERROR = 0.027
SHORTEST, LONGEST = 1e-5, 1e7  # seconds: 10 microseconds to 115 days; what lies outside is clamped

_WIDTH = log((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR))
_LOWEST, _HIGHEST = floor(log(SHORTEST) / _WIDTH), floor(log(LONGEST) / _WIDTH)
# The point of a bucket that is equally far, in relative terms, from both of its ends.
_MIDDLE = 2 * exp(_WIDTH) / (exp(_WIDTH) + 1)


def bucket(seconds: float) -> int:
    """The bucket of a duration; zero, negative and not-a-number go to the lowest."""
    if not isfinite(seconds):
        return _HIGHEST if seconds > 0 else _LOWEST
    if seconds <= SHORTEST:
        return _LOWEST
    return min(floor(log(seconds) / _WIDTH), _HIGHEST)


def value(bucket: int) -> float:
    """Seconds that stand for a bucket."""
    return exp(min(max(bucket, _LOWEST), _HIGHEST) * _WIDTH) * _MIDDLE


def edge(bucket: int) -> float:
    """Seconds below which every duration of this bucket, and of those before it, lies."""
    return exp((min(max(bucket, _LOWEST), _HIGHEST) + 1) * _WIDTH)


def beyond(histogram: Mapping[int, int], seconds: float) -> tuple[int, int]:
    """How many samples are longer: for certain, and at most. What shares the bucket may be either."""
    at = bucket(seconds)
    certain = sum(count for index, count in histogram.items() if index > at)
    return certain, certain + histogram.get(at, 0)


def about_beyond(histogram: Mapping[int, int], seconds: float) -> float:
    """How many samples are longer, about: those of its bucket are taken to lie evenly in it."""
    certain, most = beyond(histogram, seconds)
    if certain == most:
        return float(certain)
    left = (log(edge(bucket(seconds))) - log(max(seconds, SHORTEST))) / _WIDTH
    return certain + (most - certain) * min(max(left, 0.0), 1.0)


def add(histogram: Histogram, seconds: float, count: int = 1) -> None:
    """Count a duration, in place."""
    index = bucket(seconds)
    histogram[index] = histogram.get(index, 0) + count


def merge(a: Mapping[int, int], b: Mapping[int, int]) -> Histogram:
    """Both histograms in a new one."""
    merged = dict(a)
    for index, count in b.items():
        merged[index] = merged.get(index, 0) + count
    return merged


def quantile(histogram: Mapping[int, int], q: float) -> float | None:
    """The duration below which the share ``q`` (0 to 1) of the samples lies; None without samples."""
    return quantiles(histogram, (q,))[0]


def quantiles(histogram: Mapping[int, int], shares: Sequence[float]) -> list[float | None]:
    """A ``quantile`` for each of the shares, at one look."""
    indexes = sorted(histogram)
    seen = list(accumulate(map(histogram.__getitem__, indexes)))
    if not seen or seen[-1] <= 0:
        return [None] * len(shares)
    ranks = [min(max(q, 0.0), 1.0) * (seen[-1] - 1) for q in shares]
    return [value(indexes[bisect_right(seen, rank)]) for rank in ranks]
