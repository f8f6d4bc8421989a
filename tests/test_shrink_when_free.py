"""A shrink that waits for idle slots: who may ask, when it is carried out, and what ends it."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from dashboard import access
from monitor import models
from monitor.control import Actor, Command, Refused
from monitor.control.inspecting import Seen
from monitor.control.workers import draining, waiting
from tests.test_workers_page import worker

pytestmark = pytest.mark.django_db

MILA = Actor(None, "mila", "operator", "127.0.0.1")


class Crash(BaseException):
    """Umbel ends in the midst of it."""


class Bench:
    """A worker with 8 slots of which ``busy`` work, on a clock of the test, and what was sent to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.row = worker("a@h", size=8, busy=8, pid=7)
        self.busy, self.size = 8, 8
        self.sent: list[tuple[Command, Actor]] = []
        self.refusal = ""
        self.crash = ""  # "before" the record is written, or "after"
        monkeypatch.setattr(waiting, "seen_on", self._seen)
        self.start = models.Worker.objects.get().first_seen_at

    def _seen(self, workers: list[str], timeout: float) -> dict[str, Seen]:
        tasks = {f"u{n}": "active" for n in range(self.busy)} | {"r": "reserved"}
        return {"a@h": Seen(tasks=tasks, stats={"pool": {"processes": list(range(1, self.size + 1))}})}

    def perform(self, command: Command, actor: Actor, *, identity: uuid.UUID) -> models.ControlRecord:
        if self.crash == "before":
            raise Crash
        if self.refusal:
            raise Refused(self.refusal)
        self.sent.append((command, actor))
        now = time.time()
        record = models.ControlRecord.objects.create(
            pk=identity, at=now, username=actor.username, role=actor.role, command=command.name,
            targets=list(command.targets), sent_at=now,
        )  # fmt: skip
        if self.crash:
            raise Crash
        return record

    def work(self, busy: int) -> None:
        self.busy = busy
        models.Worker.objects.update(busy=busy)

    def look(self, after: float = 1.0) -> int:
        return waiting.look(self.perform, self.start + after)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def ask(to: int = 5, within: int = 3600, actor: Actor = MILA) -> models.WaitingShrink:
    return waiting.shrink_when_free("a@h", to, within, actor, "Less memory")


def ended() -> str:
    found = models.WaitingShrink.objects.order_by("-pk").first()
    return found.ended if found is not None and found.ended_at is not None else ""


def test_it_waits_while_slots_are_busy_and_is_sent_once_when_enough_are_idle(bench: Bench) -> None:
    ask()
    assert (bench.look(), bench.sent) == (1, [])
    bench.work(6)
    assert (bench.look(), bench.sent) == (1, []), "two are idle, three are wanted"
    bench.work(5)
    assert bench.look() == 0
    ((command, actor),) = bench.sent
    assert (command.name, command.targets, command.arguments) == ("pool_shrink", ("a@h",), {"to": 5})
    assert actor == MILA and command.reason.startswith("When free, as asked for at")
    assert command.reason.endswith("Less memory")
    assert bench.look() == 0 and len(bench.sent) == 1
    assert ended().startswith("Sent when 3 slots were idle;")


def test_the_workers_own_word_counts_not_its_last_heartbeat(bench: Bench) -> None:
    ask()
    models.Worker.objects.update(busy=0)
    assert bench.look() == 1 and bench.sent == []


def test_it_is_recorded_when_asked_for_and_nothing_is_sent_then(bench: Bench) -> None:
    ask()
    (record,) = models.ControlRecord.objects.all()
    assert (record.command, record.effect, record.sent_at, record.username) == (
        "shrink_when_free", "noted", None, "mila",
    )  # fmt: skip
    assert "waits until 3 slots are idle" in record.evidence and "for 1 h at the most" in record.evidence


def test_it_ends_when_its_time_is_over_and_says_so(bench: Bench) -> None:
    found = ask(within=900)
    bench.work(0)
    assert waiting.look(bench.perform, found.until + 1) == 0
    assert bench.sent == [] and "Its time was over" in ended()
    last = models.ControlRecord.objects.order_by("-at").first()
    assert last is not None and (last.username, last.effect) == ("Umbel", "none")


def test_whoever_sets_another_size_meanwhile_has_the_last_word(bench: Bench) -> None:
    found = ask()
    models.ControlRecord.objects.create(
        at=found.at + 1, sent_at=found.at + 1, username="ada", role="admin", command="pool_grow",
        targets=["a@h"],
    )  # fmt: skip
    bench.work(0)
    assert bench.look() == 0 and bench.sent == []
    assert ended() == "ada set another size; nothing was sent."


def test_a_worker_that_restarts_has_a_size_of_its_own(bench: Bench) -> None:
    ask()
    models.Worker.objects.update(pid=8)
    bench.work(0)
    assert bench.look() == 0 and bench.sent == []
    assert "was restarted" in ended()


def test_a_silent_worker_is_waited_for(bench: Bench) -> None:
    ask()
    bench.work(0)
    models.Worker.objects.update(status="offline")
    assert bench.look() == 1 and bench.sent == []
    models.Worker.objects.update(status="online")
    assert bench.look() == 0 and len(bench.sent) == 1


