"""Acts on many: frozen, held, sent in batches, stopped, interrupted, and settled one by one."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from dashboard import access
from dashboard.queries.acts import Shown
from monitor.acts import making
from monitor.acts.batches import GRACE, RESUME_WITHIN, tidy
from monitor.acts.kinds import Sight, ran_again
from monitor.acts.making import Frozen, List
from monitor.acts.models import ActTarget, BulkAct
from monitor.control import Actor, Refused
from monitor.models import ControlRecord, Task, Worker
from tests.acts import MILA, Bench, Crash, made, online, outcomes, tasks, why

pytestmark = pytest.mark.django_db


@pytest.fixture
def bench() -> Bench:
    online()
    return Bench()


# Made and confirmed


def test_a_list_is_frozen_and_nothing_is_sent_before_somebody_confirms_it(bench: Bench) -> None:
    tasks(3)
    making.draft("revoke", List([Frozen(f"t{n}", "PENDING") for n in range(3)], "three"), MILA)
    bench.look(100)
    assert bench.sent == [] and not ControlRecord.objects.exists()


def test_an_act_needs_a_reason_an_operator_and_a_list_that_is_fresh() -> None:
    act = making.draft("revoke", List([Frozen("a", "PENDING")], "one"), MILA)
    with pytest.raises(Refused, match="needs a reason"):
        making.confirm(act.pk, MILA, {}, reason=" ", hold=5)
    with pytest.raises(Refused, match="read it again"):
        making.confirm(act.pk, Actor(None, "eve", "operator"), {}, reason="x", hold=5)
    with pytest.raises(Refused, match="from 0 to 30"):
        making.confirm(act.pk, MILA, {}, reason="x", hold=31)
    with pytest.raises(Refused, match="20 min ago"):
        making.confirm(act.pk, MILA, {}, reason="x", hold=5, now=time.time() + 1200)
    with pytest.raises(Refused, match="operator role"):
        making.draft("revoke", List([Frozen("a", "PENDING")], "one"), Actor(None, "vera", "viewer"))
    with pytest.raises(Refused, match="Nothing was selected"):
        making.draft("revoke", List([], "none"), MILA)
    assert {record.effect for record in ControlRecord.objects.all()} == {"refused"}
    assert BulkAct.objects.get().state == "draft"


def test_a_signal_that_umbel_does_not_send_is_refused_before_anything_is_held() -> None:
    act = making.draft("terminate", List([Frozen("a", "STARTED")], "one"), MILA)
    with pytest.raises(Refused, match="SIGFOO"):
        making.confirm(act.pk, MILA, {"signal": "SIGFOO"}, reason="x", hold=0)


def test_the_second_click_is_the_same_act() -> None:
    act = made(["a"], hold=5)
    again = making.confirm(act.pk, MILA, {}, reason="another", hold=0)
    assert (again.state, again.reason, again.hold) == ("held", "the test", 5)


def test_of_one_person_only_a_few_lists_wait_to_be_confirmed() -> None:
    for _ in range(8):
        making.draft("revoke", List([Frozen("a", "PENDING")], "one"), MILA)
    assert BulkAct.objects.count() == making.DRAFTS == ActTarget.objects.count()


# Held


def test_a_held_act_is_sent_when_its_hold_is_over_and_not_before(bench: Bench) -> None:
    tasks(3)
    act = made(["t0", "t1", "t2"], hold=5, now=bench.now)
    assert bench.look(4.5) <= 0.5
    assert bench.sent == []
    bench.until_settling(act)
    assert [command.targets for command in bench.sent] == [("t0", "t1", "t2")]
    assert bench.sent[0].reason == "the test"


def test_any_operator_withdraws_it_and_then_it_is_never_sent(bench: Bench) -> None:
    tasks(2)
    act = made(["t0", "t1"], hold=5, now=bench.now)
    other = Actor(None, "otto", "operator")
    with pytest.raises(Refused, match="operator role"):
        making.withdraw(act.pk, Actor(None, "vera", "viewer"))
    act = making.withdraw(act.pk, other)
    assert making.withdraw(act.pk, MILA).stopped_by == "otto"  # the second click
    bench.look(60)
    assert bench.sent == [] and set(outcomes(act).values()) == {"left"}
    record = ControlRecord.objects.get(command="withdraw")
    assert record.username == "otto" and "revoke of 2 tasks by mila" in record.evidence


def test_what_is_sent_cannot_be_withdrawn(bench: Bench) -> None:
    tasks(1)
    act = made(["t0"])
    bench.until_settling(act)
    with pytest.raises(Refused, match="cannot be withdrawn"):
        making.withdraw(act.pk, MILA)
    with pytest.raises(Refused, match="nothing to stop"):
        making.stop(act.pk, MILA)


def test_after_a_restart_the_hold_begins_anew_so_that_somebody_can_see_it(bench: Bench) -> None:
    tasks(1)
    act = made(["t0"], hold=10, now=bench.now)
    bench.look(1)
    bench.restart()
    bench.look(60)
    act.refresh_from_db()
    assert bench.sent == [] and act.state == "held" and act.send_at == bench.now + 10
    assert "began anew" in act.note
    bench.until_settling(act)
    assert len(bench.sent) == 1


def test_an_act_that_was_due_long_ago_is_let_go_of(bench: Bench) -> None:
    tasks(1)
    act = made(["t0"], hold=10, now=bench.now)
    bench.restart()
    bench.look(RESUME_WITHIN + 60)
    act.refresh_from_db()
    assert bench.sent == [] and act.state == "withdrawn" and "was not running when it was due" in act.note
    assert ControlRecord.objects.get(command="withdraw").username == "Umbel"
    assert Shown(act).sentence.startswith("Umbel stopped it: ")


def test_a_person_who_is_called_as_umbel_is_not_umbel() -> None:
    act = BulkAct(command="revoke", count=2, state="done", stopped_by="Umbel", stopped_at=1.0, read_at=1.0)
    assert Shown(act, {"left": 1}).sentence == "Stopped by Umbel: 1 were not sent."
    for name in ("Umbel", " umbel "):
        with pytest.raises(ValueError, match="calls Umbel itself by that name"):
            access.create_user(name, "operator", "correct horse 9")


# Sent


def test_batches_have_at_most_five_hundred_ids_and_keep_their_pace() -> None:
    online()
    bench = Bench(rate=500.0)
    act = made(tasks(1_200))
    sent_at = []
    while len(bench.sent) < 3:
        before = len(bench.sent)
        bench.look(0.1)
        if len(bench.sent) > before:
            sent_at.append(bench.now)
    assert [len(command.targets) for command in bench.sent] == [500, 500, 200]
    assert all(later - earlier >= 0.99 for earlier, later in pairwise(sent_at))
    bench.until_settling(act)
    assert sorted(u for c in bench.sent for u in c.targets) == sorted(f"t{n}" for n in range(1_200))
    records = ControlRecord.objects.filter(command="revoke")
    assert records.count() == 3 and {record.username for record in records} == {"mila"}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"state": "STARTED", "worker": "w2@h"}, "It began on w2@h after the list was read"),
        ({"state": "SUCCESS"}, "is SUCCESS now"),
        ({"state": "RECEIVED", "retries": 1}, "was retried, after the list was read"),
        (None, "has left Umbel's history"),
    ],
)
def test_what_changed_since_the_list_was_read_is_not_acted_on(
    bench: Bench, now: dict[str, Any] | None, said: str
) -> None:
    act = made(tasks(2))
    changed = Task.objects.filter(uuid="t0")
    changed.update(**now) if now else changed.delete()
    bench.until_settling(act)
    assert [command.targets for command in bench.sent] == [("t1",)]
    assert outcomes(act)["t0"] == "skipped" and said in why(act, "t0")


def test_a_task_that_a_worker_reserved_since_still_waits(bench: Bench) -> None:
    act = made(tasks(1))
    Task.objects.update(state="RECEIVED", worker="w@h")
    bench.until_settling(act)
    assert bench.sent[0].targets == ("t0",)


def test_a_task_that_was_started_again_is_another_run(bench: Bench) -> None:
    tasks(2, "STARTED", started_at=100.0, worker="w@h")
    act = made(["t0", "t1"], "terminate", was="STARTED", run=100.0)
    Task.objects.filter(uuid="t1").update(started_at=200.0)
    bench.until_settling(act)
    assert bench.sent[0].targets == ("t0",) and bench.sent[0].arguments == {"signal": "SIGTERM"}
    assert "another run" in why(act, "t1")


def test_a_worker_that_was_restarted_since_is_another_one(bench: Bench) -> None:
    online("w2@h", pid=8)
    act = made(["w@h", "w2@h"], "shutdown", was="online", run=7.0)
    Worker.objects.filter(hostname="w@h").update(status="offline")
    bench.until_settling(act)
    assert bench.sent == []
    assert "is offline now" in why(act, "w@h") and "restarted" in why(act, "w2@h")


def test_workers_are_asked_one_at_a_time(bench: Bench) -> None:
    online("w2@h")
    act = made(["w@h", "w2@h"], "pool_restart", was="online", run=7.0)
    bench.until_settling(act)
    assert [command.targets for command in bench.sent] == [("w@h",), ("w2@h",)]


def test_an_act_is_stopped_between_two_batches(bench: Bench) -> None:
    act = made(tasks(1_200))
    while not bench.sent:
        bench.look(0.01)
    making.stop(act.pk, Actor(None, "otto", "operator"))
    bench.until_settling(act)
    assert len(bench.sent) == 1
    assert Counter(outcomes(act).values()) == {"sent": 500, "left": 700}
    assert "Stopped by otto" in why(act, "t1199")
    assert ControlRecord.objects.get(command="stop").username == "otto"


def test_read_only_sends_nothing_and_says_so(bench: Bench) -> None:
    held, act = made(["x"], hold=30, now=bench.now), made(tasks(600))
    while not bench.sent:
        bench.look(0.01)
    bench.options = {"read_only": True}
    bench.restart()
    bench.look(5)
    act.refresh_from_db()
    held.refresh_from_db()
    assert len(bench.sent) == 1 and "--read-only" in act.note and act.state == "settling"
    assert (held.state, outcomes(held)) == ("withdrawn", {"x": "left"}) and "--read-only" in held.note


def test_without_a_worker_online_it_stops_instead_of_sending_into_nowhere(bench: Bench) -> None:
    act = made(tasks(3))
    Worker.objects.update(status="offline")
    bench.until_settling(act)
    assert bench.sent == [] and "No worker is online" in act.note
    assert set(outcomes(act).values()) == {"left"}


def test_a_broker_that_is_away_stops_it_and_nothing_is_sent_later(bench: Bench) -> None:
    act = made(tasks(1_100))
    bench.away = True
    bench.until_settling(act)
    bench.away = False
    bench.look(60)
    assert bench.sent == [] and "cannot be reached" in act.note
    assert Counter(outcomes(act).values()) == {"refused": 500, "left": 600}


def test_what_the_command_left_out_is_skipped_with_its_reason(bench: Bench) -> None:
    act = made(tasks(2))
    bench.skip = {"t1": "shop.add t1 has ended already: SUCCESS."}
    bench.until_settling(act)
    assert outcomes(act) == {"t0": "sent", "t1": "skipped"} and "ended already" in why(act, "t1")


# Umbel ends in the midst of it


def test_a_batch_that_was_never_recorded_was_never_sent_and_is_sent_now(bench: Bench) -> None:
    act = made(tasks(600))
    bench.crash = "before"
    with pytest.raises(Crash):
        bench.until_settling(act)
    assert Counter(outcomes(act).values()) == {"sending": 500, "waiting": 100}
    bench.crash = ""
    bench.restart()
    bench.until_settling(act)
    assert sorted(u for c in bench.sent for u in c.targets) == sorted(f"t{n}" for n in range(600))
    assert set(outcomes(act).values()) == {"sent"}


def test_a_batch_whose_fate_is_unknown_says_so_and_is_not_sent_twice(bench: Bench) -> None:
    act = made(tasks(600))
    bench.crash = "after"
    with pytest.raises(Crash):
        bench.until_settling(act)
    bench.crash = ""
    bench.restart()
    bench.look(1)
    assert Counter(outcomes(act).values())["sending"] == 500  # it may be on its way elsewhere
    bench.look(GRACE + 1)
    bench.until_settling(act)
    assert [len(command.targets) for command in bench.sent] == [500, 100]
    assert Counter(outcomes(act).values()) == {"unknown": 500, "sent": 100}
    assert "may have been sent" in why(act, "t0")
    Task.objects.filter(uuid="t0").update(state="REVOKED")
    bench.look()
    assert outcomes(act)["t0"] == "confirmed"


def test_two_leaders_do_not_send_one_batch_twice(bench: Bench) -> None:
    act = made(tasks(2))
    other = Bench()
    # The first claims a batch and stands still; the second, which leads by now, takes it back and sends it.
    perform = bench.perform

    def late(*args: Any, **named: Any) -> ControlRecord:
        other.until_settling(act)
        return perform(*args, **named)

    bench.acts.perform = late
    bench.until_settling(act)
    assert len(other.sent) == 1 and bench.sent == []


# Settled


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


# Bounded


def test_old_acts_and_forgotten_lists_go() -> None:
    making.draft("revoke", List([Frozen("a", "PENDING")], "one", read_at=time.time() - 3_600), MILA)
    old, new = made(["b"]), made(["c"])
    BulkAct.objects.update(at=1.0)
    BulkAct.objects.filter(pk=old.pk).update(state="done")
    tidy(time.time())
    assert [act.pk for act in BulkAct.objects.all()] == [new.pk]
    assert list(ActTarget.objects.values_list("target", flat=True)) == ["c"]


def test_fifty_thousand_are_frozen_in_seconds() -> None:
    many = [Frozen(f"{n:036d}", "PENDING", 0.0, "shop.add", "", "pile") for n in range(50_000)]
    began = time.monotonic()
    act = making.draft("revoke", List(many, "fifty thousand"), MILA)
    making.confirm(act.pk, MILA, {}, reason="x", hold=0)
    assert time.monotonic() - began < 10
    assert ActTarget.objects.filter(act=act).count() == 50_000


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
