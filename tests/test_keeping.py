"""Revokes that stand: who is told again, when, and what ends it."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from dashboard.process import watching
from dashboard.queries import attention
from dashboard.queries.workers import current
from monitor.broker import Broker
from monitor.control import Actor, Command, Refused
from monitor.control.asking import Question
from monitor.control.commands import UMBEL
from monitor.control.orders import Order
from monitor.control.revokes.keeping import AGAIN_AFTER, LONGEST, MOST_IDS, Keeper
from monitor.control.revokes.stopping import stand
from monitor.models import ControlRecord, StandingRevoke, Task, Worker

pytestmark = pytest.mark.django_db

START = 1_790_000_000.0


class Bench:
    """A keeper on a clock of the test, and what it sent."""

    def __init__(self) -> None:
        self.now = START
        self.sent: list[tuple[str, tuple[str, ...]]] = []
        self.deaf: set[str] = set()
        self.keeper = Keeper(self.perform, lambda: self.now)
        self.keeper.look()

    def perform(self, command: Command, actor: Actor) -> ControlRecord:
        assert actor == UMBEL and command.name == "revoke"
        (worker,) = command.destinations
        self.sent.append((worker, command.targets))
        if worker in self.deaf:
            raise Refused("It is not online.")
        return record(self.now, {worker: "ok"}, by="Umbel")

    def look(self, after: float = 1.0) -> list[tuple[str, tuple[str, ...]]]:
        """What is sent in a look so much later."""
        self.now += after
        self.sent = []
        self.keeper.look()
        return self.sent


def record(at: float, replies: dict[str, str], by: str = "ada") -> ControlRecord:
    return ControlRecord.objects.create(
        at=at,
        username=by,
        role="operator",
        command="revoke",
        answered_at=at,
        replies=[{"worker": name, "outcome": outcome, "text": ""} for name, outcome in replies.items()],
    )


def worker(hostname: str, online_at: float = START - 100, pid: int = 1, **fields: Any) -> Worker:
    row, _ = Worker.objects.update_or_create(
        hostname=hostname,
        defaults={"status": "online", "first_seen_at": START, "pid": pid, "online_at": online_at, **fields},
    )
    return row


def revoked(at: float, *uuids: str, took: str = "w1", skipped: str = "") -> None:
    """An operator's revoke, taken by these workers."""
    for uuid in uuids:
        Task.objects.get_or_create(
            uuid=uuid, defaults={"state": "RECEIVED", "first_seen_at": at, "seen_at": at}
        )
    command = Command("revoke", uuids)
    order = Order(
        command, [Question("revoke", {}, ("w1",))], {}, skipped={skipped: "ended"} if skipped else {}
    )
    stand(order, record(at, dict.fromkeys(took.split(), "ok")))


@pytest.fixture
def bench() -> Bench:
    worker("w1")
    return Bench()


def test_who_took_it_is_not_told_again(bench: Bench) -> None:
    bench.now += 10
    revoked(bench.now, "a")
    assert bench.look() == bench.look() == []


def test_a_worker_that_restarts_is_told_again_and_once(bench: Bench) -> None:
    revoked(bench.now + 1, "a", "b")
    assert bench.look(5) == []
    worker("w1", online_at=bench.now + 3, pid=2)
    assert bench.look(5) == [("w1", ("a", "b"))]
    assert bench.look() == []
    assert StandingRevoke.objects.get(uuid="a").again == [["w1", bench.now - 1]]


def test_a_worker_that_was_silent_or_comes_new_is_told(bench: Bench) -> None:
    worker("w2")
    revoked(bench.now + 1, "a", took="w1")
    assert bench.look(5) == [("w2", ("a",))]
    worker("w3", online_at=bench.now + 1)
    assert bench.look(5) == [("w3", ("a",))]


