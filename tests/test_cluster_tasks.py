"""What a task's events, an inspection and the result backend make of its row."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from monitor import rates
from monitor.cluster import Cluster, Limits, derive
from monitor.events import event_from_dict
from monitor.records import Inspection, Mark, Queued, Rollup, Settled, TaskRecord, TaskType

NOW = 1_000_000.0
W, V = "w@host", "v@other"


class Story:
    """Tells a cluster the events of one task, by worker and Lamport clock."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.cluster = Cluster(limits=limits or Limits())
        self.cluster.connected(NOW - 100)
        self.now = NOW
        self.clock = 0
        self.rows: dict[str, TaskRecord] = {}  # as the database would hold them

    def tell(
        self, kind: str, worker: str = W, at: float | None = None, uuid: str = "u1", **fields: Any
    ) -> Story:
        self.clock += 1
        self.now += 0.1
        stamp = self.now if at is None else at
        base = {"type": f"task-{kind}", "hostname": worker, "pid": 7, "clock": self.clock, "timestamp": stamp}
        self.cluster.apply(event_from_dict({"uuid": uuid, **base, **fields}), self.now)
        return self

    def beat(self, worker: str = W, pid: int = 7, kind: str = "heartbeat", **fields: Any) -> Story:
        self.clock += 1
        base = {"type": f"worker-{kind}", "hostname": worker, "pid": pid, "clock": self.clock, "freq": 2.0}
        given = {"timestamp": self.now, "processed": 0, "active": 0}
        self.cluster.apply(event_from_dict(base | given | fields), self.now)
        return self

    def received(self, retries: int = 0, **fields: Any) -> Story:
        return self.tell("received", name="shop.pay", args="(1,)", kwargs="{}", retries=retries, **fields)

    def drain(self) -> list[Any]:
        self.cluster.cold()
        self.cluster.absorb([])
        return list(self.cluster.drain(self.now))

    def row(self, uuid: str = "u1") -> TaskRecord:
        self.rows |= {r.uuid: r for r in self.drain() if isinstance(r, TaskRecord)}
        return self.rows[uuid]


def test_a_whole_life_has_every_time_and_the_result() -> None:
    story = Story().tell("sent", "gen1@c", name="shop.pay", args="(1,)", kwargs="{}", queue="q", retries=0)
    row = story.received().tell("started").tell("succeeded", result="'ok'", runtime=0.5).row()
    assert (row.state, row.name, row.queue, row.result, row.runtime) == (
        "SUCCESS",
        "shop.pay",
        "q",
        "'ok'",
        0.5,
    )
    assert row.sender == "gen1@c"
    assert row.sent_at and row.received_at and row.started_at and row.ended_at
    assert row.wait == pytest.approx(0.2)


def test_a_success_after_a_failure_keeps_the_old_exception_in_its_attempt_only() -> None:
    story = Story().received().tell("started").tell("failed", exception="ValueError('a')", traceback="tb")
    row = story.received().tell("started").tell("succeeded", result="1").row()
    assert (row.state, row.exception, row.traceback, row.result) == ("SUCCESS", None, None, "1")
    assert [a.exception for a in row.attempts] == ["ValueError('a')", None]


def test_a_failed_task_that_was_delivered_again_is_running() -> None:
    story = Story().received().tell("started").tell("failed", exception="E('x')")
    row = story.received(worker=V).tell("started", V).row()
    assert (row.state, row.worker, row.ended_at, row.exception) == ("STARTED", V, None, None)


def test_the_same_task_on_two_workers_is_not_mixed() -> None:
    story = Story().received().tell("started").received(worker=V).tell("started", V)
    row = story.tell("succeeded", V, result="'b'").tell("failed", exception="E('a')", traceback="tb a").row()
    assert [(a.worker, a.state) for a in row.attempts] == [(W, "FAILURE"), (V, "SUCCESS")]
    assert (row.state, row.worker, row.result, row.exception) == ("SUCCESS", V, "'b'", None)


