"""Counts by worker and task name together: bounded, exact, seldom written, forgotten with their workers."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from django.db import connection

from monitor import models
from monitor.cluster.counts import Count
from monitor.cluster.limits import Limits
from monitor.cluster.pairs import EVERY, IDLE, LONGEST, OTHERS, Pairs
from monitor.cluster.tally import Tally
from monitor.records import Mark, Rollup, TaskRecord
from monitor.store import Store, pairs

ONE = (1, 0, 0, 0, 0, 0, 0, 0)
NOW = 1_800_000_000.0


def count(counts: Sequence[int], runtime: dict[int, int] | None = None) -> Count:
    made = Count()
    made.counts, made.runtime = list(counts), dict(runtime or {})
    return made


def test_counts_add_up_and_wait_for_ten_seconds() -> None:
    held = Pairs(Limits())
    given = count((2, 1, 0, 0, 0, 0, 0, 0), {3: 1})
    held.add("w@h", "t", given, NOW)
    (first,) = held.drain(NOW)
    held.add("w@h", "t", count(ONE), NOW + 1)
    held.add("w@h", "t", count((0, 0, 1, 0, 0, 0, 0, 0), {3: 1, 4: 2}), NOW + 2)
    assert held.drain(NOW + EVERY / 2) == []
    (second,) = held.drain(NOW + EVERY)
    assert (first.key, first.received, first.started, first.runtime) == ("w@h\nt", 2, 1, {3: 1})
    assert (second.received, second.succeeded, second.runtime) == (1, 1, {3: 1, 4: 2})
    assert (given.counts[:2], given.runtime) == ([2, 1], {3: 1})
    held.add("w@h", "t", count(ONE), NOW + 11)
    assert len(held.drain(NOW + 12, all_of_it=True)) == 1
    assert held.drain(NOW + 99) == []


def test_past_the_bound_all_others_are_one_until_some_fall_silent() -> None:
    limits = Limits()
    held = Pairs(limits, most=2)
    for n in range(5):
        held.add(f"w{n}@h", "t", count(ONE), NOW)
    held.add("w0@h", "t", count(ONE), NOW + IDLE)
    counts = {r.key: r.received for r in held.drain(NOW)}
    assert counts == {"w0@h\nt": 2, "w1@h\nt": 1, OTHERS: 3}
    assert limits.let_go["metric labels"] == 3
    held.add("new@h", "t", count(ONE), NOW + IDLE + 1)
    assert {r.key for r in held.drain(NOW + IDLE + 1)} == {"new@h\nt"}


@pytest.mark.parametrize(("worker", "name"), [("", "t"), ("w", ""), ("w" * 200, "t" * 200), ("a\nb", "t")])
def test_what_is_no_pair_is_counted_with_the_others(worker: str, name: str) -> None:
    held = Pairs(Limits())
    held.add(worker, name, count(ONE), NOW)
    (only,) = held.drain(NOW)
    assert only.key == OTHERS and len(only.key) <= LONGEST


def test_what_a_client_only_sent_is_no_pair() -> None:
    limits = Limits()
    held = Pairs(limits)
    held.add("", "t", count((0,) * 8), NOW)
    assert held.drain(NOW) == [] and not limits.let_go["metric labels"]


def test_the_tally_counts_every_mark_by_its_pair() -> None:
    tally = Tally(Limits())
    row = TaskRecord("u", name="t", worker="w@h", state="SUCCESS", runtime=2.0)
    marks = [
        Mark(kind, "w@h", 1, n, NOW, NOW) for n, kind in enumerate(("received", "started", "succeeded"), 1)
    ]
    tally.count(row, marks)
    found = [r for r in tally.drain(NOW) if isinstance(r, Rollup) and r.by == "pair"]
    assert [(r.key, r.received, r.started, r.succeeded, sum(r.runtime.values())) for r in found] == [
        ("w@h\nt", 1, 1, 1, 1)
    ]


@pytest.mark.django_db(transaction=True)
def test_rows_add_up_over_restarts_and_go_with_their_workers() -> None:
    now = time.time()
    for hostname, status, heard in (
        ("here@h", "online", now), ("just@h", "offline", now - 60),
        ("gone@h", "offline", now - pairs.GONE - 60),
    ):  # fmt: skip
        models.Worker.objects.create(hostname=hostname, status=status, first_seen_at=1.0, heartbeat_at=heard)
    for _ in range(2):
        store = Store()
        for worker in ("here@h", "just@h", "gone@h", "never-seen@h", "other"):
            store.write([Rollup(0, "pair", f"{worker}\nt", 0, received=2, runtime={5: 1})], now)
    row = models.Rollup.objects.get(key="here@h\nt")
    assert (row.received, row.runtime) == (4, {"5": 2})
    Store().prune(now)
    left = models.Rollup.objects.filter(by="pair").values_list("key", flat=True)
    assert set(left) == {"here@h\nt", "just@h\nt", "other\nt"}
    with connection.cursor() as cursor:
        assert pairs.forget(cursor, now) == 0