def test_after_a_restart_of_umbel_all_are_told_once_since_nobody_watched(bench: Bench) -> None:
    revoked(bench.now + 1, "a")
    bench.look(5)
    bench.keeper = Keeper(bench.perform, lambda: bench.now)
    assert bench.look(5) == [("w1", ("a",))]
    assert bench.look(5) == []


def test_before_workers_forget_they_are_told_again(bench: Bench) -> None:
    assert AGAIN_AFTER < 10_800
    revoked(bench.now + 1, "a")
    assert bench.look(AGAIN_AFTER - 10) == []
    assert bench.look(20) == [("w1", ("a",))]
    assert bench.look(AGAIN_AFTER - 10) == []


@pytest.mark.parametrize("state", ["REVOKED", "SUCCESS", "FAILURE", "REJECTED"])
def test_what_has_ended_is_moot(bench: Bench, state: str) -> None:
    revoked(bench.now + 1, "a", "b")
    Task.objects.filter(uuid="a").update(state=state)
    worker("w1", online_at=bench.now + 3, pid=2)
    assert bench.look(5) == [("w1", ("b",))]
    assert StandingRevoke.objects.get(uuid="a").moot_at == bench.now
    assert StandingRevoke.objects.get(uuid="b").moot_at is None


def test_a_result_that_says_revoked_is_no_proof_and_the_revoke_stands(bench: Bench) -> None:
    revoked(bench.now + 1, "a")
    Task.objects.filter(uuid="a").update(state="REVOKED", known="inferred")
    worker("w1", online_at=bench.now + 3, pid=2)
    assert bench.look(5) == [("w1", ("a",))]
    Task.objects.filter(uuid="a").update(known="seen")
    assert bench.look(5) == [] and StandingRevoke.objects.get(uuid="a").moot_at == bench.now


def test_a_lost_task_may_come_back_and_stands(bench: Bench) -> None:
    revoked(bench.now + 1, "a")
    Task.objects.filter(uuid="a").update(state="LOST")
    worker("w2", online_at=bench.now + 1)
    assert bench.look(5) == [("w2", ("a",))]


def test_a_task_that_starts_all_the_same_is_an_alarm_until_it_ends(bench: Bench) -> None:
    now = time.time()
    revoked(now - 60, "a")
    Task.objects.filter(uuid="a").update(
        state="STARTED", started_at=now - 30, worker="w1", name="shop.charge"
    )
    bench.now = now
    assert bench.look() == []
    assert StandingRevoke.objects.get(uuid="a").started_at == now - 30
    (item,) = attention._broken_revokes(current().now)
    assert item.title == "A revoked task runs all the same"
    assert "charge was started on w1" in item.text and item.href.endswith("/tasks/a/")
    Task.objects.filter(uuid="a").update(state="SUCCESS", ended_at=now)
    bench.look()
    assert attention._broken_revokes(now) == []


def test_a_start_that_crossed_the_revoke_is_no_alarm(bench: Bench) -> None:
    revoked(bench.now, "a")
    Task.objects.filter(uuid="a").update(state="STARTED", started_at=bench.now + 0.5)
    bench.look()
    assert StandingRevoke.objects.get(uuid="a").started_at is None


def test_a_worker_that_does_not_listen_yet_is_told_when_it_does_and_not_without_end(bench: Bench) -> None:
    revoked(bench.now + 1, "a")
    bench.look(5)
    worker("w1", online_at=bench.now + 1, pid=2)
    bench.deaf = {"w1"}
    tries = sum(bool(bench.look(1)) for _ in range(60))
    assert 4 <= tries <= 8, "each pause is longer than the one before"
    bench.deaf = set()
    assert any(bench.look(10) for _ in range(10))
    assert bench.look(10) == []


def test_many_are_sent_in_messages_of_a_bounded_size(bench: Bench) -> None:
    revoked(bench.now + 1, *(f"t{n:04}" for n in range(MOST_IDS + 20)))
    worker("w2", online_at=bench.now + 1)
    assert [(name, len(uuids)) for name, uuids in bench.look(5)] == [("w2", MOST_IDS), ("w2", 20)]


