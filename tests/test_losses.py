"""What was not heard of a worker: missed, silent by design, or never sent; exact for any order and loss."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.cluster import Cluster
from monitor.cluster.losses import Losses
from monitor.cluster.processes import silent_of, totals_of
from monitor.events import event_from_dict
from monitor.records import Inspection, WorkerRecord

W = "w@host"


class Told:
    """A worker that tells its own truth: events, heartbeats, and answers to inspect; some are lost."""

    def __init__(self, registered: list[str] | None = None, already: dict[str, int] | None = None) -> None:
        self.cluster = Cluster()
        self.now = 1_000_000.0
        self.cluster.connected(self.now)
        self.registered = registered
        self.clock = 0
        self.totals: Counter[str] = Counter(already or {})
        self.pid = 7
        self.tasks = 0

    def send(self, kind: str, is_lost: bool = False, **fields: Any) -> None:
        self.clock += 1
        event = {"type": kind, "hostname": W, "pid": self.pid, "clock": self.clock, "timestamp": self.now}
        if not is_lost:
            self.cluster.apply(event_from_dict(event | fields), self.now)

    def run(self, name: str, is_lost: bool = False, is_silent: bool = False) -> None:
        self.tasks += 1
        self.totals[name] += 1
        if not is_silent:
            uuid = f"{name}-{self.tasks}"
            self.send("task-received", is_lost, uuid=uuid, name=name)
            self.send("task-started", is_lost, uuid=uuid)
            self.send("task-succeeded", is_lost, uuid=uuid)

    def beat(self) -> None:
        self.now += 2
        processed = sum(self.totals.values())
        self.send("worker-heartbeat", freq=2.0, active=0, processed=processed)
        self.cluster.absorb([])
        self.cluster.tick(self.now)
        self.cluster.cold()
        self.cluster.absorb([])
        self.cluster.drain(self.now)

    def answer(self) -> None:
        stats = {"pid": self.pid, "clock": str(self.clock), "total": dict(self.totals)}
        inspection = Inspection(W, self.now, stats=stats, registered=self.registered)
        self.cluster.reconcile(inspection, self.now)

    def settle(self) -> None:
        for _ in range(4):
            self.beat()
            self.answer()
        self.beat()
        self.beat()

    @property
    def record(self) -> WorkerRecord:
        return self.cluster.workers.known[W].record

    @property
    def account(self) -> dict[str, Any]:
        found: dict[str, Any] = self.record.details["losses"]
        return found

    def seen(self) -> int:
        return sum(p.losses.seen for p in self.cluster.workers.known[W].processes.values())


SILENT = ["shop.loud [acks_late=False send_events=True]", "shop.mute [acks_late=False send_events=False]"]


def test_a_task_that_sends_no_events_is_silent_and_not_missed() -> None:
    told = Told(SILENT)
    told.beat()
    told.answer()
    for _ in range(10):
        told.run("shop.mute", is_silent=True)
        told.run("shop.loud")
        told.beat()
        told.answer()
    told.settle()
    assert (told.record.missed, told.account["silent"], told.cluster.workers.silent) == (0, 10, 10)
    assert told.account["silent_names"] == ["shop.mute"]
    assert told.record.events_on is True


def test_what_is_missed_beside_silent_tasks_is_told_apart_and_named() -> None:
    told = Told(SILENT)
    told.beat()
    told.answer()
    for n in range(20):
        told.run("shop.mute", is_silent=True)
        told.run("shop.loud", is_lost=n % 4 == 0)
        told.beat()
        if n % 3 == 0:
            told.answer()
    told.settle()
    assert (told.record.missed, told.account["silent"]) == (5, 20)
    assert told.account["missed_names"] == {"shop.loud": 5}


def test_silent_tasks_that_ran_before_the_worker_was_asked_are_not_called_missed_for_good() -> None:
    told = Told(SILENT, already={"shop.mute": 50, "shop.loud": 50})
    told.beat()
    for _ in range(8):
        told.run("shop.mute", is_silent=True)
        told.run("shop.loud")
        told.beat()
    told.settle()
    assert (told.record.missed, told.account["silent"]) == (0, 8)


def test_the_names_of_what_was_missed_are_told_without_any_silent_task() -> None:
    told = Told(["shop.a", "shop.b"])
    told.beat()
    told.answer()
    for n in range(12):
        told.run("shop.a", is_lost=n in (3, 4, 5))
        told.run("shop.b", is_lost=n == 7)
        told.beat()
        told.answer()
    told.settle()
    assert told.record.missed == 4
    assert told.account["missed_names"] == {"shop.a": 3, "shop.b": 1}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(0, 3), st.booleans(), st.booleans()),
        max_size=20,
    ),
    st.randoms(use_true_random=False),
)
def test_for_any_story_what_ran_is_seen_missed_or_silent(
    story: list[tuple[int, int, int, bool, bool]], rng: random.Random
) -> None:
    told = Told(SILENT, already={"shop.loud": 3, "shop.mute": 2})
    told.beat()
    told.answer()
    missed = silent = seen = 0
    for heard, lost, mute, answers, answers_first in story:
        todo = [(False, False)] * (heard + 1) + [(True, False)] * lost + [(False, True)] * mute
        rng.shuffle(todo)
        for number, (is_lost, is_silent) in enumerate(todo):
            told.run("shop.mute" if is_silent else "shop.loud", is_lost, is_silent)
            if answers_first and number == len(todo) // 2:
                told.answer()
        missed, silent, seen = missed + lost, silent + mute, seen + heard + 1
        told.beat()
        if answers:
            told.answer()
        assert told.record.missed <= missed
    told.settle()
    assert (told.record.missed, told.account["silent"], told.account["pending"]) == (missed, silent, 0)
    assert told.seen() == seen
    assert told.account["missed_names"] == ({"shop.loud": missed} if missed else {})


def test_a_restart_keeps_what_was_counted_and_begins_anew() -> None:
    told = Told(SILENT)
    for pid in (7, 8, 8):
        told.pid = pid
        told.clock, told.totals = 0, Counter()
        told.now += 5
        told.send("worker-online", freq=2.0, active=0, processed=0)
        told.answer()
        for n in range(6):
            told.run("shop.mute", is_silent=True)
            told.run("shop.loud", is_lost=n == 2)
            told.beat()
            told.answer()
        told.settle()
    assert (told.record.missed, told.account["silent"]) == (3, 18)


def test_an_answer_of_another_process_or_a_cut_one_changes_nothing() -> None:
    told = Told(SILENT)
    told.beat()
    for n in range(6):
        told.run("shop.loud", is_lost=n == 1)
        wrong: list[Any] = [
            {"pid": 7, "clock": str(told.clock), "total": {"shop.mute": 10_000}},
            {"pid": 7, "clock": "x", "total": {"shop.mute": 1}},
            {"pid": 7, "clock": str(told.clock), "total": {"shop.mute": "1"}},
            {"pid": 99, "clock": str(told.clock), "total": {"shop.mute": 1}},
            {"pid": 7, "clock": True, "total": []},
        ]
        for stats in wrong:
            told.cluster.reconcile(Inspection(W, told.now, stats=stats, registered=SILENT), told.now)
        told.beat()
    told.settle()
    assert told.account["silent"] == 0
    assert told.record.missed == 1


def test_tasks_of_a_time_without_task_events_are_neither_missed_nor_forgotten() -> None:
    told = Told()
    told.beat()
    for _ in range(5):
        told.run("shop.loud", is_silent=True)
        told.beat()
    assert told.record.events_on is False
    for _ in range(5):
        told.run("shop.loud")
        told.beat()
    told.settle()
    assert (told.record.missed, told.record.events_on) == (0, True)
    assert told.account["unsent"] == 5


def test_the_table_of_starts_is_bounded_without_a_false_loss() -> None:
    losses = Losses()
    losses.beat(1, 0)
    for clock in range(2, 52):
        losses.starts.append(event_from_dict({"type": "task-started", "hostname": W, "pid": 1, "uuid": "u",
                                              "clock": clock, "timestamp": 1.0}))  # fmt: skip
    losses.trim(10)
    for n in range(4):
        losses.beat(100 + n, 50)
    assert losses.missed == 0
    assert losses.over == 40


@pytest.mark.parametrize("answer", [None, 5, {}, ["a"], [None, 5, {"x": 1}]])
def test_strange_answers_to_inspect_name_nobody_silent(answer: Any) -> None:
    assert silent_of(answer) == set()
    assert totals_of(answer) is None


def test_silent_tasks_alone_do_not_turn_the_events_off_and_events_that_are_off_are_told_all_the_same() -> (
    None
):
    told = Told(SILENT)
    told.beat()
    told.run("shop.loud")
    for _ in range(6):
        told.run("shop.mute", is_silent=True)
        told.beat()
        told.answer()
    told.settle()
    assert (told.record.missed, told.account["silent"], told.account["unsent"]) == (0, 6, 0)
    assert told.record.events_on is True
    for _ in range(6):
        told.run("shop.loud", is_silent=True)
        told.run("shop.mute", is_silent=True)
        told.beat()
        told.answer()
    told.settle()
    assert (told.record.missed, told.account["silent"], told.account["unsent"]) == (0, 12, 6)
    assert told.record.events_on is False


@pytest.mark.parametrize("registered", [None, SILENT])
def test_what_ran_while_we_did_not_listen_was_missed_however_long_and_quiet_it_was(
    registered: list[str] | None,
) -> None:
    told = Told(registered)
    told.beat()
    told.answer()
    told.run("shop.loud")
    told.beat()
    told.cluster.disconnected(told.now, "kicked")
    for n in range(12):
        told.run("shop.loud", is_lost=True)
        told.now += 1
        if n % 3 == 0:
            told.clock += 1  # a heartbeat that we do not hear
        told.answer()
    told.cluster.connected(told.now)
    told.settle()
    assert (told.record.missed, told.account["unsent"]) == (12, 0)
    assert told.record.events_on is True
