"""The drain of a worker as its page tells it: steps, warnings, what is refused, who may."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from dashboard import access
from dashboard.queries import drains
from dashboard.queries import workers as worker_queries
from monitor import models
from monitor.control import Actor, Command, Refused
from monitor.control.workers import draining
from tests.test_hostile_pages import harm
from tests.test_workers_page import EVIL, task, worker

pytestmark = pytest.mark.django_db

MILA = Actor(None, "mila", "operator", "127.0.0.1")


class Bench:
    """A worker that consumes what it is told to, and the commands that reached it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.row = worker("a@h", pid=7, queues=["mail", "imports"], inspected_at=time.time())
        self.consumed = {"mail", "imports"}
        self.sent: list[tuple[str, str]] = []
        self.refusals: dict[str, str] = {}
        self.silent = False
        self.mute: set[str] = set()  # commands that it does not answer, and does not carry out
        monkeypatch.setattr(draining, "queues_of", lambda *_: None if self.silent else set(self.consumed))
        monkeypatch.setattr(draining, "perform", self.perform)

    def perform(self, command: Command, actor: Actor) -> models.ControlRecord:
        queue = command.arguments["queue"]
        if queue in self.refusals:
            raise Refused(self.refusals[queue])
        self.sent.append((command.name, queue))
        now = time.time()
        if command.name in self.mute:
            return models.ControlRecord.objects.create(
                at=now, sent_at=now, username=actor.username, role=actor.role, command=command.name,
                targets=list(command.targets), arguments=command.arguments, effect="pending",
                replies=[{"worker": "a@h", "outcome": "silent", "text": ""}],
            )  # fmt: skip
        (self.consumed.add if command.name == "add_consumer" else self.consumed.discard)(queue)
        return models.ControlRecord.objects.create(
            at=now, sent_at=now, completed_at=now, username=actor.username, role=actor.role,
            command=command.name, targets=list(command.targets), arguments=command.arguments,
            effect="verified", evidence="Seen.", reason=command.reason,
        )  # fmt: skip

    def listed(self) -> None:
        """It has told what it consumes now."""
        listed = {"queues": sorted(self.consumed), "inspected_at": time.time() + 5}
        models.Worker.objects.filter(hostname="a@h").update(**listed)

    def shutdown(self) -> None:
        now = time.time()
        models.ControlRecord.objects.create(
            at=now, sent_at=now, username="ada", role="admin", command="shutdown", targets=["a@h"]
        )

    @property
    def drain(self) -> models.Drain:
        return models.Drain.objects.get()

    def view(self) -> drains.DrainView:
        found = worker_queries.one(self.row.pk)
        assert found is not None
        return drains.drain(found)

    def words(self) -> list[tuple[str, str]]:
        return [(one.queue, one.word) for one in self.view().queues]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(access.create_user("olga", "operator", "correct horse 9"))
    return client


def post(client: Client, name: str, bench: Bench, **data: Any) -> Any:
    return client.post(reverse(name, args=[bench.row.pk]), data)


def test_every_queue_is_cancelled_the_last_one_too_and_each_is_recorded(bench: Bench) -> None:
    found = draining.drain("a@h", MILA, "New host")
    assert bench.sent == [("cancel_consumer", "imports"), ("cancel_consumer", "mail")]
    assert (found.queues, found.username, found.pid) == (["imports", "mail"], "mila", 7)
    bench.listed()
    assert bench.words() == [("imports", "Cancelled"), ("mail", "Cancelled")]
    commands = list(models.ControlRecord.objects.order_by("at").values_list("command", "effect"))
    assert commands == [("drain", "noted"), ("cancel_consumer", "verified"), ("cancel_consumer", "verified")]
    assert bench.view().ready


def test_a_second_click_is_the_same_drain(bench: Bench) -> None:
    assert draining.drain("a@h", MILA) == draining.drain("a@h", MILA)
    assert len(bench.sent) == 2


def test_a_refused_cancel_is_told_and_can_be_tried_again(bench: Bench) -> None:
    bench.refusals["mail"] = "a@h refused: not now."
    found = draining.drain("a@h", MILA)
    assert dict(bench.words())["mail"] == "Refused" and not bench.view().ready
    assert bench.view().queues[1].text == "a@h refused: not now."
    bench.refusals.clear()
    draining.go_on(found, MILA)
    bench.listed()
    assert dict(bench.words()) == {"imports": "Cancelled", "mail": "Cancelled"}
    with pytest.raises(Refused, match="consumes none of them any more"):
        draining.go_on(bench.drain, MILA)


