"""What a restart would make a worker forget, on its page: the lines that keep it, and setting it again."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from dashboard import access
from dashboard.queries import drift
from monitor import control as engine
from monitor import models
from monitor.control import Actor, Command, Refused, Unreachable
from tests import drifted
from tests.drifted import follow, grown, known, lines, record, restart, worker
from tests.test_hostile_pages import harm
from tests.test_workers_page import EVIL

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drifted, "NOW", time.time())


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
