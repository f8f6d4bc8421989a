"""What changes or ends in the pool of a worker, on each pool: what was done and seen of it, or why not."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections

from monitor.control import Refused, inspect_worker, perform
from monitor.control.workers import waiting
from monitor.models import ControlRecord, WaitingShrink, Worker
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
    every_pool,
    proved,
    refused,
    state_of,
    told,
)
from tests.conftest import wait_until

pytestmark = ON_EACH_POOL

# Why not; '' where it can be done.
RESIZE = {
    PREFORK: "",
    GEVENT: "",
    SCALED: "scales itself: set its autoscale limits instead",
    THREADS: "A threads pool keeps its size",
    SOLO: "A solo pool is always one",
}
SLOT = {PREFORK: "pool process", GEVENT: "slot"}
SLOTS = {PREFORK: "pool processes", GEVENT: "slots"}
TERMINATE = {
    PREFORK: "",
    SCALED: "",
    GEVENT: "",
    THREADS: "A threads pool cannot stop a running task",
    SOLO: "a solo worker tells of a task only when it has ended",
}


@every_pool
def test_a_pool_grows_and_shrinks_or_says_why_not(cluster: Cluster, worker: str) -> None:
    if why := RESIZE[worker]:
        for command in ("pool_grow", "pool_shrink"):
            assert why in refused(command, worker, n=1)
            assert why in refused(command, worker, to=2)
        return
    before = cluster.size(worker)
    record = proved(ask("pool_grow", worker, n=2))
    assert (record.effect, record.seen[0]["text"]) == (
        "verified",
        f"{before} → {before + 2} {SLOTS[worker]}",
    ), record.evidence
    record = proved(ask("pool_shrink", worker, to=before))
    assert record.effect == "verified", record.evidence
    assert cluster.size(worker) == before
    cluster.works(worker)


@every_pool
def test_a_pool_that_can_shrink_keeps_one_and_refuses_the_last(cluster: Cluster, worker: str) -> None:
    if RESIZE[worker]:
        assert RESIZE[worker] in refused("pool_shrink", worker, n=100)
        return
    before = cluster.size(worker)
    record = proved(ask("pool_shrink", worker, n=100))
    assert record.arguments == {"n": before - 1, "before": before, "to": 1, "asked": 100}
    assert record.effect == "verified", record.evidence
    assert f"one {SLOT[worker]} left" in refused("pool_shrink", worker, n=1)
    assert proved(ask("pool_grow", worker, to=before)).effect == "verified"


def test_shrinks_at_the_same_time_cannot_empty_a_pool(cluster: Cluster) -> None:
    def shrink(_: int) -> str:
        try:
            return str(ask("pool_shrink", PREFORK, n=2).arguments["n"])
        except Refused as refusal:
            return str(refusal)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(shrink, range(4)))
    assert answers.count("2") == 1, answers
    wait_until(lambda: not ControlRecord.objects.filter(completed_at=None).exists(), 15)
    assert cluster.size() == 1
    assert proved(ask("pool_grow", PREFORK, n=2)).effect == "verified"
    assert cluster.size() == 3


@every_pool
def test_a_shrink_waits_for_an_idle_slot_or_is_refused_at_once(cluster: Cluster, worker: str) -> None:
    told(worker)
    if RESIZE[worker]:
        with pytest.raises(Refused, match=RESIZE[worker]):
            waiting.shrink_when_free(worker, 1, 900, OPERATOR)
        assert not WaitingShrink.objects.exists()
        return
    size = cluster.size(worker)
    with cluster.busy(worker):
        waiting.shrink_when_free(worker, size - 1, 900, OPERATOR, "less memory")
        (noted,) = ControlRecord.objects.all()
        assert noted.evidence == (
            f"Nothing is sent yet: Umbel waits until 1 slot is idle on {worker}, for 15 min at the most."
        )
        assert waiting.look(perform, time.time()) == 1
        assert cluster.size(worker) == size
    wait_until(lambda: waiting.look(perform, time.time()) == 0, 10, what="the shrink")
    assert WaitingShrink.objects.get().ended == (
        f"Sent when {size} slots were idle; the audit log has what came of it."
    )
    record = proved(ControlRecord.objects.get(command="pool_shrink"))
    assert (record.effect, record.evidence) == (
        "verified",
        f"{worker} answered. {size} → {size - 1} {SLOTS[worker]}.",
    )
    assert record.reason.endswith("less memory") and cluster.size(worker) == size - 1
    assert proved(ask("pool_grow", worker, to=size)).effect == "verified"


@every_pool
def test_a_pool_is_restarted_and_works_or_it_is_said_why_not(cluster: Cluster, worker: str) -> None:
    if worker not in (PREFORK, SCALED):
        # Measured: Celery says "reload started", and the same threads and greenlets go on.
        kind = Worker.objects.get(hostname=worker).pool
        assert refused("pool_restart", worker) == (
            f"A {kind} pool has no processes of its own: Celery would say yes and restart nothing. "
            f"Restart {worker} itself."
        )
        return
    before = cluster.size(worker)
    record = ask("pool_restart", worker)

    def replaced() -> bool:
        """Measured: a process goes when it next takes a task."""
        for _ in range(2 * before):
            cluster.start("shop.nap", worker, 0.05)
        cluster.works(worker)
        record.refresh_from_db()
        return record.completed_at is not None

    wait_until(replaced, 15, what="the restart")
    after = before if worker == PREFORK else cluster.size(worker)  # an autoscaler may have grown it
    assert (record.effect, cluster.size(worker)) == ("verified", after), record.evidence
    assert record.evidence.startswith(f"{worker} answered. {before} old pool processes are gone, ")


@every_pool
def test_a_pool_that_may_not_restart_says_which_setting_is_missing(worker: str) -> None:
    Worker.objects.filter(hostname=worker).update(details={"conf": {}})
    why = "no processes of its own" if worker not in (PREFORK, SCALED) else "without worker_pool_restarts"
    assert why in refused("pool_restart", worker)
    if worker in (PREFORK, SCALED):
        Worker.objects.filter(hostname=worker).update(details={})
        assert "not known yet" in refused("pool_restart", worker)


@every_pool
def test_autoscale_limits_are_set_where_there_is_an_autoscaler(worker: str) -> None:
    assert "The least (5) cannot be over the most (2)" in refused("autoscale", worker, max=2, min=5)
    if worker != SCALED:
        assert "without --autoscale" in refused("autoscale", worker, max=4, min=2)
        return
    record = proved(ask("autoscale", worker, max=3, min=1))
    assert record.effect == "verified", record.evidence
    assert "autoscale from 1 to 3" in record.evidence
    assert proved(ask("autoscale", worker, max=2, min=1)).effect == "verified"


@every_pool
def test_a_running_task_is_terminated_or_it_is_said_why_not(cluster: Cluster, worker: str) -> None:
    if worker == SOLO:
        # Measured: it keeps its events back until the task has ended, and at work it answers nobody.
        with cluster.busy(worker) as (uuid,):
            wait_until(lambda: state_of(uuid) == "PENDING", 5)
            assert TERMINATE[worker] in refused("terminate", uuid)
        assert state_of(uuid) == "SUCCESS"
        return
    if why := TERMINATE[worker]:
        with cluster.busy(worker, 1) as (uuid,):
            assert why in refused("terminate", uuid)
        assert state_of(uuid) == "SUCCESS"
        return
    uuid = cluster.running(worker, 60)
    record = proved(ask("terminate", uuid), 20)
    assert record.effect == "verified", record.evidence
    assert record.evidence.startswith(f"{worker} answered. Gone from {worker}")
    found = inspect_worker(worker)
    assert found is not None and uuid not in [task["id"] for task in found.active or []]
    assert state_of(uuid) in ("REVOKED", "SUCCESS")
    assert "has ended already" in refused("terminate", uuid)
    cluster.works(worker)


@every_pool
def test_a_signal_that_is_none_is_refused_by_all(cluster: Cluster, worker: str) -> None:
    uuid = cluster.start("shop.add", worker, 1, 2)
    wait_until(lambda: state_of(uuid) == "SUCCESS", 15)
    assert "SIGBUS" in refused("terminate", uuid, signal="SIGBUS")
