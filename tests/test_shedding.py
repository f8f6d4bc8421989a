"""Under overload detail gives way in the stated order, all of it counted, and no end of a task ever does."""

from __future__ import annotations

import itertools
from typing import Any

from monitor.cluster import Cluster
from monitor.deltas import ANY_TASK, MOST_TASKS, topics
from monitor.engine.shedding import COARSE, LEVELS, LONG, PAYLOAD, RAW, STEPS, Shedding
from monitor.events import TaskEvent, WorkerEvent, event_from_dict
from monitor.records import Rollup, TaskRecord

AT = 1_700_000_000.0
clocks = itertools.count(1)


def event(kind: str, **fields: Any) -> TaskEvent | WorkerEvent:
    base = {"hostname": "w@h", "pid": 7, "clock": next(clocks), "timestamp": AT, "uuid": "u1"}
    return event_from_dict({"type": kind, **base, **fields})


def life() -> list[TaskEvent | WorkerEvent]:
    return [
        event("task-sent", hostname="gen@c", name="a", args="(1,)", kwargs="{}", queue="q"),
        event("task-received", name="a", args="(1,)", kwargs="{}"),
        event("task-started"),
        event("task-progress", percent=5),
        event("task-succeeded", result="'x'", runtime=0.1),
        event("task-failed", exception="E('x')", traceback="tb"),
        event("worker-heartbeat", processed=1, active=0, freq=2.0),
    ]


def at(level: int) -> Shedding:
    shedding = Shedding(1_000)
    assert shedding.look(int(LEVELS[level][0] * 1_000)) == level
    return shedding


def test_levels_rise_with_what_waits_and_fall_late() -> None:
    shedding = Shedding(1_000)
    assert [shedding.look(n) for n in (0, 99, 100, 250, 400, 550, 700, 1_000)] == [0, 0, 1, 2, 3, 4, 5, 5]
    assert shedding.says.startswith("sending and starting")
    assert [shedding.look(n) for n in (400, 349, 200, 125, 50, 49)] == [5, 4, 3, 2, 1, 0]
    assert shedding.highest == 5


def test_nothing_is_let_go_while_frames_and_batches_can_still_grow_coarser() -> None:
    for level in (0, COARSE, LONG):
        shedding = at(level)
        events = life()
        assert shedding.thin(events) == events
        assert not shedding.shed


def test_custom_events_go_first_then_payloads_then_intermediate_states() -> None:
    kept = at(RAW).thin(life())
    assert [e.kind for e in kept][:3] == ["sent", "received", "started"]
    assert "progress" not in [e.kind for e in kept]
    assert kept[1].args == "(1,)"

    shedding = at(PAYLOAD)
    kept = shedding.thin(life())
    assert [getattr(e, "args", None) or getattr(e, "result", None) for e in kept] == [None] * 6
    assert kept[4].exception == "E('x')"
    assert shedding.shed == {"custom events": 1, "arguments, results and tracebacks": 6}

    shedding = at(STEPS)
    kept = shedding.thin(life())
    assert [e.kind for e in kept] == ["received", "succeeded", "failed", "worker-heartbeat"]
    assert shedding.shed["intermediate states"] == 2


def test_what_is_let_go_is_counted_as_dropped_and_in_the_rates_and_as_no_loss() -> None:
    cluster = Cluster()
    cluster.connected(AT)
    events = life()[:3]
    cluster.shed([events[0], events[2]], AT)
    cluster.apply_all([events[1]], AT)
    cluster.cold()
    cluster.absorb([])
    records = cluster.drain(AT)
    counts = [r for r in records if isinstance(r, Rollup) and r.width == 10]
    assert [(r.received, r.started) for r in counts] == [(1, 1)]
    accounting = cluster.accounting
    assert (accounting.received, accounting.dropped, accounting.applied) == (3, 2, 1)
    assert accounting.balanced
    assert accounting.refused == {"let go under overload": 2}


def test_many_changed_tasks_are_told_as_any() -> None:
    few = [TaskRecord(str(n)) for n in range(MOST_TASKS)]
    assert len(topics(few)) == MOST_TASKS + 1
    assert topics([*few, TaskRecord("one more")]) == {"tasks", ANY_TASK}
