"""What a restart would make a worker forget, what one did, and what others set."""

from __future__ import annotations

import pytest

from dashboard.queries import attention, drift
from monitor import models
from monitor.control.workers import drifting
from monitor.control.workers.tending import Tender
from tests import drifted
from tests.drifted import NOW, follow, grown, known, lines, record, restart, worker

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _clock(now: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drifted, "NOW", now)


# Noted


def test_what_a_command_left_is_noted_with_what_a_restart_brings() -> None:
    worker()
    grown(8)
    record("rate_limit", arguments={"task": "shop.add", "rate": "10/m", "before": "none"})
    record("cancel_consumer", arguments={"queue": "mail", "last": True})
    assert known() == [("queue", "mail"), ("rate", "shop.add"), ("size", "")]
    size = models.Drift.objects.get(kind="size")
    assert (size.value, size.configured, size.username) == ({"to": 8}, "4", "mila")


def test_what_is_set_back_is_no_drift_any_more() -> None:
    worker()
    grown(8)
    grown(4, before=8, at=NOW - 200)
    record("rate_limit", arguments={"task": "shop.add", "rate": "10/m", "before": "none"})
    record("rate_limit", at=NOW - 200, arguments={"task": "shop.add", "rate": "0", "before": "10/m"})
    record("add_consumer", arguments={"queue": "more"})
    record("cancel_consumer", at=NOW - 200, arguments={"queue": "more"})
    record("time_limit", effect="partly", arguments={
        "task": "shop.add", "soft": 30.0, "hard": 60.0, "before": "soft none, hard none"})  # fmt: skip
    record("time_limit", at=NOW - 200, effect="partly", arguments={
        "task": "shop.add", "soft": "none", "hard": "none", "before": "soft 30, hard 60"})  # fmt: skip
    assert known() == []


def test_of_several_settings_of_one_thing_the_last_is_kept_with_the_first_before() -> None:
    worker()
    record("rate_limit", arguments={"task": "shop.mail", "rate": "5/m", "before": "10/m"})
    record("rate_limit", at=NOW - 200, arguments={"task": "shop.mail", "rate": "2/m", "before": "5/m"})
    (one,) = models.Drift.objects.all()
    assert (one.value["rate"], one.configured) == ("2/m", "10/m")


def test_a_command_that_had_no_effect_leaves_nothing() -> None:
    worker()
    not_seen = [{"target": "a@h", "seen": False, "text": "no"}]
    silent = [{"worker": "a@h", "outcome": "silent", "text": ""}]
    grown(8, effect="none", seen=not_seen)
    grown(8, effect="refused", sent_at=None)
    grown(8, effect="unverified", seen=[], replies=silent)
    record("disable_events", effect="partly", targets=["a@h", "b@h"], seen=not_seen)
    record("ping")
    assert known() == []
    grown(8, effect="unverified", seen=[])
    assert known() == [("size", "")], "it answered, and nobody could look"


def test_a_look_that_ends_late_does_not_undo_a_later_command() -> None:
    worker()
    grown(8, at=NOW - 100)
    grown(6, at=NOW - 200)
    assert models.Drift.objects.get().value == {"to": 8}


# Restarts


def test_a_restart_forgets_and_what_was_wanted_is_offered_again() -> None:
    worker()
    follow()
    grown(8, at=NOW - 300)
    assert follow() == set()
    restart()
    assert follow() == {"a@h"}
    (one,) = models.Drift.objects.all()
    assert one.forgotten_at == NOW - 20
    (item,) = [item for item in attention.current() if item.post]
    assert item.title == "a@h came back with 4"
    assert "8 was wanted by mila at" in item.text and item.button == "Grow to 8 again"


def test_a_new_process_under_the_same_pid_is_a_restart_and_a_clock_that_wavers_is_none() -> None:
    worker()
    follow()
    grown(8)
    models.Worker.objects.update(booted_at=NOW - 590)
    follow()
    assert models.Drift.objects.get().forgotten_at is None
    restart(pid=100, booted_at=NOW - 20)
    follow()
    assert models.Drift.objects.get().forgotten_at == NOW - 20


def test_a_worker_that_was_only_silent_has_forgotten_nothing() -> None:
    worker()
    follow()
    grown(8)
    models.Worker.objects.update(status="offline")
    follow()
    models.Worker.objects.update(status="online", online_at=NOW - 5)
    follow()
    assert models.Drift.objects.get().forgotten_at is None