def test_a_new_size_takes_the_place_of_the_one_before(bench: Bench) -> None:
    ask(5)
    ask(3, actor=Actor(None, "ada", "admin"))
    first, second = models.WaitingShrink.objects.order_by("pk")
    assert first.ended == "ada asked for 3 instead." and second.ended_at is None
    bench.work(5)
    assert bench.look() == 1 and bench.sent == []


def test_it_is_withdrawn_once(bench: Bench) -> None:
    ask()
    waiting.withdraw("a@h", Actor(None, "ada", "admin"))
    bench.work(0)
    assert bench.look() == 0 and bench.sent == []
    assert ended() == "ada withdrew it."
    with pytest.raises(Refused, match="No shrink waits on a@h"):
        waiting.withdraw("a@h", MILA)


def test_a_refusal_at_last_ends_it_in_words(bench: Bench) -> None:
    ask()
    bench.work(0)
    bench.refusal = "a@h did not take it."
    assert bench.look() == 0 and ended() == "a@h did not take it."


def test_what_was_sent_when_umbel_stopped_is_told_as_sent_and_not_sent_again(bench: Bench) -> None:
    ask()
    bench.work(2)
    bench.crash = "after"
    with pytest.raises(Crash):
        bench.look()
    bench.crash = ""
    assert bench.look(2) == 0 and len(bench.sent) == 1
    assert ended() == "It was sent, and Umbel stopped at that moment; the audit log has what came of it."


def test_what_was_not_sent_when_umbel_stopped_is_sent_by_the_next(bench: Bench) -> None:
    ask()
    bench.work(2)
    bench.crash = "before"
    with pytest.raises(Crash):
        bench.look()
    bench.crash = ""
    assert bench.look(2) == 0 and len(bench.sent) == 1
    assert ended().startswith("Sent when 6 slots were idle;")


def test_secrets_in_a_reason_are_hidden_where_it_waits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting.shrink_when_free("a@h", 5, 3600, MILA, "password=hunter2secret")
    monkeypatch.setattr(draining, "queues_of", lambda *_: set())
    draining.drain("a@h", MILA, "password=hunter2secret")
    kept = [models.WaitingShrink.objects.get().reason, models.Drain.objects.get().reason]
    kept += models.ControlRecord.objects.values_list("reason", flat=True)
    assert all(kept) and "hunter2" not in "".join(kept)


@pytest.mark.parametrize(
    ("to", "within", "who", "words"),
    [
        (8, 3600, MILA, "8 is not fewer"),
        (9, 3600, MILA, "9 is not fewer"),
        (0, 3600, MILA, "must be from 1 to 500"),
        (5, 1, MILA, "It can wait for 15 min"),
        (5, 3600, Actor(None, "vera", "viewer"), "needs the operator role"),
    ],
)
def test_what_cannot_be_waited_for_is_refused_and_recorded(
    bench: Bench, to: int, within: int, who: Actor, words: str
) -> None:
    with pytest.raises(Refused, match=words):
        ask(to, within, who)
    (record,) = models.ControlRecord.objects.all()
    assert record.effect == "refused" and words in record.evidence
    assert not models.WaitingShrink.objects.exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"pool": "threads"}, "threads pool keeps its size"),
        ({"pool": "solo"}, "solo pool is always one"),
        ({"autoscale_max": 8}, "scales itself"),
        ({"status": "offline"}, "is offline"),
        ({"size": None}, "is not known yet"),
    ],
)
def test_a_pool_that_cannot_shrink_says_why_at_once(bench: Bench, values: dict[str, Any], words: str) -> None:
    models.Worker.objects.update(**values)
    with pytest.raises(Refused, match=words):
        ask()


def test_the_page_shows_who_asked_and_withdraws_it(client: Client, bench: Bench) -> None:
    client.force_login(access.create_user("olga", "operator", "correct horse 9"))
    answer = client.post(
        reverse("worker-shrink-when-free", args=[bench.row.pk]), {"size": "5", "within": "3600"}
    )
    assert answer.status_code == 302
    html = client.get(reverse("worker", args=[bench.row.pk])).content.decode()
    assert "Shrinks to 5 when free." in html and "olga asked" in html and "Withdraw" in html
    toast = client.post(
        reverse("worker-keep-size", args=[bench.row.pk]), headers={"HX-Request": "true"}
    ).content.decode()
    assert "The pool keeps its size" in toast
    html = client.get(reverse("worker", args=[bench.row.pk])).content.decode()
    assert "when free." not in html and "olga withdrew it." in html
    assert client.post(reverse("worker-keep-size", args=[bench.row.pk])).status_code == 409


@pytest.mark.parametrize(("size", "within"), [("abc", "3600"), ("", "3600"), ("5", "x"), ("5", "-1")])
def test_what_was_mistyped_is_named(client: Client, bench: Bench, size: str, within: str) -> None:
    client.force_login(access.create_user("olga", "operator", "correct horse 9"))
    data = {"size": size, "within": within}
    answer = client.post(reverse("worker-shrink-when-free", args=[bench.row.pk]), data)
    assert answer.status_code == 409
    assert not models.WaitingShrink.objects.exists()