def test_retries_are_kept_as_attempts() -> None:
    story = Story().received().tell("started").tell("retried", exception="OSError('x')", traceback="tb")
    row = story.row()
    assert (row.state, row.exception_type, row.traceback, row.ended_at) == ("RETRY", "OSError", "tb", None)
    row = story.received(1, eta="2026-11-22T15:27:19+00:00").row()
    assert (row.state, row.retries, row.exception) == ("RECEIVED", 1, None)
    assert row.eta == 1795361239.0
    assert [(a.number, a.state, a.exception) for a in row.attempts] == [
        (0, "RETRY", "OSError('x')"),
        (1, "RECEIVED", None),
    ]


def test_a_retry_received_before_its_worker_told_of_it_is_the_next_attempt() -> None:
    story = Story().received().tell("started").received(1).tell("retried", exception="E('x')")
    assert [(a.number, a.state) for a in story.row().attempts] == [(0, "RETRY"), (1, "RECEIVED")]
    row = story.tell("started").tell("succeeded", result="1").row()
    assert [(a.number, a.state) for a in row.attempts] == [(0, "RETRY"), (1, "SUCCESS")]


def test_an_end_belongs_to_the_attempt_that_runs_though_the_end_of_another_was_missed() -> None:
    story = Story().received().tell("started").received(1).tell("started").tell("succeeded", result="1")
    row = story.row()
    assert [(a.number, a.state, a.note) for a in row.attempts] == [
        (0, "RETRY", "end not seen"),
        (1, "SUCCESS", ""),
    ]
    assert row.state == "SUCCESS"


def test_a_reject_beats_the_failure_that_comes_with_it() -> None:
    story = Story().received().tell("started").tell("failed", exception="reject requeue=False: no")
    row = story.tell("rejected", requeue=False).row()
    assert (row.state, row.exception) == ("REJECTED", "reject requeue=False: no")


def test_a_reject_that_requeues_waits_again_until_it_is_delivered() -> None:
    row = Story().received().tell("started").tell("rejected", requeue=True).row()
    assert (row.state, row.ended_at, row.note) == ("PENDING", None, "returned to its queue")


def test_a_soft_terminate_that_the_task_survived_is_a_success() -> None:
    story = (
        Story().received().tell("started").tell("revoked", terminated=True, signum="SIGUSR1", expired=False)
    )
    assert story.row().state == "REVOKED"
    assert story.tell("succeeded", result="None").row().state == "SUCCESS"


def test_a_killed_greenlet_stays_revoked() -> None:
    story = Story().received().tell("started").tell("revoked", terminated=True, signum=15, expired=False)
    row = story.tell("succeeded", result="None").row()
    assert (row.state, row.terminated, row.signum) == ("REVOKED", True, "15")
    assert (
        Story()
        .received()
        .tell("revoked", terminated=True, signum=15)
        .tell("succeeded", result="42")
        .row()
        .state
        == "SUCCESS"
    )


def test_a_queued_task_revoked_without_ever_being_received_is_revoked() -> None:
    row = Story().tell("revoked", terminated=False, expired=True, signum=None).row()
    assert (row.state, row.expired, row.name) == ("REVOKED", True, "")


def test_a_task_seen_only_at_its_end_is_kept_as_far_as_known() -> None:
    row = Story().tell("succeeded", result="1", runtime=2.0).row()
    assert (row.state, row.name, row.started_at, row.wait) == ("SUCCESS", "", None, None)
    assert row.worker == W


def test_a_task_sent_only_waits() -> None:
    row = (
        Story().tell("sent", "gen1@c", name="n", queue="q", eta="2030-01-01T00:00:00+00:00", retries=0).row()
    )
    assert (row.state, row.worker, row.queue) == ("PENDING", "", "q")
    assert row.eta == 1893456000.0