def test_what_was_left_out_does_not_stand_and_nothing_stands_for_ever(bench: Bench) -> None:
    revoked(bench.now + 1, "a", "b", skipped="b")
    assert list(StandingRevoke.objects.values_list("uuid", flat=True)) == ["a"]
    bench.look(LONGEST + 10)
    assert StandingRevoke.objects.get(uuid="a").moot_at is not None


def test_what_the_keeper_sends_stands_for_whom_it_was_asked_by(bench: Bench) -> None:
    revoked(bench.now + 1, "a")
    asked = StandingRevoke.objects.get(uuid="a").record_id
    stand(Order(Command("revoke", ("a",)), [], {}), record(bench.now + 2, {"w1": "ok"}, by="Umbel"))
    assert StandingRevoke.objects.get(uuid="a").record_id == asked


def test_offline_workers_and_beats_are_not_told(bench: Bench) -> None:
    worker("gone", status="offline")
    worker("beat", is_beat=True)
    revoked(bench.now + 1, "a")
    assert bench.look(5) == []


@pytest.mark.parametrize("read_only", [True, False])
def test_read_only_sends_nothing_again(
    settings: Any, monkeypatch: pytest.MonkeyPatch, read_only: bool
) -> None:
    settings.UMBEL_READ_ONLY = read_only
    made: list[Any] = []
    engine = SimpleNamespace(start=lambda: None)
    monkeypatch.setattr(watching, "Engine", lambda options: made.append(options) or engine)
    watching.Monitor(Broker("redis://127.0.0.1:1/0")).begin(SimpleNamespace())  # type: ignore[arg-type]  # not looked at
    assert (made[0].keeper is None) is read_only


def test_what_starts_all_the_same_is_terminated_once_if_that_was_asked_for() -> None:
    worker("w1")
    sent: list[tuple[str, tuple[str, ...], dict[str, Any], str]] = []

    def perform(command: Command, actor: Actor) -> ControlRecord:
        assert actor == UMBEL
        sent.append((command.name, command.targets, command.arguments, command.reason))
        return record(START, {"w1": "ok"}, by="Umbel")

    keeper = Keeper(perform, lambda: START + 100)
    for uuid, asked in (("ends", "SIGTERM"), ("alarm", "")):
        Task.objects.create(uuid=uuid, state="PENDING", first_seen_at=START, seen_at=START)
        command = Command("revoke", (uuid,), {"if_started": asked} if asked else {})
        stand(Order(command, [Question("revoke", {}, ("w1",))], {}), record(START, {"w1": "ok"}))
    keeper.look()
    terminated = [one for one in sent if one[0] == "terminate"]
    assert terminated == []
    Task.objects.update(state="STARTED", worker="w1", started_at=START + 50)
    keeper.look()
    keeper.look()
    terminated = [one for one in sent if one[0] == "terminate"]
    reason = "Revoked by ada, and started all the same; ada asked to have it terminated then."
    assert terminated == [("terminate", ("ends",), {"signal": "SIGTERM"}, reason)]
    assert StandingRevoke.objects.get(uuid="ends").ended_at == START + 100
    assert StandingRevoke.objects.get(uuid="alarm").ended_at is None


def test_a_start_that_was_on_its_way_is_not_terminated() -> None:
    worker("w1")
    keeper = Keeper(lambda command, actor: record(START, {"w1": "ok"}, by="Umbel"), lambda: START + 100)
    Task.objects.create(
        uuid="a", state="STARTED", first_seen_at=START, seen_at=START, started_at=START + 1, worker="w1"
    )
    command = Command("revoke", ("a",), {"if_started": "SIGTERM"})
    stand(Order(command, [Question("revoke", {}, ("w1",))], {}), record(START, {"w1": "ok"}))
    keeper.look()
    assert StandingRevoke.objects.get(uuid="a").ended_at is None
