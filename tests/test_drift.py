"""What a restart would make a worker forget, what one did, and setting it again."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from dashboard import access
from dashboard.queries import attention, drift
from dashboard.queries import workers as worker_queries
from monitor import control as engine
from monitor import models
from monitor.control import Actor, Command, Refused, Unreachable
from monitor.control.workers import drifting
from monitor.control.workers.tending import Tender
from tests.test_hostile_pages import harm
from tests.test_workers_page import EVIL

pytestmark = pytest.mark.django_db

NOW = 0.0


@pytest.fixture(autouse=True)
def _clock(now: float) -> None:
    """``NOW`` is when the test began."""


REGISTERED = ["shop.add", "shop.mail [rate_limit=10/m time_limit=60.0]"]


def worker(hostname: str = "a@h", **values: Any) -> models.Worker:
    defaults: dict[str, Any] = {
        "status": "online", "pool": "prefork", "size": 4, "first_seen_at": NOW - 900, "heartbeat_at": NOW,
        "pid": 100, "booted_at": NOW - 600, "online_at": NOW - 600, "inspected_at": NOW - 1,
        "queues": ["mail"],
        "details": {"stats": {"pool": {"max-concurrency": 4}}, "registered": REGISTERED, "conf": {}},
    }  # fmt: skip
    return models.Worker.objects.create(hostname=hostname, **defaults | values)


def record(command: str, at: float | None = None, **values: Any) -> models.ControlRecord:
    """A completed command of mila's, as it is in the log, and noted."""
    at = NOW - 300 if at is None else at
    defaults: dict[str, Any] = {
        "at": at, "sent_at": at, "answered_at": at, "completed_at": at + 1, "username": "mila",
        "role": "operator", "command": command, "targets": ["a@h"], "effect": "verified",
        "replies": [{"worker": "a@h", "outcome": "ok", "text": "ok"}],
        "seen": [{"target": "a@h", "seen": True, "text": "seen"}],
    }  # fmt: skip
    found = models.ControlRecord.objects.create(**defaults | values)
    drifting.note(found)
    return found


def grown(to: int = 8, before: int = 4, **values: Any) -> models.ControlRecord:
    name = "pool_grow" if to > before else "pool_shrink"
    return record(name, arguments={"n": abs(to - before), "before": before, "to": to}, **values)


def known() -> list[tuple[str, str]]:
    return [(one.kind, one.key) for one in models.Drift.objects.order_by("kind", "key")]


def follow() -> set[str]:
    return drifting.follow(NOW)


def restart(**values: Any) -> None:
    """Another process under the same name, which has told all of itself."""
    fresh = {"pid": 200, "booted_at": NOW - 20, "online_at": NOW - 20, "inspected_at": NOW - 10}
    models.Worker.objects.filter(hostname="a@h").update(**fresh | values)


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


def lines(row: models.Worker) -> list[drift.Line]:
    view = worker_queries.one(row.pk)
    assert view is not None
    return drift.drift(view).lines


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


# The page


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(access.create_user("olga", "operator", "correct horse 9"))
    return client


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    commands: list[Command] = []

    def perform(command: Command, actor: Actor, **more: Any) -> models.ControlRecord:
        commands.append(command)
        return models.ControlRecord.objects.create(
            at=time.time(), user_id=actor.user_id, username=actor.username, role=actor.role,
            command=command.name, targets=list(command.targets), arguments=command.arguments,
            sent_at=time.time(),
        )  # fmt: skip

    monkeypatch.setattr(engine, "perform", perform)
    return commands


def page(client: Client, row: models.Worker) -> str:
    answer = client.get(reverse("worker", args=[row.pk]))
    assert answer.status_code == 200
    html = answer.content.decode()
    assert not harm(html)
    return html


def test_the_page_lists_drift_with_the_line_that_keeps_it(operator: Client) -> None:
    row = worker()
    follow()
    grown(8)
    record("rate_limit", arguments={"task": "shop.add", "rate": "10/m", "before": "none"})
    record("time_limit", effect="partly", arguments={
        "task": "shop.mail", "soft": 30.0, "hard": 60.0, "before": "soft none, hard 60"})  # fmt: skip
    record("add_consumer", arguments={"queue": "more"})
    record("enable_events")
    record("autoscale", arguments={"max": 8, "min": 2})
    html = page(operator, row).replace("&quot;", '"')
    for said in (
        "worker_concurrency = 8", "celery worker -c 8", "a restart brings 4", "set by mila",
        'task_annotations = {"shop.add": {"rate_limit": "10/m"}, '
        '"shop.mail": {"soft_time_limit": 30, "time_limit": 60}}',
        "celery worker -Q mail,more", "celery worker -E", "celery worker --autoscale=8,2",
    ):  # fmt: skip
        assert said in html, said


def test_limits_have_one_line_of_configuration_together(operator: Client) -> None:
    row = worker()
    follow()
    for name, given in (
        ("rate_limit", {"task": "shop.add", "rate": "10/m", "before": "none"}),
        ("time_limit", {"task": "shop.add", "soft": "none", "hard": 60.0, "before": "soft none, hard none"}),
    ):
        record(name, arguments=given)
    kept = [line.keep for line in lines(row) if "task_annotations" in line.keep]
    assert kept == [
        'task_annotations = {"shop.add": {"rate_limit": "10/m", "soft_time_limit": None, "time_limit": 60}}'
    ]