def test_two_workers_of_one_name_are_not_taken_for_restarts() -> None:
    worker(duplicate=True)
    follow()
    grown(8)
    restart()
    follow()
    assert models.Drift.objects.get().forgotten_at is None


def test_what_comes_back_by_itself_is_not_offered() -> None:
    worker()
    follow()
    grown(8)
    record("rate_limit", arguments={"task": "shop.add", "rate": "10/m", "before": "none"})
    restart(size=8, details={"stats": {"pool": {"max-concurrency": 8}}, "registered": ["shop.add"]})
    follow()
    assert [(one.kind, one.forgotten_at is None) for one in models.Drift.objects.all()] == [("rate", False)]


def test_nothing_is_offered_before_the_worker_has_told_how_it_came_back() -> None:
    worker()
    follow()
    grown(8)
    restart(inspected_at=NOW - 60)
    follow()
    assert models.Drift.objects.get().forgotten_at is not None
    assert drift.returned() == []


def test_a_command_that_was_noted_after_the_restart_is_forgotten_all_the_same() -> None:
    worker()
    follow()
    restart()
    follow()
    grown(8, at=NOW - 30)
    assert follow() == {"a@h"}
    assert models.Drift.objects.get().forgotten_at == NOW - 20


def test_what_is_set_after_the_restart_is_drift_anew() -> None:
    worker()
    follow()
    grown(8)
    restart()
    follow()
    grown(8, at=NOW - 5)
    follow()
    assert models.Drift.objects.get().forgotten_at is None


def test_in_the_end_nothing_is_offered_any_more() -> None:
    worker()
    grown(8)
    follow()
    models.Drift.objects.update(forgotten_at=NOW - drifting.KEPT + 5)
    drifting.prune(NOW)
    assert known() == [("size", "")]
    drifting.prune(NOW + 10)
    assert known() == []


def test_of_a_worker_that_is_gone_from_history_nothing_is_kept() -> None:
    worker()
    grown(8)
    follow()
    models.Worker.objects.all().delete()
    Tender(None, lambda: NOW).look()
    assert known() == [] and not models.Start.objects.exists()


def test_without_leave_to_send_the_tender_still_follows() -> None:
    worker()
    Tender(None, lambda: NOW).look()
    grown(8)
    restart()
    assert Tender(None, lambda: NOW).look() == 0
    assert models.Drift.objects.get().forgotten_at is not None


# What others set


def test_what_somebody_else_changed_is_seen_and_not_put_on_anybody() -> None:
    row = worker()
    follow()
    row.size, row.queues = 6, ["mail", "more"]
    row.details = {**row.details, "registered": ["shop.add [rate_limit=3/s]", "shop.mail [time_limit=60.0]"]}
    row.save()
    found = {line.what: line for line in lines(row)}
    assert set(found) == {
        "Pool size 6", "Queue more added", "Rate limit 3/s of shop.add", "Rate limit none of shop.mail"
    }  # fmt: skip
    assert all(line.by == "" for line in found.values())
    assert found["Pool size 6"].was == "4"
    assert found["Rate limit none of shop.mail"].was == "10/m"


def test_what_umbel_set_is_not_taken_for_somebody_elses() -> None:
    row = worker()
    follow()
    grown(8, at=NOW - 200)
    record("add_consumer", at=NOW - 200, arguments={"queue": "more"})
    row.size, row.queues = 8, ["mail", "more"]
    row.save()
    assert [(line.what, line.by) for line in lines(row)] == [
        ("Pool size 8", "mila"), ("Queue more added", "mila")
    ]  # fmt: skip
    row.size = 5
    row.save()
    assert ("Pool size 5", "") in [(line.what, line.by) for line in lines(row)]


def test_while_a_worker_has_not_told_a_change_nothing_is_said_of_others() -> None:
    row = worker()
    follow()
    record("add_consumer", at=NOW - 60, arguments={"queue": "more"})
    row.queues = ["mail", "more"]
    row.save()
    record("cancel_consumer", at=NOW - 5, arguments={"queue": "more"})
    assert known() == [] and lines(row) == [], "it was asked before that, and lists the queue yet"
    models.Worker.objects.update(inspected_at=NOW + 60)
    assert [line.what for line in lines(row)] == ["Queue more added"]