def test_custom_events_keep_their_fields_and_change_no_state() -> None:
    row = Story().received().tell("started").tell("progress", current=1, total=3, note="x" * 9000).row()
    assert row.state == "STARTED"
    mark = row.marks[-1]
    assert mark.kind == "progress"
    assert mark.detail is not None
    assert (mark.detail["current"], mark.detail["total"], len(mark.detail["note"])) == (1, 3, 512)


def test_a_clock_hours_off_on_another_host_changes_nothing() -> None:
    story = Story().received().tell("started").tell("retried", exception="E('x')")
    row = story.received(1, worker=V, at=NOW - 20_000).tell("started", V, at=NOW - 19_999).row()
    assert (row.state, row.worker, row.retries) == ("STARTED", V, 1)


def test_the_arguments_of_the_last_attempt_are_shown_whoever_told_first() -> None:
    story = (
        Story()
        .tell("received", name="n", args="(2,)", retries=1)
        .tell("received", name="n", args="(1,)", retries=0)
    )
    assert story.row().args == "(2,)"


def test_secrets_never_enter_a_row() -> None:
    story = Story().tell("received", name="n", args="()", kwargs="{'password': 'hunter2', 'n': 1}", retries=0)
    story.tell("started").tell("progress", token="hunter2", step=1)
    row = story.tell("failed", exception="Auth('token=hunter2')", traceback="  password='hunter2'").row()
    assert "hunter2" not in msgspec.json.encode(row).decode()
    assert row.kwargs == "{'password': '[hidden]', 'n': 1}"


def test_an_event_with_an_absurd_time_uses_the_time_of_receipt() -> None:
    story = Story().received(at=1795361237399.0)
    row = story.row()
    assert row.received_at == pytest.approx(story.now)
    assert story.cluster.feed(story.now).limits["timestamps that were not usable"] == 1


# inferred


def test_running_tasks_of_a_silent_worker_are_lost_and_a_real_end_still_wins() -> None:
    story = Story().beat().received().tell("started")
    story.row()
    story.now += 5
    story.cluster.tick(story.now)
    assert story.row().state == "STARTED"
    story.now += 2
    story.cluster.tick(story.now)
    row = story.row()
    assert (row.state, row.note, row.known) == ("LOST", "worker lost", "inferred")
    row = story.tell("succeeded", result="1").row()
    assert (row.state, row.note, row.known) == ("SUCCESS", "", "seen")


def test_a_lost_task_that_is_delivered_again_runs() -> None:
    story = Story().beat().received().tell("started")
    story.row()
    story.now += 10
    story.cluster.tick(story.now)
    assert story.row().state == "LOST"
    row = story.received(worker=V).tell("started", V).row()
    assert [(a.worker, a.state, a.note) for a in row.attempts] == [
        (W, "LOST", "worker lost"),
        (V, "STARTED", ""),
    ]


def test_waiting_tasks_of_a_dead_worker_are_not_lost() -> None:
    story = Story().beat().received()
    story.row()
    story.now += 60
    story.cluster.tick(story.now)
    assert story.row().state == "RECEIVED"


def test_tasks_go_on_after_a_warm_goodbye_and_are_lost_after_a_long_silence() -> None:
    story = Story().beat().received().tell("started")
    story.row()
    story.beat(kind="offline")
    story.now += 20
    story.cluster.tick(story.now)
    assert story.row().state == "STARTED"
    story.now += 15
    story.cluster.tick(story.now)
    assert story.row().state == "LOST"


def test_nothing_is_lost_while_the_broker_is_silent() -> None:
    story = Story().beat().received().tell("started")
    story.row()
    story.cluster.disconnected(story.now, "connection refused")
    story.now += 600
    story.cluster.tick(story.now)
    assert story.row().state == "STARTED"
    story.cluster.connected(story.now)
    story.now += 8
    story.cluster.tick(story.now)
    assert story.row().state == "STARTED"