def test_revoked_ids_without_a_state_file_are_drift_and_with_one_none(operator: Client) -> None:
    row = worker(details={"revoked": ["x", "y"], "conf": {}})
    assert "2 revoked ids in memory" in page(operator, row) and "--statedb" in page(operator, row)
    row.details = {"revoked": ["x", "y"], "conf": {"worker_state_db": "/var/x"}}
    row.save()
    assert "2 revoked ids in memory</dt>" not in page(operator, row)
    assert [line for line in lines(row) if "revoked" in line.what] == []


def test_one_button_sends_again_all_that_was_forgotten(operator: Client, sent: list[Command]) -> None:
    row = worker()
    follow()
    grown(8)
    record("time_limit", effect="partly", arguments={
        "task": "shop.add", "soft": 30.0, "hard": "none", "before": "soft none, hard none"})  # fmt: skip
    record("cancel_consumer", arguments={"queue": "mail", "last": True})
    restart()
    follow()
    html = page(operator, row)
    assert "a@h came back with 4." in html and "Set all 3 again" in html and "set again?" in html
    answer = operator.post(reverse("worker-set-again", args=[row.pk]), follow=True)
    html = answer.content.decode()
    assert answer.redirect_chain[0][0].startswith("/audit/together/?id=") and "3 commands" in html
    for said in ("Stopping queue of a@h", "Growing pool of a@h", "Setting time limits on a@h", "Umbel looks"):
        assert said in html, said
    assert html.count(">Details<span") == 3 and "not sent" not in html
    assert {c.name: c.arguments for c in sent} == {
        "cancel_consumer": {"queue": "mail", "last": True},
        "pool_grow": {"to": 8},
        "time_limit": {"task": "shop.add", "soft": 30.0, "hard": ""},
    }
    assert all(c.reason.startswith("Set again after the restart at") for c in sent)
    operator.post(reverse("worker-set-again", args=[row.pk]))
    assert len(sent) == 3, "a second click sends nothing"


@pytest.mark.parametrize("how", ["silent", "refused", "away"])
def test_a_worker_that_does_not_answer_is_not_asked_to_set_each_again(
    operator: Client, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    row = worker()
    follow()
    for n in range(5):
        record("rate_limit", arguments={"task": f"shop.t{n}", "rate": "10/m", "before": "none"})
    restart()
    follow()
    asked: list[Command] = []

    def perform(command: Command, actor: Actor, **more: Any) -> models.ControlRecord:
        asked.append(command)
        if how == "refused" or (how == "away" and len(asked) > 1):
            text = "a@h did not answer within 1 s; nothing was sent." if how == "refused" else "No broker."
            raise Refused(text) from (Unreachable("No broker.", sent=False) if how == "away" else None)
        return models.ControlRecord.objects.create(
            at=time.time(), sent_at=time.time(), username=actor.username, role=actor.role,
            command=command.name, targets=["a@h"], arguments=command.arguments, reason=command.reason,
            replies=[{"worker": "a@h", "outcome": "silent" if how == "silent" else "ok", "text": ""}],
        )  # fmt: skip

    monkeypatch.setattr(engine, "perform", perform)
    answer = operator.post(reverse("worker-set-again", args=[row.pk]), headers={"HX-Request": "true"})
    assert len(asked) == (2 if how == "away" else 1)
    assert f"{5 - len(asked)} more were not sent: try again in a moment." in answer.content.decode()
    assert len(known()) == 5, "the rest is still offered"


def test_a_size_is_reached_from_whatever_it_is_now(operator: Client, sent: list[Command]) -> None:
    row = worker()
    follow()
    grown(8)
    restart(size=10)
    follow()
    operator.post(reverse("worker-set-again", args=[row.pk]))
    assert [(c.name, c.arguments) for c in sent] == [("pool_shrink", {"to": 8})]


def test_what_was_forgotten_can_be_dismissed_and_that_is_recorded(
    operator: Client, sent: list[Command]
) -> None:
    row = worker()
    follow()
    grown(8)
    restart()
    follow()
    assert operator.post(reverse("worker-dismiss", args=[row.pk])).status_code == 302
    assert known() == [] and drift.returned() == []
    assert "set again?" not in page(operator, row)
    found = models.ControlRecord.objects.get(command="dismiss")
    assert (found.effect, found.username, found.sent_at) == ("noted", "olga", None)
    for name in ("worker-dismiss", "worker-set-again"):
        assert operator.post(reverse(name, args=[row.pk])).status_code == 409
    assert sent == []


@pytest.mark.parametrize("who", ["viewer", "read-only"])
def test_who_may_not_control_reads_it_and_has_no_button(
    client: Client, settings: Any, sent: list[Command], who: str
) -> None:
    row = worker()
    follow()
    grown(8)
    restart()
    follow()
    settings.UMBEL_READ_ONLY = who == "read-only"
    role = "viewer" if who == "viewer" else "admin"
    client.force_login(access.create_user("vera", role, "correct horse 9"))
    html = page(client, row)
    assert "a@h came back with 4." in html
    assert "Grow to 8 again" not in html and "Dismiss</button>" not in html
    for name in ("worker-set-again", "worker-dismiss", "worker-shrink-when-free", "worker-drain-begin"):
        assert client.post(reverse(name, args=[row.pk])).status_code == 403
    assert sent == [] and known() == [("size", "")]


def test_hostile_names_stay_text(operator: Client) -> None:
    row = worker(queues=[EVIL])
    follow()
    record("rate_limit", arguments={"task": EVIL, "rate": "10/m", "before": "none"})
    record("add_consumer", arguments={"queue": EVIL + "2"})
    html = page(operator, row)
    assert "<img" not in html
    html = operator.get(reverse("worker-drain", args=[row.pk])).content.decode()
    assert not harm(html) and "<img" not in html
