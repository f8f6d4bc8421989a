"""Each end of a task counts once, and what is kept in memory of tasks is bounded."""

from __future__ import annotations

import pytest

from monitor import rates
from monitor.cluster import Limits, derive
from monitor.records import Mark, Rollup, TaskRecord, TaskType
from tests.stories import Story, W

# counting


def test_an_end_told_twice_by_a_hard_time_limit_counts_once() -> None:
    story = Story().received().tell("started")
    story.tell("failed", exception="E()").tell("failed", exception="E()")
    rollups = [r for r in story.drain() if isinstance(r, Rollup) and r.width == 10]
    assert sum(r.failed for r in rollups) == 1


def test_rates_count_each_mark_once_and_only_new_ones() -> None:
    story = Story().received().tell("started").tell("succeeded", result="1", runtime=0.5)
    records = story.drain()
    row = next(r for r in records if isinstance(r, TaskRecord))
    rollups = {(r.width, r.by, r.key): r for r in records if isinstance(r, Rollup)}
    assert {key: (r.received, r.started, r.succeeded) for key, r in rollups.items()} == {
        (10, "all", ""): (1, 1, 1),
        (60, "all", ""): (1, 1, 1),
        (60, "name", "shop.pay"): (1, 1, 1),
        (60, "worker", W): (1, 1, 1),
        (0, "pair", f"{W}\nshop.pay"): (1, 1, 1),
    }
    by_name = rollups[60, "name", "shop.pay"]
    assert rates.quantile(by_name.runtime, 0.5) == pytest.approx(0.5, rel=rates.RELATIVE_ERROR)
    assert rates.quantile(by_name.wait, 0.5) == pytest.approx(0.1, rel=rates.RELATIVE_ERROR)
    (known,) = [r for r in records if isinstance(r, TaskType)]
    assert (known.name, known.runs, sum(known.histogram.values())) == ("shop.pay", 1, 1)
    late = Story()
    late.received().tell("started").tell("succeeded", result="1", runtime=0.5)
    for mark in row.marks:
        assert isinstance(mark, Mark)
    late.cluster.cold()
    late.cluster.absorb([row])
    assert not [d for d in late.cluster.drain(late.now) if isinstance(d, Rollup)]
    assert late.cluster.accounting.duplicate == 3
    assert late.cluster.accounting.balanced


# bounds


def test_finished_tasks_leave_memory_and_unfinished_ones_stay() -> None:
    story = Story().received().tell("started").tell("succeeded", result="1").received(uuid="u2")
    story.drain()
    assert list(story.cluster.tasks.live) == ["u2"]


def test_a_task_with_a_past_stays_a_while_for_late_events() -> None:
    story = Story().received().tell("started").tell("retried").received(1).tell("started").tell("succeeded")
    story.received(uuid="u2")
    story.drain()
    story.cluster.tick(story.now + 5)
    assert story.cluster.feed(story.now).tasks_live == 2
    story.cluster.tick(story.now + 11)
    assert list(story.cluster.tasks.live) == ["u2"]


def test_too_many_live_tasks_let_the_oldest_go_and_are_counted() -> None:
    story = Story(Limits(tasks=100))
    for n in range(250):
        story.received(uuid=f"u{n}")
    assert story.cluster.accounting.dropped == 50
    story.drain()
    story.cluster.tick(story.now)
    feed = story.cluster.feed(story.now)
    assert feed.tasks_live <= 100
    assert feed.limits["live tasks"] >= 100
    assert feed.accounting.balanced


def test_a_task_of_ten_thousand_events_keeps_its_first_and_last() -> None:
    story = Story().received().tell("started")
    for _ in range(10_000):
        story.tell("progress", current=1)
    row = story.tell("succeeded", result="1").row()
    assert len(row.marks) <= 64
    assert row.state == "SUCCESS"
    assert row.received_at is not None
    assert story.cluster.feed(story.now).limits["marks of one task"] > 9_000


def test_no_marks_derive_an_empty_row() -> None:
    row = derive(TaskRecord(uuid="u"), [])
    assert (row.state, row.marks) == ("PENDING", [])
