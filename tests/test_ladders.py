"""Steps that end a task, without a worker: pauses, crashes and what the audit log keeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from dashboard.queries import ladders as queries
from monitor.control import Actor, Command, Refused
from monitor.control.inspecting import Seen
from monitor.control.revokes import ladders
from monitor.control.revokes.ladders import RESUME_WITHIN, Climber
from monitor.models import ControlRecord, Ladder, Task, Worker
from tests.acts import Crash

pytestmark = pytest.mark.django_db
SECRET = "password=hunter2secret"


class Stair:
    """A task that runs and the steps for it, on a clock of the test."""

    def __init__(self) -> None:
        self.now = time.time()
        self.sent: list[Command] = []
        self.crash = False
        Worker.objects.create(hostname="w@h", status="online", pool="prefork", size=2, first_seen_at=1)
        Task.objects.create(
            uuid="runs", state="STARTED", name="shop.nap", worker="w@h", started_at=self.now - 90,
            first_seen_at=self.now, seen_at=self.now,
        )  # fmt: skip

    def ladder(self, **more: Any) -> Ladder:
        rungs = [{"do": "SIGUSR1", "by": "celery"}, {"do": "SIGKILL", "by": "here"}]
        fields = {"rungs": rungs, "wait": 10, "since": self.now, "due_at": self.now, "pid": 5, "began": 5}
        return Ladder.objects.create(
            uuid="runs", worker="w@h", username="ada", role="operator", **{**fields, **more}
        )

    def perform(self, command: Command, actor: Actor) -> ControlRecord:
        if self.crash:
            raise Crash
        self.sent.append(command)
        return ControlRecord.objects.create(
            at=self.now, username=actor.username, command=command.name, sent_at=self.now
        )

    def look(self, after: float = 0.0) -> Ladder:
        self.now += after
        Climber(self.perform, clock=lambda: self.now).look()
        return Ladder.objects.order_by("-since")[0]


@pytest.fixture
def stair(monkeypatch: pytest.MonkeyPatch) -> Stair:
    monkeypatch.setattr(ladders, "seen_on", lambda *_: {})
    monkeypatch.setattr(ladders.here, "lives", lambda *_: True)
    return Stair()


@pytest.mark.parametrize("step", [0, 1])
def test_after_a_long_pause_of_umbel_no_further_step_is_done(stair: Stair, step: int) -> None:
    stair.ladder(step=step, log=[{"step": 0, "at": stair.now, "text": "SIGUSR1: sent"}][:step])
    ladder = stair.look(8 * 3600)
    assert not stair.sent and ladder.gone is False
    assert (
        ladder.outcome
        == "Umbel was not running when its next step was due, 480 min ago. Nothing more was sent."
    )
    record = ControlRecord.objects.get()
    assert (record.command, record.username) == ("withdraw", "Umbel")
    assert f"{step} of 2 steps had been sent" in record.evidence


def test_after_a_short_pause_it_goes_on(stair: Stair) -> None:
    stair.ladder()
    assert stair.look(RESUME_WITHIN - 1).step == 1 and len(stair.sent) == 1


def test_what_has_ended_in_a_long_pause_is_said_to_have_ended(stair: Stair) -> None:
    stair.ladder()
    Task.objects.update(state="SUCCESS")
    ladder = stair.look(8 * 3600)
    assert (ladder.gone, ladder.outcome) == (True, "It ended: SUCCESS.")
    assert not ControlRecord.objects.exists()


def test_after_a_crash_each_outcome_stands_at_its_own_step(stair: Stair) -> None:
    stair.ladder()
    stair.crash = True
    with pytest.raises(Crash):
        stair.look()
    stair.crash = False
    first, second = queries.shown(stair.look(11)).steps
    assert first.at is None and "may have been sent, and is not sent again" in first.text
    assert second.at == stair.now and second.text == "sent" and second.record
    assert [command.name for command in stair.sent] == ["signal_process"]


def test_a_log_that_an_older_umbel_wrote_is_read_in_its_order(stair: Stair) -> None:
    log = [{"at": 5.0, "text": "SIGUSR1: sent", "record": ""}]
    first, second = queries.shown(stair.ladder(step=1, log=log)).steps
    assert (first.at, first.text, second.at) == (5.0, "sent", None)


@pytest.fixture
def begin(stair: Stair, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Ladder]:
    rungs = (ladders.Rung("SIGUSR1"), ladders.Rung("SIGKILL", ladders.HERE))
    monkeypatch.setattr(ladders, "plan", lambda *_: ladders.Plan(rungs))
    seen = Seen(tasks={"runs": "active"}, pids={"runs": 1}, processes={1})
    monkeypatch.setattr(ladders, "seen_on", lambda *_: {"w@h": seen})
    return lambda reason: ladders.start("runs", 10, Actor(None, "ada", "operator"), reason)


def test_who_began_it_is_in_the_audit_log_once(begin: Callable[[str], Ladder]) -> None:
    assert begin("stuck").pk == begin("a second click").pk
    record = ControlRecord.objects.get()
    assert (record.username, record.command, record.reason) == ("ada", "terminate", "stuck")
    assert record.evidence == (
        "Step by step, 10 s between two, until it is gone: SIGUSR1, "
        "then SIGKILL to its process, from this machine."
    )


def test_a_secret_in_the_reason_is_hidden(begin: Callable[[str], Ladder]) -> None:
    assert "hunter2" not in begin(SECRET).reason
    assert "hunter2" not in ControlRecord.objects.get().reason


def test_what_is_refused_is_in_the_audit_log(stair: Stair) -> None:
    ladder = stair.ladder()
    viewer = Actor(None, "vera", "viewer")
    for act in (lambda: ladders.start("runs", 10, viewer, "x"), lambda: ladders.withdraw(ladder.pk, viewer)):
        with pytest.raises(Refused, match="needs the operator role"):
            act()
    said = ControlRecord.objects.filter(username="vera", effect="refused")
    assert set(said.values_list("command", flat=True)) == {"terminate", "withdraw"}
    assert Ladder.objects.get().ended_at is None
