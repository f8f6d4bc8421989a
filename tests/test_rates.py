"""Histograms of runtimes stay within their stated error, and merge."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.rates import LONGEST, RELATIVE_ERROR, SHORTEST, add, bucket, merge, quantile, value

durations = st.floats(SHORTEST * 1.1, LONGEST * 0.9)


@given(durations)
def test_a_bucket_stands_for_its_durations_within_the_stated_error(seconds: float) -> None:
    assert abs(value(bucket(seconds)) - seconds) <= seconds * (RELATIVE_ERROR + 1e-9)


@given(st.lists(durations, min_size=1), st.floats(0, 1))
def test_a_quantile_is_within_the_error_of_a_sample(samples: list[float], q: float) -> None:
    histogram: dict[int, int] = {}
    for seconds in samples:
        add(histogram, seconds)
    found = quantile(histogram, q)
    true = sorted(samples)[int(q * (len(samples) - 1))]
    assert found is not None
    assert abs(found - true) <= true * (RELATIVE_ERROR + 1e-9)


@given(st.lists(durations), st.lists(durations))
def test_merging_is_the_same_as_adding_all(a: list[float], b: list[float]) -> None:
    left: dict[int, int] = {}
    right: dict[int, int] = {}
    both: dict[int, int] = {}
    for seconds in a:
        add(left, seconds)
        add(both, seconds)
    for seconds in b:
        add(right, seconds)
        add(both, seconds)
    assert merge(left, right) == both == merge(right, left)


@pytest.mark.parametrize("strange", [0.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e300, 1e-300])
def test_strange_durations_are_clamped(strange: float) -> None:
    histogram: dict[int, int] = {}
    add(histogram, strange)
    found = quantile(histogram, 0.5)
    assert found is not None
    assert 0 < found < LONGEST * 1.1


def test_no_samples_have_no_quantile() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({3: 0}, 0.5) is None


def test_percentiles_of_many_are_near() -> None:
    rng = random.Random(1)
    samples = sorted(rng.lognormvariate(0, 1.5) for _ in range(20_000))
    histogram: dict[int, int] = {}
    for seconds in samples:
        add(histogram, seconds)
    for q in (0.05, 0.5, 0.95, 0.99):
        assert quantile(histogram, q) == pytest.approx(samples[int(q * (len(samples) - 1))], rel=0.03)
    assert len(json.dumps(histogram)) < 4_000