def test_a_worker_that_falls_silent_is_not_asked_for_each_queue(bench: Bench) -> None:
    bench.refusals["imports"] = "a@h did not answer within 2 s; nothing was sent."
    draining.drain("a@h", MILA)
    assert bench.sent == []
    assert dict(bench.words()) == {"imports": "Refused", "mail": "Refused"}
    assert bench.drain.refused["mail"].startswith("Not sent: a@h did not answer")


def test_what_umbel_had_no_time_to_send_is_said_after_its_restart(bench: Bench) -> None:
    draining.drain("a@h", MILA)
    record = models.ControlRecord.objects.get(command="cancel_consumer", arguments__queue="imports")
    models.Drain.objects.update(records=[str(record.pk)])
    bench.consumed.add("mail")
    bench.listed()
    assert dict(bench.words()) == {"imports": "Cancelled", "mail": "Not sent"}
    draining.go_on(bench.drain, MILA)
    assert bench.sent[-1] == ("cancel_consumer", "mail")


def test_a_queue_that_somebody_adds_meanwhile_is_not_called_cancelled(bench: Bench) -> None:
    draining.drain("a@h", MILA)
    bench.consumed.add("mail")
    bench.listed()
    assert dict(bench.words())["mail"] == "Still consumed" and not bench.view().ready


def test_undo_adds_the_same_queues_and_ends_it(bench: Bench) -> None:
    draining.undo(draining.drain("a@h", MILA), Actor(None, "ada", "admin"))
    assert bench.consumed == {"mail", "imports"}
    assert bench.sent[2:] == [("add_consumer", "imports"), ("add_consumer", "mail")]
    assert bench.drain.ended == "ada undid it: it consumes its queues again."
    with pytest.raises(Refused, match="That drain is over"):
        draining.undo(bench.drain, MILA)


def test_an_undo_that_is_refused_in_part_leaves_the_drain_under_way(bench: Bench) -> None:
    found = draining.drain("a@h", MILA)
    bench.refusals["mail"] = "No."
    assert not draining.undo(found, MILA)
    assert bench.drain.ended_at is None and bench.drain.refused == {"mail": "No."}
    bench.refusals.clear()
    assert draining.undo(bench.drain, MILA)
    assert bench.consumed == {"mail", "imports"}


def test_an_undo_that_is_not_answered_leaves_the_drain_under_way(bench: Bench) -> None:
    found = draining.drain("a@h", MILA)
    bench.mute = {"add_consumer"}
    assert not draining.undo(found, MILA)
    assert bench.sent[2:] == [("add_consumer", "imports")], "it is not asked for each"
    assert bench.drain.ended_at is None and bench.view().undoable
    assert dict(bench.words()) == {"imports": "Sent", "mail": "Refused"}
    assert bench.drain.refused == {"mail": "Not sent: a@h did not answer."}
    assert not models.ControlRecord.objects.filter(command="end_drain").exists()
    bench.mute = set()
    assert draining.undo(bench.drain, MILA) and bench.consumed == {"mail", "imports"}


def test_it_can_go_only_when_each_cancel_is_confirmed(operator: Client, bench: Bench) -> None:
    bench.mute = {"cancel_consumer"}
    found = draining.drain("a@h", MILA)
    models.Drain.objects.update(refused={}, queues=["imports"])
    view = bench.view()
    assert (bench.words(), view.consumed, view.pending, view.ready) == ([("imports", "Sent")], 0, 1, False)
    html = operator.get(reverse("worker-drain", args=[bench.row.pk])).content.decode()
    assert "1 not confirmed yet" in html and "it can go" not in html
    models.ControlRecord.objects.filter(pk__in=found.records).update(effect="verified")
    bench.consumed.discard("imports")
    bench.listed()
    assert bench.view().ready
    # Added again by half an undo: it consumes.
    models.ControlRecord.objects.filter(pk__in=found.records).update(command="add_consumer")
    bench.consumed.add("imports")
    bench.listed()
    assert dict(bench.words()) == {"imports": "Added again"}
    assert not bench.view().ready and bench.view().consumed == 1


def test_after_the_last_step_there_is_no_way_back(bench: Bench) -> None:
    found = draining.drain("a@h", MILA)
    bench.shutdown()
    assert not bench.view().undoable
    with pytest.raises(Refused, match="ada has shut a@h down: that cannot be undone"):
        draining.undo(found, MILA)
    assert len(bench.sent) == 2


