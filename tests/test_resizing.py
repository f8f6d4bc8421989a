"""What another pool size would do: the arithmetic by example."""

from __future__ import annotations

from math import inf

import pytest

from monitor import rates, resizing
from monitor.resizing import Estimate, arrivals, break_even, outlook, per_slot


def runtimes(*seconds: float, times: int = 1) -> rates.Histogram:
    found: rates.Histogram = {}
    for one in seconds:
        rates.add(found, one, times)
    return found


def exactly(value: float) -> Estimate:
    return Estimate(value, value, value, 100, 60.0)


def test_a_slot_ends_one_task_each_mean_runtime() -> None:
    slot = per_slot(runtimes(0.5, times=100), 600)
    assert slot is not None
    assert slot.value == pytest.approx(2.0, rel=rates.RELATIVE_ERROR)
    assert (slot.tasks, slot.seconds, slot.enough) == (100, 600, True)


def test_runtimes_that_vary_make_the_range_wide_and_more_of_them_narrow_it() -> None:
    few, many = per_slot(runtimes(1.0, 9.0, times=20), 60), per_slot(runtimes(1.0, 9.0, times=2_000), 60)
    assert few is not None and many is not None
    assert few.value == pytest.approx(0.2, rel=0.03) and few.low < few.value < few.high
    assert few.high - few.low > 5 * (many.high - many.low)
    # By hand: mean 5, spread 4, of 40: 1.96 * 4 / sqrt(40) = 1.24, so from 1/6.24 to 1/3.76.
    assert (few.low, few.high) == (pytest.approx(0.160, abs=0.01), pytest.approx(0.266, abs=0.02))


def test_of_no_task_there_is_no_rate_and_of_one_hardly() -> None:
    assert per_slot({}, 60) is None
    one = per_slot(runtimes(2.0), 60)
    assert one is not None and not one.enough
    assert one.high == inf


def test_arrivals_are_a_count_give_or_take_chance() -> None:
    came = arrivals(900, 300)
    assert (came.value, came.tasks, came.seconds) == (3.0, 900, 300)
    assert came.low == pytest.approx(2.804) and came.high == pytest.approx(3.196)
    none = arrivals(0, 300)
    assert (none.value, none.low) == (0.0, 0.0) and 0 < none.high < 0.01
    assert arrivals(5, 0).tasks == 0


def test_a_backlog_drains_by_what_is_ended_less_what_comes() -> None:
    # 8 slots of 1.5 a second are 12, 10 come: 4,318 take 2,159 s; with 20 slots it is 30, and 216 s.
    now = outlook(8, 4318, exactly(10.0), exactly(1.5))
    more = outlook(20, 4318, exactly(10.0), exactly(1.5))
    assert now.drain is not None and more.drain is not None
    assert (now.ends.value, more.ends.value) == (12.0, 30.0)
    assert now.drain.about == pytest.approx(2159) and more.drain.about == pytest.approx(215.9)
    assert now.drain.growth == -2.0 and not now.drain.never


def test_a_queue_that_gets_more_than_is_ended_never_drains_and_says_by_how_much_it_grows() -> None:
    found = outlook(4, 100, exactly(10.0), exactly(1.5)).drain
    assert found is not None and found.never and found.surely_never
    assert found.growth == 4.0
    assert break_even(exactly(10.0), exactly(1.5)) == 7


def test_what_other_workers_end_counts_too() -> None:
    found = outlook(4, 100, exactly(10.0), exactly(1.5), others=5.0).drain
    assert found is not None and found.about == pytest.approx(100)
    assert break_even(exactly(10.0), exactly(1.5), others=5.0) == 4
    assert break_even(exactly(1.0), exactly(1.5), others=5.0) == 1


def test_the_range_of_a_drain_goes_from_the_best_to_the_worst_of_both_rates() -> None:
    slot, came = Estimate(1.0, 0.8, 1.25, 50, 60.0), Estimate(5.0, 4.0, 7.0, 50, 60.0)
    found = outlook(8, 300, came, slot).drain
    assert found is not None
    assert (found.about, found.best) == (pytest.approx(100), pytest.approx(50))
    assert found.worst == inf and not found.never, "in the worst case it grows, and that is said"


def test_where_nothing_waits_there_is_nothing_to_drain() -> None:
    assert outlook(8, 0, exactly(10.0), exactly(1.5)).drain is None


def test_few_tasks_are_not_enough_to_compute_with() -> None:
    few = per_slot(runtimes(1.0, times=resizing.ENOUGH - 1), 60)
    assert few is not None and not few.enough