def inspection(asked: float, worker: str = W, **held: Any) -> Inspection:
    empty: dict[str, Any] = {"active": [], "reserved": [], "scheduled": [], "stats": {"pid": 7}}
    return Inspection(hostname=worker, asked_at=asked, **(empty | held))


def test_an_inspection_creates_rows_for_what_was_never_heard_of() -> None:
    story = Story()
    held = {
        "id": "u1",
        "name": "shop.pay",
        "args": [1, "x"],
        "kwargs": {"password": "hunter2"},
        "time_start": NOW - 9,
    }
    reserved = {"id": "u2", "name": "shop.mail", "args": "()", "kwargs": "{}", "time_start": None}
    eta = {"eta": "2030-01-01T00:00:00+00:00", "priority": 6, "request": {"id": "u3", "name": "shop.late"}}
    story.cluster.reconcile(inspection(NOW, active=[held], reserved=[reserved], scheduled=[eta]), story.now)
    rows = {r.uuid: r for r in story.drain() if isinstance(r, TaskRecord)}
    first = rows["u1"]
    assert (first.state, first.known, first.worker, first.started_at) == ("STARTED", "inferred", W, NOW - 9)
    assert (first.args, first.kwargs) == ("[1, 'x']", "{'password': '[hidden]'}")
    assert (rows["u2"].state, rows["u2"].name, rows["u2"].known) == ("RECEIVED", "shop.mail", "inferred")
    assert (rows["u3"].state, rows["u3"].eta) == ("RECEIVED", 1893456000.0)
    row = story.tell("succeeded", result="1").row()
    assert (row.state, row.name, row.known) == ("SUCCESS", "shop.pay", "seen")


def test_an_inspection_lifts_a_received_task_whose_start_was_missed() -> None:
    story = Story().beat().received()
    story.row()
    story.cluster.reconcile(inspection(story.now, active=[{"id": "u1", "time_start": NOW}]), story.now)
    row = story.row()
    assert (row.state, row.started_at, row.known) == ("STARTED", NOW, "inferred")


def test_an_inspection_takes_back_a_loss_that_was_none() -> None:
    story = Story().beat().received().tell("started")
    story.row()
    story.now += 10
    story.cluster.tick(story.now)
    assert story.row().state == "LOST"
    story.now += 5
    story.beat()
    assert W in story.cluster.wants_inspection(story.now)
    story.cluster.reconcile(inspection(story.now, active=[{"id": "u1", "time_start": NOW}]), story.now)
    assert story.row().state == "STARTED"


def test_what_an_inspection_does_not_list_is_settled_or_given_up() -> None:
    story = Story().beat().received().tell("started").tell("started", uuid="u2").tell("started", uuid="u3")
    story.drain()
    held = [{"id": "u3", "time_start": NOW}]
    story.cluster.reconcile(inspection(story.now + 1, active=held), story.now + 1.1)
    assert not story.cluster.unfinished(0), "started less than two seconds before it was asked"
    story.now += 10
    story.cluster.reconcile(inspection(story.now, active=held), story.now)
    assert {row.uuid for row in story.cluster.unfinished(0)} == {"u1", "u2"}
    story.cluster.settle(Settled("u1", "SUCCESS", NOW + 5, result="'r'"), story.now)
    assert story.cluster.end_not_seen("u2", story.now)
    assert not story.cluster.end_not_seen("u3", story.now)
    rows = {r.uuid: r for r in story.drain() if isinstance(r, TaskRecord)}
    assert (rows["u1"].state, rows["u1"].result, rows["u1"].ended_at) == ("SUCCESS", "'r'", NOW + 5)
    assert (rows["u1"].known, rows["u1"].note) == ("inferred", "end read from the result backend")
    assert (rows["u2"].state, rows["u2"].note) == ("LOST", "end not seen")
    row = story.tell("failed", exception="E('real')").row()
    assert (row.state, row.result, row.known) == ("FAILURE", None, "seen")


