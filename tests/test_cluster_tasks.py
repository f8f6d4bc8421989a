"""What a task's events make of its row."""

from __future__ import annotations

import msgspec
import pytest

from tests.stories import NOW, Story, V, W


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
