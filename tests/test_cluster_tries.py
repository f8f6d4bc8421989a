"""The straight way of lives with several tries gives what the general way gives: rows, counts and places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.cluster import Cluster, tries
from monitor.events import TaskEvent
from monitor.records import ENDED, Rollup, TaskRecord
from monitor.redact import DEFAULT
from tests.test_cluster_order import lives, shown
from tests.test_cluster_plain import generally, make, names, texts

AT = 1_700_000_000.0


def agree(events: list[TaskEvent]) -> bool:
    """Whether the tries were told in order; if so both ways say the same, to the byte."""
    for n, event in enumerate(events):
        event.seen_at = AT + n / 7
    row = tries.row_of(events[0].uuid, events, DEFAULT)
    if row is not None:
        assert row == generally(events)
        assert msgspec.json.encode(row) == msgspec.json.encode(generally(events))
    return row is not None


@st.composite
def told_in_order(draw: st.DrawFn) -> list[TaskEvent]:
    """Tries on one or more workers, each perhaps announced by its client, and put back or retried."""
    events: list[TaskEvent] = []
    clocks = {"v@h": 5, "w@h": 5}
    at, retries = AT, 0

    def call() -> dict[str, Any]:
        return {
            "name": draw(names),
            "args": draw(texts),
            "kwargs": draw(texts),
            "root_id": draw(st.sampled_from([None, "u1", "other"])),
            "eta": draw(st.sampled_from([None, None, "2026-11-22T15:27:19+00:00", "never"])),
            "expires": draw(st.sampled_from([None, None, "never", 1_800_000_000.0])),
            "retries": retries,
        }

    def tell(kind: str, host: str, **fields: Any) -> None:
        nonlocal at
        at += draw(st.floats(0.001, 3))
        clocks[host] += draw(st.integers(1, 3))
        events.append(make(kind, clocks[host], at, host, **fields))

    for turn in range(draw(st.integers(1, 4))):
        host = draw(st.sampled_from(sorted(clocks)))
        if draw(st.booleans()):
            fields = call() | {"queue": draw(names), "routing_key": draw(names)}
            events.append(make("sent", turn + 1, at + 0.0005, "gen1@c", **fields))
        tell("received", host, **call())
        if draw(st.integers(0, 5)):
            tell("started", host)
        how = draw(st.sampled_from(["retried", "retried", "rejected", "failed", "succeeded", "revoked", ""]))
        if how:
            tell(
                how,
                host,
                result=draw(texts),
                runtime=draw(st.sampled_from([None, 1.5])),
                exception=draw(texts),
                traceback=draw(texts),
                terminated=draw(st.booleans()),
                signum=draw(st.sampled_from([None, 9])),
                requeue=draw(st.booleans()),
            )
        retries += how == "retried"
    return events


@settings(max_examples=600, deadline=None)
@given(told_in_order(), st.randoms(use_true_random=False))
def test_both_ways_agree_on_tries_in_whatever_order_they_come(events: list[Any], rng: Any) -> None:
    rng.shuffle(events)
    agree(events)


@settings(max_examples=300, deadline=None)
@given(lives())
def test_both_ways_agree_on_any_life(events: list[Any]) -> None:
    agree(events)


def life(*, split: bool = False) -> list[TaskEvent]:
    """Retried once, and run again, on another worker if ``split``."""
    other = "v@h" if split else "w@h"
    call = {"name": "shop.pay", "args": "(1,)", "kwargs": "{}", "root_id": "u1"}
    return [
        make("sent", 1, AT, "gen1@c", queue="q", retries=0, **call),
        make("received", 2, AT + 1, retries=0, **call),
        make("started", 3, AT + 2),
        make("retried", 4, AT + 3, exception="OSError('again')", traceback="tb"),
        make("received", 6, AT + 4, other, retries=1, **call),
        make("started", 7, AT + 5, other),
        make("succeeded", 8, AT + 7, other, result="1", runtime=1.0),
    ]


def test_a_retried_task_takes_the_straight_way() -> None:
    for events in (life(), life(split=True), life()[:4], life()[:5], life()[1:]):
        assert agree(events)


def test_what_may_belong_to_either_of_two_tries_is_left_to_the_general_way() -> None:
    events = life()
    again = make("received", 3, AT + 2.5, retries=1, name="shop.pay")  # before its worker tells of the retry
    for odd in (
        [*events[:3], again],
        [*events, events[-1]],  # told twice
        [*events, make("failed", 9, AT + 8, exception="E()")],  # two ends
        [events[0], events[0], *events[1:]],
        [*events[:4], *events[5:]],  # the receipt was missed
        [*events, make("progress", 10, AT + 9)],
        [make("started", 3, 0.0), *events],
    ):
        assert not agree(odd)


@contextmanager
def generally_only() -> Iterator[None]:
    with (
        patch("monitor.cluster.tries.row_of", lambda *_: None),
        patch("monitor.cluster.tasks.row_of", lambda *_: None),
    ):
        yield


def told(parts: list[list[TaskEvent]]) -> tuple[dict[str, Any], Counter[Any], set[tuple[str, int]]]:
    """The row, what was counted, and where the task is looked for, when a tick is between the parts."""
    cluster = Cluster()
    row: TaskRecord | None = None
    counts: Counter[Any] = Counter()
    for turn, part in enumerate(parts):
        cluster.apply_all(part, AT + turn)
        cold = cluster.cold()
        cluster.absorb([row] if row is not None and cold else [])
        for record in cluster.drain(AT + turn):
            if isinstance(record, TaskRecord):
                row = record
            elif isinstance(record, Rollup):
                for kind in ("received", "started", "succeeded", "failed", "retried", "revoked", "rejected"):
                    counts[record.by, record.key, kind] += getattr(record, kind)
                counts[record.by, record.key, "runtimes"] += sum(record.runtime.values())
                counts[record.by, record.key, "waits"] += sum(record.wait.values())
    assert row is not None
    assert cluster.accounting.balanced
    places = {place for place, found in cluster.tasks.by_process.items() if "u1" in found}
    return shown(row), +counts, places if row.state not in ENDED else set()


@settings(max_examples=200, deadline=None)
@given(told_in_order(), st.data())
def test_rows_and_counts_are_the_same_however_ticks_fall(events: list[Any], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(events) - 1)), max_size=3)))
    parts = [events[a:b] for a, b in zip([0, *cuts], [*cuts, len(events)], strict=True) if a < b]
    row, counts, _ = told(parts)
    with generally_only():
        row_then, counts_then, _ = told(parts)
    assert row == row_then
    assert counts == counts_then


def test_a_task_is_looked_for_where_it_runs_last() -> None:
    events = life(split=True)
    assert told([events[:3]])[2] == {("w@h", 7)}
    assert told([events[:4]])[2] == {("w@h", 7)}
    assert told([events[:4], events[4:5]])[2] == {("v@h", 7)}
    assert told([events[:2], events[2:6]])[2] == {("v@h", 7)}
    assert told([events[:6], events[6:]])[2] == set()


def test_a_task_of_many_tries_is_trimmed_as_ever() -> None:
    events: list[TaskEvent] = []
    for n in range(60):
        events += [
            make("received", 10 * n + 1, AT + n, retries=n, name="shop.pay"),
            make("started", 10 * n + 2, AT + n + 0.1),
            make("retried", 10 * n + 3, AT + n + 0.2, exception="OSError()"),
        ]
    assert not agree(events)
    row, _, _ = told([events[:30], events[30:90], events[90:]])
    assert row["retries"] == 59
    assert len(row["marks"]) <= 64
