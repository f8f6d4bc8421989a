"""Acts on many while they are sent: batches, what changed since, stops, and an end in the midst of it."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from monitor.acts import making
from monitor.acts.batches import GRACE
from monitor.control import Actor
from monitor.models import ControlRecord, Task, Worker
from tests.acts import Bench, Crash, made, online, outcomes, tasks, why

pytestmark = pytest.mark.django_db


@pytest.fixture
def bench() -> Bench:
    online()
    return Bench()


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
