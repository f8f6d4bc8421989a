"""Acts on many: frozen, confirmed, held; and bounded."""

from __future__ import annotations

import time

import pytest

from dashboard import access
from dashboard.queries.acts import Shown
from monitor.acts import making
from monitor.acts.batches import RESUME_WITHIN, tidy
from monitor.acts.making import Frozen, List
from monitor.acts.models import ActTarget, BulkAct
from monitor.control import Actor, Refused
from monitor.models import ControlRecord
from tests.acts import MILA, Bench, made, online, outcomes, tasks

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
