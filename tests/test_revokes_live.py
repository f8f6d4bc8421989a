"""Revoke on a worker of each pool, of what waits, runs or has ended: what the receipt says, and the truth."""

from __future__ import annotations

import uuid as uuidlib

import pytest

from monitor.control import inspect_worker
from monitor.models import Worker
from tests.clusters import (
    GEVENT,
    ON_EACH_POOL,
    POOLS,
    PREFORK,
    SCALED,
    SOLO,
    THREADS,
    Cluster,
    ask,
    every_pool,
    proved,
    queue_of,
    refused,
    state_of,
)
from tests.conftest import never, wait_until

pytestmark = ON_EACH_POOL

SKIPPED = (
    "All 5 workers will skip it; it takes effect when a worker reaches it. "
    "A worker without --statedb forgets it at a restart."
)
# What can be done where a revoke comes too late.
INSTEAD = {
    PREFORK: "Terminate it.",
    SCALED: "Terminate it.",
    GEVENT: "Terminate it.",
    THREADS: "Nor can it be terminated. A threads pool cannot stop a running task: "
    "Python threads cannot be ended from outside.",
}


def test_what_is_held_for_its_eta_or_queued_is_revoked_on_every_pool_and_never_runs(cluster: Cluster) -> None:
    held = {worker: cluster.marking(worker, countdown=5) for worker in POOLS}
    queued = {worker: cluster.marking(worker, queue=f"{queue_of(worker)}.later") for worker in POOLS}
    for worker, uuid in held.items():
        cluster.held(worker, uuid, "scheduled")
    uuids = [*held.values(), *queued.values()]
    wait_until(lambda: all(state_of(uuid) for uuid in uuids), 10, what="rows of what is queued")
    record = ask("revoke", *uuids)
    assert sorted(record.destinations) == sorted(POOLS)
    assert [reply["outcome"] for reply in record.replies] == ["ok"] * 5
    record = proved(record)
    assert record.effect == "verified", record.evidence
    assert record.evidence == "All 5 workers answered. Umbel saw the effect on all 10 tasks."
    assert {(one["seen"], one["text"]) for one in record.seen} == {(True, SKIPPED)}
    for worker in POOLS:
        found = inspect_worker(worker)
        assert found is not None and set(uuids) <= set(found.revoked or ())
        proved(ask("add_consumer", worker, queue=f"{queue_of(worker)}.later"))
    for uuid in uuids:
        cluster.ended(uuid, "REVOKED")
    assert [cluster.ran(uuid) for uuid in uuids] == [0] * 10
    for worker in POOLS:
        proved(ask("cancel_consumer", worker, queue=f"{queue_of(worker)}.later"))


