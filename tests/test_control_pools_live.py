"""Grow, shrink, autoscale and terminate against a real worker of each pool: what they did, or why not."""

from __future__ import annotations

import pytest

from monitor.control import inspect_worker
from monitor.control.inspecting import stats_of
from monitor.models import Task, Worker
from tests.clusters import (
    GEVENT,
    POOLS,
    PREFORK,
    SCALED,
    SOLO,
    THREADS,
    Cluster,
    ask,
    proved,
    refused,
    state_of,
)
from tests.conftest import wait_until

pytestmark = [
    pytest.mark.live,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("watched"),
]

every_pool = pytest.mark.parametrize("worker", POOLS, ids=lambda name: name.partition("@")[0])

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
    uuid = cluster.start("shop.add", worker, 1, 2)
    wait_until(lambda: state_of(uuid) == "SUCCESS", 10, what="a task after the resize")


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
        Worker.objects.filter(hostname=worker).update(queues=["wire-s"])
        uuid = cluster.start("shop.nap", worker, 4)
        wait_until(lambda: stats_of(worker, 0.3) is None, 10, what="the task's start")
        wait_until(lambda: Task.objects.filter(uuid=uuid).update(queue="wire-s"), 5)
        assert state_of(uuid) == "PENDING"
    else:
        uuid = cluster.running(worker, 3 if TERMINATE[worker] else 60)
    if why := TERMINATE[worker]:
        assert why in refused("terminate", uuid)
        wait_until(lambda: state_of(uuid) == "SUCCESS", 15, what="its own end")
        return
    record = proved(ask("terminate", uuid), 20)
    assert record.effect == "verified", record.evidence
    assert record.evidence.startswith(f"{worker} answered. Gone from {worker}")
    found = inspect_worker(worker)
    assert found is not None and uuid not in [task["id"] for task in found.active or []]
    assert state_of(uuid) in ("REVOKED", "SUCCESS")
    assert "has ended already" in refused("terminate", uuid)
    after = cluster.start("shop.add", worker, 1, 2)
    wait_until(lambda: state_of(after) == "SUCCESS", 15, what="a task after the terminate")


@every_pool
def test_a_signal_that_is_none_is_refused_by_all(cluster: Cluster, worker: str) -> None:
    uuid = cluster.start("shop.add", worker, 1, 2)
    wait_until(lambda: state_of(uuid) == "SUCCESS", 15)
    assert "SIGBUS" in refused("terminate", uuid, signal="SIGBUS")