def test_a_settled_end_does_not_touch_a_row_that_ended_by_events() -> None:
    story = Story().received().tell("started").tell("succeeded", result="1")
    story.row()
    assert not story.cluster.settle(Settled("u1", "REVOKED"), story.now)
    assert story.row().state == "SUCCESS"


def test_revoked_in_the_backend_is_no_proof_for_a_running_task() -> None:
    story = Story().beat().received().tell("started")
    story.row()
    assert not story.cluster.settle(Settled("u1", "REVOKED"), story.now)
    assert story.row().state == "STARTED"
    story.received(uuid="u2")
    story.drain()
    assert story.cluster.settle(Settled("u2", "REVOKED"), story.now)
    assert story.row("u2").state == "REVOKED"
    assert story.tell("started", uuid="u2").row("u2").state == "STARTED"


def test_a_settled_row_survives_its_way_through_history() -> None:
    story = Story().beat().received().tell("started")
    story.row()
    story.cluster.settle(Settled("u1", "FAILURE", NOW, exception="E('x')", traceback="tb"), story.now)
    row = story.row()
    again = Cluster()
    again.restore([], [msgspec.json.decode(msgspec.json.encode(row), type=TaskRecord)])
    task = again.tasks.live["u1"]
    assert task.derive() == row


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


# found at the broker


def found(where: str = "queue", **fields: Any) -> Queued:
    return Queued("u1", "mail", where, **({"name": "shop.pay", "args": "(1,)"} | fields))


def test_a_message_found_in_a_queue_is_a_task_that_waits() -> None:
    story = Story()
    assert story.cluster.queued(found(), story.now)
    row = story.row()
    assert (row.state, row.name, row.queue, row.known) == ("PENDING", "shop.pay", "mail", "inferred")
    assert row.note == "found waiting in queue mail"
    row = story.received().row()
    assert (row.state, row.known, row.note) == ("RECEIVED", "seen", "")


def test_an_unacknowledged_message_was_received_by_someone() -> None:
    story = Story()
    story.cluster.queued(found("unacknowledged"), story.now)
    assert (story.row().state, story.row().note) == ("RECEIVED", "found unacknowledged at the broker")
    assert story.received().tell("started").tell("succeeded", result="1").row().state == "SUCCESS"


def test_a_message_says_nothing_of_a_task_that_ended_or_is_known_to_wait() -> None:
    story = Story().received().tell("started").tell("succeeded", result="1")
    story.row()
    assert not story.cluster.queued(found(), story.now)
    again = Story().tell("sent", "gen1@c", name="shop.pay", queue="mail", retries=0)
    again.row()
    assert not again.cluster.queued(found(), again.now)
    running = Story().received().tell("started")
    running.row()
    assert not running.cluster.queued(found("unacknowledged"), running.now)


def test_the_end_of_a_task_that_umbel_never_heard_of_makes_a_row() -> None:
    story = Story()
    assert not story.cluster.settle(Settled("u1", "SUCCESS"), story.now)
    assert story.cluster.settle(Settled("u1", "SUCCESS", result="1", name="shop.pay"), story.now, create=True)
    row = story.row()
    assert (row.state, row.name, row.result, row.known) == ("SUCCESS", "shop.pay", "1", "inferred")
    assert row.note == "end read from the result backend"


def test_the_stored_end_of_a_task_beats_the_one_found_later() -> None:
    story = Story().received().tell("started").tell("failed", exception="E('x')")
    stored = story.row()
    late = Story()
    late.cluster.settle(Settled("u1", "SUCCESS", result="1"), late.now, create=True)
    assert late.cluster.cold() == ["u1"]
    late.cluster.absorb([stored])
    rows = [d for d in late.cluster.drain(late.now) if isinstance(d, TaskRecord)]
    assert not [row for row in rows if row.state != "FAILURE"]
    late.cluster.tick(late.now + 20)
    assert not late.cluster.tasks.live