def test_it_ends_with_its_worker_and_its_queues_are_not_offered_again(bench: Bench) -> None:
    found = draining.drain("a@h", MILA)
    for number, pk in enumerate(found.records):
        models.Drift.objects.create(
            worker="a@h", kind="queue", key=str(number), command="cancel_consumer", at=1.0,
            username="mila", record_id=pk,
        )  # fmt: skip
    models.Drift.objects.create(worker="a@h", kind="size", command="pool_grow", at=1.0, username="mila")
    assert draining.settle(time.time()) == 1
    bench.shutdown()
    models.Worker.objects.update(status="offline", reason="said goodbye")
    assert draining.settle(time.time()) == 0
    assert bench.drain.ended == "It was shut down, and is offline."
    assert [one.kind for one in models.Drift.objects.all()] == ["size"]


def test_a_worker_that_is_only_silent_is_still_drained_and_a_restarted_one_is_not(bench: Bench) -> None:
    draining.drain("a@h", MILA)
    models.Worker.objects.update(status="offline", reason="silent")
    assert draining.settle(time.time()) == 1
    models.Worker.objects.update(status="online", pid=8)
    assert draining.settle(time.time()) == 0
    assert "was restarted" in bench.drain.ended


@pytest.mark.parametrize(
    ("values", "words"),
    [({"status": "offline"}, "is offline"), ({"is_beat": True}, "celery beat")],
)
def test_what_cannot_be_drained_is_refused(bench: Bench, values: dict[str, Any], words: str) -> None:
    models.Worker.objects.update(**values)
    with pytest.raises(Refused, match=words):
        draining.drain("a@h", MILA)
    bench.silent = True
    with pytest.raises(Refused):
        draining.drain("a@h", MILA)
    assert not models.Drain.objects.exists() and bench.sent == []
    assert {one.effect for one in models.ControlRecord.objects.all()} == {"refused"}


def test_a_viewer_cannot_drain_by_whatever_way(bench: Bench) -> None:
    with pytest.raises(Refused, match="needs the operator role"):
        draining.drain("a@h", Actor(None, "vera", "viewer"))
    assert bench.sent == [] and not models.Drain.objects.exists()


# The page


def test_the_page_leads_from_step_to_step(operator: Client, bench: Bench) -> None:
    now = time.time()
    worker("b@h", queues=["mail"])
    task("u1", worker="a@h", started_at=now - 4)
    task("u2", worker="a@h", state="RECEIVED", received_at=now - 3)
    task("u3", worker="a@h", state="RECEIVED", received_at=now - 3, eta=now + 900, queue="mail")
    task("u4", worker="a@h", state="RECEIVED", received_at=now - 3, eta=now + 900, queue="imports")
    path = reverse("worker-drain", args=[bench.row.pk])
    html = operator.get(path).content.decode()
    for said in (
        "Drain: stop consuming 2 queues",
        "Keep consuming",
        "imports will have no worker.",
        "Reason",
    ):
        assert said in html, said
    answer = post(operator, "worker-drain-begin", bench, reason="New host")
    assert (answer.status_code, answer["Location"]) == (302, path)
    bench.listed()
    html = operator.get(path).content.decode()
    for said in (
        "Under way", "begun", "by olga", "New host", "b@h consumes it, too.", "No other online worker",
        "2 tasks held for their ETA.", "1 to mail, for b@h", "1 to imports, which no other online worker",
        "Undo: consume again", "Shut down…", "It still consumes or works",
    ):  # fmt: skip
        assert said in html, said
    assert not harm(html)
    models.Task.objects.update(state="SUCCESS")
    assert "it can go" in operator.get(path).content.decode()
    assert "Draining since" in operator.get(reverse("worker", args=[bench.row.pk])).content.decode()
    assert post(operator, "worker-drain-undo", bench).status_code == 302
    html = operator.get(path).content.decode()
    assert "olga undid it" in html and "Drain: stop consuming" in html
    for name in ("worker-drain-undo", "worker-drain-again"):
        assert post(operator, name, bench).status_code == 409


def test_a_viewer_looks_on_without_a_button(client: Client, bench: Bench) -> None:
    draining.drain("a@h", MILA)
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    html = client.get(reverse("worker-drain", args=[bench.row.pk])).content.decode()
    assert "by mila" in html and "Undo" not in html and "Shut down…" not in html
    for name in ("worker-drain-begin", "worker-drain-undo", "worker-drain-again"):
        assert post(client, name, bench).status_code == 403
    assert len(bench.sent) == 2


def test_hostile_queues_stay_text(operator: Client, bench: Bench) -> None:
    bench.consumed = {EVIL}
    bench.refusals[EVIL] = f"{EVIL} no"
    draining.drain("a@h", MILA, EVIL)
    html = operator.get(reverse("worker-drain", args=[bench.row.pk])).content.decode()
    assert not harm(html) and "<img" not in html
