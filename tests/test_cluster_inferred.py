"""What is inferred of tasks: a worker is lost, an inspection, the result backend, a look at the broker."""

from __future__ import annotations

from typing import Any

import msgspec

from monitor.cluster import Cluster
from monitor.records import Inspection, Queued, Settled, TaskRecord
from tests.stories import NOW, Story, V, W


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
