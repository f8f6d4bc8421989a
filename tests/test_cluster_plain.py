"""The straight way to a plain task's row gives what the general way gives, and knows what is not plain."""

from __future__ import annotations

import random
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.cluster import Cluster, plain
from monitor.cluster.limits import Limits
from monitor.cluster.tasks import Tasks
from monitor.events import TaskEvent, event_from_dict
from monitor.records import TaskRecord
from monitor.redact import DEFAULT
from tests.test_cluster_order import RECORDINGS, lives, recorded

AT = 1_700_000_000.0


def generally(events: list[TaskEvent]) -> TaskRecord:
    """The row by way of marks, whatever life it is."""
    tasks = Tasks(DEFAULT, Limits())
    task = tasks.find_or_enter(events[0].uuid, AT)
    tasks._file(task, events, AT)
    return task.derive()


def agree(events: list[TaskEvent]) -> bool:
    """Whether the life was plain; if so both ways say the same, to the byte."""
    for n, event in enumerate(events):
        event.seen_at = AT + n / 7
    row = plain.row_of(events[0].uuid, events, DEFAULT)
    if row is not None:
        assert row == generally(events)
        decoder = msgspec.json.Decoder(TaskRecord)
        assert decoder.decode(msgspec.json.encode(row)) == decoder.decode(
            msgspec.json.encode(generally(events))
        )
    return row is not None


def make(kind: str, clock: int, at: float, host: str = "w@h", pid: int = 7, **fields: Any) -> TaskEvent:
    base = {"type": f"task-{kind}", "hostname": host, "pid": pid, "clock": clock, "timestamp": at}
    event = event_from_dict({"uuid": "u1", **base, **fields})
    assert isinstance(event, TaskEvent)
    return event


texts = st.sampled_from(
    [None, "", "(1,)", "{'password': 'hunter2'}", "x" * 3_000, "'4111 1111 1111 1111'", "redis://a:b@c/"]
)
moments = st.sampled_from([None, "2026-11-22T15:27:19+00:00", "never", 1_800_000_000.0])
names = st.sampled_from([None, "", "shop.pay"])
ids = st.sampled_from([None, "", "u1", "other"])


@st.composite
def plain_lives(draw: st.DrawFn) -> list[TaskEvent]:
    """Lives that are plain or nearly so, with every field present, absent or odd."""

    def call() -> dict[str, Any]:
        return {
            "name": draw(names),
            "args": draw(texts),
            "kwargs": draw(texts),
            "root_id": draw(ids),
            "parent_id": draw(ids),
            "eta": draw(st.one_of(st.none(), moments)),
            "expires": draw(moments),
            "retries": draw(st.sampled_from([None, 0, 0, 0, 1])),
        }

    at = [AT + offset for offset in sorted(draw(st.lists(st.floats(0, 9), min_size=4, max_size=4)))]
    skew = draw(st.sampled_from([0.0, -300.0, 0.5, 300.0]))
    client = draw(st.sampled_from(["gen1@c", "w@h"]))
    events = [
        make("sent", 1, at[0] + skew, client, queue=draw(names), routing_key=draw(names), **call()),
        make("received", draw(st.integers(0, 2)), at[1], **call()),
        make("started", draw(st.integers(1, 4)), at[2], draw(st.sampled_from(["w@h", "w@h", "v@h"]))),
        make(
            draw(st.sampled_from(["succeeded", "succeeded", "failed", "revoked", "rejected"])),
            draw(st.integers(3, 6)),
            at[3],
            result=draw(texts),
            runtime=draw(st.sampled_from([None, 0.0, 1.5])),
            exception=draw(texts),
            traceback=draw(texts),
            terminated=draw(st.sampled_from([None, False, True])),
            expired=draw(st.sampled_from([None, False, True])),
            signum=draw(st.sampled_from([None, "SIGKILL", "", 9])),
            requeue=draw(st.sampled_from([None, False, True])),
        ),
    ]
    kept = draw(
        st.sampled_from([[0], [1], [0, 1], [1, 2], [0, 1, 2], [1, 2, 3], [0, 1, 2, 3], [2, 3], [1, 3]])
    )
    chosen = [events[n] for n in kept]
    return draw(st.permutations(chosen))


@settings(max_examples=600, deadline=None)
@given(plain_lives())
def test_both_ways_agree_on_plain_lives(events: list[TaskEvent]) -> None:
    agree(events)


@settings(max_examples=100, deadline=None)
@given(lives())
def test_both_ways_agree_on_any_life(events: list[Any]) -> None:
    agree(events)


def test_most_recorded_tasks_are_plain() -> None:
    plainly = total = 0
    for path in RECORDINGS:
        by_task: dict[str, list[TaskEvent]] = {}
        for event in recorded(path):
            by_task.setdefault(event.uuid, []).append(event)  # type: ignore[arg-type]
        for events in by_task.values():
            total += 1
            plainly += agree(events)
    assert plainly > total / 3


def test_a_plain_task_that_goes_on_over_ticks_ends_as_if_told_at_once() -> None:
    life = [
        make("sent", 1, AT, "gen1@c", name="a", args="(1,)", queue="q", root_id="u1", retries=0),
        make("received", 2, AT + 1, name="a", args="(1,)", kwargs="{}", root_id="u1", retries=0),
        make("started", 3, AT + 2),
        make("succeeded", 4, AT + 3, result="1", runtime=1.0),
    ]
    whole = plain.row_of("u1", life, DEFAULT)
    assert whole is not None
    rng = random.Random(5)
    for _ in range(20):
        order = rng.sample(life, len(life))
        cluster = Cluster()
        rows = []
        for event in order:
            cluster.apply(event, AT)
            cluster.cold()
            cluster.absorb([r for r in rows[-1:] if "u1" not in cluster.tasks.live])
            rows += [d for d in cluster.drain(AT) if isinstance(d, TaskRecord)]
        last = rows[-1]
        last.first_seen_at, last.seen_at = whole.first_seen_at, whole.seen_at
        for mine, theirs in zip(last.marks, whole.marks, strict=True):
            assert mine.key == theirs.key
        assert last.state == "SUCCESS"
        assert (last.attempts, last.wait, last.queue) == (whole.attempts, whole.wait, whole.queue)
        assert not cluster.tasks.by_process
