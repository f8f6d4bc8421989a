"""Acts on many after they were sent: what became of each target, and of acts that wait long."""

from __future__ import annotations

import time
from typing import Any

import pytest

from monitor.acts.kinds import Sight, ran_again
from monitor.acts.models import ActTarget, BulkAct
from monitor.models import ControlRecord, Task
from tests.acts import Bench, made, online, outcomes, tasks, why

pytestmark = pytest.mark.django_db


@pytest.fixture
def bench() -> Bench:
    online()
    return Bench()


def test_a_revoke_is_confirmed_as_workers_reach_the_tasks(bench: Bench) -> None:
    act = made(tasks(4))
    bench.until_settling(act)
    assert set(outcomes(act).values()) == {"sent"} and "said yes" in why(act, "t0")
    Task.objects.filter(uuid="t0").update(state="REVOKED")
    Task.objects.filter(uuid="t1").update(state="STARTED", worker="w2@h")
    Task.objects.filter(uuid="t2").update(state="REVOKED", known="inferred")
    bench.look()
    assert outcomes(act) == {"t0": "confirmed", "t1": "not", "t2": "sent", "t3": "sent"}
    assert "no worker was seen" in why(act, "t2")
    Task.objects.filter(uuid="t1").update(state="SUCCESS")
    Task.objects.filter(uuid__in=["t2", "t3"]).update(state="REVOKED", known="seen")
    bench.look()
    act.refresh_from_db()
    assert outcomes(act) == {"t0": "confirmed", "t1": "not", "t2": "confirmed", "t3": "confirmed"}
    assert "ran all the same" in why(act, "t1")
    assert (act.state, act.tally) == ("done", {"confirmed": 3, "not": 1})
    Task.objects.filter(uuid="t0").update(state="SUCCESS")  # too late to be told of
    bench.look()
    assert outcomes(act)["t0"] == "confirmed"


def test_silence_is_told_and_what_the_events_say_is_told_too(bench: Bench) -> None:
    act = made(tasks(2))
    bench.reply = "silent"
    bench.until_settling(act)
    assert set(outcomes(act).values()) == {"silent"} and act.state == "settling"
    Task.objects.filter(uuid="t0").update(state="REVOKED")
    bench.look()
    assert outcomes(act) == {"t0": "confirmed", "t1": "silent"}


def test_a_worker_that_refuses_is_quoted(bench: Bench) -> None:
    tasks(1, "STARTED", started_at=100.0, worker="w@h")
    act = made(["t0"], "terminate", was="STARTED", run=100.0)
    bench.reply = "error"
    bench.until_settling(act)
    bench.look()
    assert outcomes(act) == {"t0": "refused"} and "w@h refused: no such thing" in why(act, "t0")


def test_a_terminate_is_settled_by_the_look_and_by_late_events(bench: Bench) -> None:
    tasks(4, "STARTED", started_at=100.0, worker="w@h")
    act = made([f"t{n}" for n in range(4)], "terminate", was="STARTED", run=100.0)
    bench.until_settling(act)
    found = [("t0", True, "Gone."), ("t1", False, "Still active."), ("t2", None, "Gone; no end seen.")]
    ControlRecord.objects.update(
        completed_at=bench.now,
        effect="partly",
        seen=[{"target": t, "seen": s, "text": x} for t, s, x in found],
    )
    bench.look()
    assert outcomes(act) == {"t0": "confirmed", "t1": "not", "t2": "sent", "t3": "sent"}
    Task.objects.filter(uuid="t2").update(state="REVOKED")
    Task.objects.filter(uuid="t3").update(state="SUCCESS")
    bench.look()
    assert outcomes(act) == {"t0": "confirmed", "t1": "not", "t2": "confirmed", "t3": "not"}
    act.refresh_from_db()
    assert act.state == "settling"
    bench.look(120)
    act.refresh_from_db()
    assert act.state == "done" and why(act, "t1") == "Still active."


def settling(many: int) -> list[BulkAct]:
    """Acts on tasks that wait for weeks, one task each."""
    now = time.time()
    uuids = tasks(many, prefix="far")
    acts = BulkAct.objects.bulk_create(
        BulkAct(
            state="settling", username="mila", role="operator", command="revoke", count=1,
            read_at=now, at=now, send_at=now - 500, batch_at=now - 500, sent_at=now - 500,
        )
        for _ in uuids
    )  # fmt: skip
    ActTarget.objects.bulk_create(
        ActTarget(act=act, place=0, target=uuid, was="PENDING", run=0.0, outcome="sent", batch=act.pk)
        for act, uuid in zip(acts, uuids, strict=True)
    )
    return acts


@pytest.mark.parametrize("hold", [0, 5])
def test_a_new_act_is_sent_to_its_end_however_many_others_still_settle(bench: Bench, hold: float) -> None:
    settling(120)
    act = made(tasks(600), hold=hold)
    bench.until_settling(act)
    assert sum(len(one.targets) for one in bench.sent) == 600


def test_each_of_many_that_settle_gets_its_look(bench: Bench) -> None:
    acts = settling(250)
    Task.objects.filter(uuid__startswith="far").update(state="REVOKED", known="seen")
    for _ in range(3):
        bench.acts.look()  # within one second: nobody gets a second look before all have had one
    assert {act.state for act in BulkAct.objects.filter(pk__in=[one.pk for one in acts])} == {"done"}


def test_what_is_never_heard_of_again_ends_the_act_all_the_same(bench: Bench) -> None:
    act = made(tasks(1))
    bench.until_settling(act)
    bench.look(31 * 86_400)
    act.refresh_from_db()
    assert act.state == "done" and outcomes(act) == {"t0": "not"} and "30 days" in why(act, "t0")


@pytest.mark.parametrize(
    ("row", "outcome", "words", "final"),
    [
        ({"state": "RECEIVED"}, "confirmed", "a worker has it", True),
        ({"state": "LOST"}, "not", "that is lost", False),
        ({"state": "REVOKED", "known": "seen"}, "not", "a worker skipped it", True),
        ({"state": "REVOKED", "known": "seen", "expired": True}, "not", "it expired", True),
        ({"state": "REVOKED", "known": "seen", "terminated": True}, "confirmed", "a worker has it", True),
        ({"state": "REVOKED", "known": "result"}, "sent", "the result says REVOKED", False),
        ({"state": "PENDING"}, "sent", "", False),
    ],
)
def test_a_task_run_again_is_confirmed_only_when_a_worker_has_it(
    row: dict[str, Any], outcome: str, words: str, final: bool
) -> None:
    fate = ran_again(Sight({"uuid": "new", "known": "", "expired": False, "terminated": False} | row))
    assert (fate.outcome, fate.final) == (outcome, final) and words in fate.text