@every_pool
def test_what_a_busy_worker_has_reserved_is_skipped_or_the_receipt_says_that_it_runs(
    cluster: Cluster, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cluster.busy(worker):
        uuid = cluster.marking(worker)
        if worker == SOLO:
            # At work it takes nothing and hears nothing.
            wait_until(lambda: state_of(uuid) == "PENDING", 10)
            record = ask("revoke", uuid)
            assert {one["worker"] for one in record.replies if one["outcome"] == "silent"} == {SOLO}
        else:
            cluster.held(worker, uuid, "reserved")
            if worker == SCALED:
                monkeypatch.setattr("monitor.control.performing.VERIFY_WITHIN", 0.3)
            record = proved(ask("revoke", uuid))
    if worker == SOLO:
        # Which it hears of first, the next message or the revoke, is chance.
        record = proved(record)
        ended = {
            0: ("verified", "A worker reached it and skipped it: REVOKED."),
            1: ("none", "It ended with SUCCESS."),
        }[cluster.ran(uuid)]
        assert (record.effect, record.evidence) == (
            ended[0],
            f"4 of 5 workers answered; {SOLO} did not. {ended[1]}",
        )
        return
    elif worker in (THREADS, GEVENT):
        # Measured: such a worker looks whether a task is revoked when it hands it to its pool, and not again.
        kind = POOLS[worker]
        advice = {
            THREADS: f"Shut {worker} down before that, and it goes back to its queue, to be discarded there.",
            GEVENT: "Terminate it once it runs.",
        }
        assert (record.effect, record.evidence) == (
            "none",
            f"All 5 workers answered. {worker} had given it to its pool already: it runs as soon as a slot "
            f"is free, revoked or not; a {kind} pool is not asked again. {advice[worker]}",
        )
    elif worker == SCALED:
        # Measured: an autoscaler that grows the pool while tasks wait lets one more of them through.
        assert (record.effect, record.evidence) == (
            "partly",
            f"All 5 workers answered. {worker} has noted it, and reserved it before. Its pool has grown "
            "since its start: it may have given it to that already, and then it runs all the same. "
            "Terminate it to be sure.",
        )
    else:
        assert (record.effect, record.evidence) == ("verified", f"All 5 workers answered. {SKIPPED}")
    end = cluster.over(uuid)
    assert worker == SCALED or end == ("SUCCESS" if worker in (THREADS, GEVENT) else "REVOKED")
    assert cluster.ran(uuid) == (end == "SUCCESS")


@pytest.mark.parametrize("worker", [PREFORK, SCALED])
def test_what_is_reserved_and_terminated_does_not_run(
    cluster: Cluster, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.control.performing.VERIFY_WITHIN", 0.3)
    with cluster.busy(worker):
        uuid = cluster.marking(worker)
        cluster.held(worker, uuid, "reserved")
        record = proved(ask("terminate", uuid))
    assert (record.effect, record.evidence) == (
        "partly",
        f"{worker} answered. Still reserved on {worker}, which has noted it and ends it when its turn comes.",
    )
    cluster.ended(uuid, "REVOKED")
    assert cluster.ran(uuid) == 0


def test_a_gevent_worker_is_not_told_to_terminate_what_has_not_begun(cluster: Cluster) -> None:
    with cluster.busy(GEVENT):
        uuid = cluster.marking(GEVENT)
        cluster.held(GEVENT, uuid, "reserved")
        assert refused("terminate", uuid) == (
            f"{uuid} has not begun on {GEVENT}: terminated before that, a gevent worker would list it as "
            "active for ever. Terminate it once it runs."
        )
    cluster.ended(uuid, "SUCCESS")


def test_a_threads_worker_that_is_shut_down_gives_back_what_it_had_reserved(cluster: Cluster) -> None:
    with cluster.guest(THREADS) as guest:
        with cluster.busy(guest, 2):
            uuid = cluster.marking(guest)
            cluster.held(guest, uuid, "reserved")
            assert "cannot stop a running task" in refused("terminate", uuid)
            assert proved(ask("revoke", uuid)).effect == "none"
            cluster.app.control.shutdown(destination=[guest])
            wait_until(lambda: Worker.objects.get(hostname=guest).status == "offline", 10)
            never(lambda: cluster.ran(uuid), 1)  # its threads are closed after it has said goodbye
        cluster.gone(guest)
    assert (cluster.client.llen("guest"), cluster.ran(uuid)) == (1, 0)
    cluster.client.delete("guest")


@every_pool
def test_what_runs_goes_on_after_a_revoke_and_it_is_said(cluster: Cluster, worker: str) -> None:
    with cluster.busy(worker, 1) as (uuid,):
        if worker == SOLO:
            # Its start is told when it has ended: to Umbel it waits.
            wait_until(lambda: state_of(uuid) == "PENDING", 5)
            record = ask("revoke", uuid)
            assert {one["worker"] for one in record.replies if one["outcome"] == "silent"} == {SOLO}
        else:
            said = refused("revoke", uuid)
            assert said == (
                f"shop.gated {uuid} runs on {worker}: a revoke does not stop it. {INSTEAD[worker]}"
            )
    assert state_of(uuid) == "SUCCESS"
    if worker == SOLO:
        record = proved(record)
        assert (record.effect, record.evidence) == (
            "none",
            f"4 of 5 workers answered; {SOLO} did not. It ended with SUCCESS.",
        )


@every_pool
def test_what_has_ended_is_not_revoked(cluster: Cluster, worker: str) -> None:
    uuid = cluster.marking(worker)
    cluster.ended(uuid, "SUCCESS")
    assert refused("revoke", uuid) == f"shop.mark {uuid} has ended already: SUCCESS."
    assert refused("terminate", uuid) == f"shop.mark {uuid} has ended already: SUCCESS."
    assert cluster.ran(uuid) == 1


def test_what_nobody_knows_is_refused_and_leaves_no_result_behind(cluster: Cluster) -> None:
    unknown = str(uuidlib.uuid4())
    assert unknown in refused("revoke", unknown)
    assert unknown in refused("terminate", unknown)
    assert cluster.app.backend.client.get(f"celery-task-meta-{unknown}") is None
