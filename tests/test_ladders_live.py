"""Ending a task step by step, and what Celery does with a second signal: on real pool processes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from monitor.control import Actor, Command, Refused, perform, plan
from monitor.control.inspecting import seen_on, stats_of
from monitor.control.revokes import ladders
from monitor.control.revokes.here import began, lives, why_not_here
from monitor.control.revokes.ladders import Climber, Rung
from monitor.models import ControlRecord, Ladder, Task, Worker
from tests import clusters
from tests.clusters import (
    GEVENT,
    ON_EACH_POOL,
    OPERATOR,
    PREFORK,
    SCALED,
    SOLO,
    THREADS,
    Cluster,
    ask,
    proved,
    queue_of,
    refused,
    state_of,
)
from tests.conftest import wait_until

pytestmark = ON_EACH_POOL


@pytest.fixture(autouse=True)
def told(cluster: Cluster, watched: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # A step that ended nothing is looked after for so long; the next one does not wait for that.
    monkeypatch.setattr("monitor.control.performing.VERIFY_WITHIN", 3.0)
    clusters.told(PREFORK, SCALED, THREADS, GEVENT)
    yield
    wait_until(lambda: cluster.size() == 3, 20)


def process_of(uuid: str, worker: str = PREFORK) -> int:
    pid = seen_on([worker])[worker].pids[uuid]
    assert isinstance(pid, int)
    return pid


def commands() -> list[ControlRecord]:
    """What was sent, without what was noted."""
    return list(ControlRecord.objects.filter(sent_at__isnull=False).order_by("at"))


def climb(ladder: Ladder, timeout: float = 25.0, climber: Climber | None = None) -> Ladder:
    climber = climber or Climber(perform)

    def over() -> bool:
        climber.look()
        return Ladder.objects.get(pk=ladder.pk).ended_at is not None

    wait_until(over, timeout, every=0.2, what=f"its end {Ladder.objects.get(pk=ladder.pk).log}")
    return Ladder.objects.get(pk=ladder.pk)


# What Celery does


def test_a_worker_forgets_a_task_with_the_first_signal(cluster: Cluster) -> None:
    uuid = cluster.running(PREFORK, 60, name="shop.goes_on")
    pid = process_of(uuid)
    start = began(pid)
    assert start is not None
    first = cluster.app.control.revoke(
        uuid, terminate=True, signal="SIGUSR1", destination=[PREFORK], reply=True
    )
    assert first == [{PREFORK: {"ok": f"terminate: {uuid}"}}]
    wait_until(lambda: state_of(uuid) == "REVOKED", 10)
    for again in ("SIGTERM", "SIGKILL"):
        said = cluster.app.control.revoke(
            uuid, terminate=True, signal=again, destination=[PREFORK], reply=True
        )
        assert said == [{PREFORK: {"ok": "terminate: tasks unknown"}}]
    assert cluster.app.control.inspect([PREFORK]).query_task(uuid) == {PREFORK: {}}
    # Restarting the pool does not reach it either: a busy process looks when its task has ended.
    before = seen_on([PREFORK])[PREFORK].processes
    cluster.app.control.broadcast("pool_restart", {"reload": False}, destination=[PREFORK], reply=True)
    wait_until(lambda: len((stats_of(PREFORK) or {})["pool"]["processes"]) >= 3, 20)
    assert lives(pid, start)
    wait_until(lambda: uuid not in seen_on([PREFORK])[PREFORK].tasks, 5)
    record = Command("signal_process", (uuid,), {"signal": "SIGKILL", "pid": pid, "began": start})
    assert proved(perform(record, OPERATOR)).effect == "verified"
    assert not lives(pid, start)
    cluster.renewed(PREFORK, before)


# The ladder


@pytest.mark.parametrize("worker", [PREFORK, SCALED], ids=queue_of)
def test_it_stops_at_the_step_that_ends_the_task(cluster: Cluster, worker: str) -> None:
    uuid = cluster.running(worker, 60, name="shop.goes_on")
    pid = process_of(uuid, worker)
    ladder = ladders.start(uuid, 2, OPERATOR, "stuck since noon")
    assert ladders.start(uuid, 2, OPERATOR, "a second click").pk == ladder.pk
    assert ladder.rungs == [
        {"do": "SIGUSR1", "by": "celery"},
        {"do": "SIGTERM", "by": "here"},
        {"do": "SIGKILL", "by": "here"},
    ]
    done = climb(ladder)
    assert (done.gone, done.step) == (True, 2), (done.log, done.outcome)
    assert done.outcome == f"Its process {pid} is gone."
    asked = ControlRecord.objects.get(sent_at=None)
    assert (asked.command, asked.arguments, asked.reason) == (
        "terminate",
        {"signal": "STEPS"},
        "stuck since noon",
    )
    assert "2 s between two, until it is gone: SIGUSR1, then SIGTERM to its process" in asked.evidence
    records = commands()
    assert [(one.command, one.username) for one in records] == [
        ("terminate", "ada"),
        ("signal_process", "ada"),
    ]
    assert records[1].reason == "Step 2 of 3. stuck since noon"
    assert proved(records[1]).effect == "verified"
    wait_until(lambda: pid not in (seen_on([worker])[worker].processes or {pid}), 10)


def test_a_task_that_ends_by_the_first_step_is_hit_no_more(cluster: Cluster) -> None:
    uuid = cluster.running(PREFORK, 60)
    pid = process_of(uuid)
    start = began(pid)
    assert start is not None
    done = climb(ladders.start(uuid, 3, OPERATOR, ""))
    assert (done.gone, done.step, len(done.log)) == (True, 1, 1), done.log
    # The process went on with its life.
    assert lives(pid, start)
    assert len(commands()) == 1


def test_one_that_swallows_all_but_sigkill_is_killed(cluster: Cluster) -> None:
    uuid = cluster.running(PREFORK, 60, name="shop.stubborn")
    done = climb(ladders.start(uuid, 2, OPERATOR, ""), 30)
    assert (done.gone, done.step) == (True, 3), done.log


def test_a_restart_of_umbel_goes_on_where_it_was_and_repeats_nothing(cluster: Cluster) -> None:
    uuid = cluster.running(PREFORK, 60, name="shop.stubborn")
    ladder = ladders.start(uuid, 3, OPERATOR, "")
    Climber(perform).look()
    assert Ladder.objects.get(pk=ladder.pk).step == 1
    done = climb(ladder, 30, Climber(perform))
    assert (done.gone, done.step) == (True, 3)
    sent = [one.arguments.get("signal") for one in commands()]
    assert sent == ["SIGUSR1", "SIGTERM", "SIGKILL"]


def test_withdrawn_it_does_no_further_step(cluster: Cluster) -> None:
    uuid = cluster.running(PREFORK, 8, name="shop.stubborn")
    ladder = ladders.start(uuid, 2, OPERATOR, "")
    climber = Climber(perform)
    climber.look()
    assert ladders.withdraw(ladder.pk, Actor(None, "bob", "operator")).outcome == "Withdrawn by bob."
    with pytest.raises(Refused, match="had ended before"):
        ladders.withdraw(ladder.pk, OPERATOR)
    # However late it is, no step is due.
    assert Climber(perform, lambda: time.time() + 600).look() == 0
    assert len(commands()) == 1
    wait_until(lambda: state_of(uuid) == "SUCCESS", 20)


def test_abort_is_the_first_step_where_the_task_asks(cluster: Cluster) -> None:
    uuid = cluster.running(PREFORK, 60, name="shop.patient")
    ladder = ladders.start(uuid, 3, OPERATOR, "")
    assert ladder.rungs[0] == {"do": "abort", "by": "backend"}
    done = climb(ladder)
    assert (done.gone, done.step, done.outcome) == (True, 1, "It ended: SUCCESS."), done.log


def test_where_no_second_step_exists_it_is_said_and_refused(cluster: Cluster) -> None:
    for worker, why in ((THREADS, "threads pool cannot stop"), (GEVENT, "its greenlet is killed")):
        with cluster.busy(worker, 1) as (uuid,):
            task, row = Task.objects.get(uuid=uuid), Worker.objects.get(hostname=worker)
            assert not plan(task, row).offered and why in plan(task, row).why
            with pytest.raises(Refused, match=f"There is no second step: .*{why}.* Nothing was sent."):
                ladders.start(uuid, 5, OPERATOR, "")
    with cluster.busy(SOLO, 1) as (uuid,):
        wait_until(lambda: state_of(uuid) == "PENDING", 5)
        with pytest.raises(Refused, match=f"it is PENDING. Nothing was sent. Or it runs on {SOLO}"):
            ladders.start(uuid, 5, OPERATOR, "")
    uuid = cluster.running(PREFORK, 1)
    task, row = Task.objects.get(uuid=uuid), Worker.objects.get(hostname=PREFORK)
    row.hostname = "wire-p@elsewhere"
    found = plan(task, row)
    assert found.rungs == (Rung("SIGTERM"),) and "takes no second one" in found.why
    assert "are not seen from where Umbel runs" in found.why
    with pytest.raises(Refused, match="needs the operator role"):
        ladders.start(uuid, 5, Actor(None, "vera", "viewer"), "")
    with pytest.raises(Refused, match="out of bounds"):
        ladders.start(uuid, 0, OPERATOR, "")
    assert not Ladder.objects.exists() and not commands()


def test_only_the_process_that_was_meant_is_signalled(cluster: Cluster) -> None:
    uuid = cluster.running(PREFORK, 10)
    other = cluster.running(PREFORK, 10)
    pid = process_of(other)
    start = began(pid) or 0
    said = refused("signal_process", uuid, signal="SIGKILL", pid=pid, began=start)
    assert f"runs another task by now: {other}" in said
    said = refused("signal_process", uuid, signal="SIGKILL", pid=process_of(uuid), began=1)
    assert "is gone already" in said
    said = refused("signal_process", uuid, signal="SIGKILL", pid=1, began=1)
    assert "must be from 2" in said
    assert "is not one of" in refused("signal_process", uuid, signal="SIGSTOP", pid=pid, began=start)
    assert lives(pid, start)
    assert why_not_here("w@elsewhere", stats_of(PREFORK))
    stats = stats_of(PREFORK) or {}
    assert why_not_here(PREFORK, {**stats, "pid": 1})
    assert why_not_here(PREFORK, stats) == ""
    assert why_not_here(SOLO, {"pid": 5})
    proved(ask("terminate", uuid, other, signal="SIGTERM"))
