"""Revoke by a stamp on real workers of every pool: what they say, what they discard, what they forget."""

from __future__ import annotations

import time
from typing import Any

import pytest

from monitor.control import perform
from monitor.control.revokes.stamps import StampKeeper
from monitor.models import ControlRecord, StandingStamp, Worker
from tests.clusters import (
    GEVENT,
    ON_EACH_POOL,
    POOLS,
    PREFORK,
    SCALED,
    SOLO,
    THREADS,
    Cluster,
    proved,
    queue_of,
    refused,
    state_of,
)
from tests.clusters import ask as perform_as_operator

pytestmark = ON_EACH_POOL


def stamped(cluster: Cluster, worker: str, name: str, *args: Any, **stamps: Any) -> str:
    """A task with these stamps; ``countdown`` and others as options."""
    options = {key: stamps.pop(key) for key in ("countdown", "queue") if key in stamps}
    options.setdefault("queue", queue_of(worker))
    headers = {"stamped_headers": list(stamps), **stamps}
    return str(cluster.app.send_task(name, args, **headers, **options).id)


def revoke_stamp(header: str, value: str, **more: Any) -> ControlRecord:
    return perform_as_operator(
        "revoke_by_stamped_headers", f"{header}={value}", header=header, value=value, **more
    )


NOTED = "By its own word it discards such tasks until it restarts; workers do not list stamps."


def test_what_bears_the_stamp_is_discarded_on_every_pool_also_later(cluster: Cluster) -> None:
    held = {
        worker: stamped(cluster, worker, "shop.add", 1, 2, tenant="acme", countdown=3) for worker in POOLS
    }
    for worker, uuid in held.items():
        cluster.held(worker, uuid, "scheduled")
    record = revoke_stamp("tenant", "acme")
    assert {reply["outcome"] for reply in record.replies} == {"ok"}
    later = [stamped(cluster, worker, "shop.add", 1, 2, tenant="acme") for worker in POOLS]
    others = [stamped(cluster, worker, "shop.add", 1, 2, tenant="another") for worker in POOLS]
    for uuid in others:
        cluster.ended(uuid, "SUCCESS")
    # Held for its ETA, it is discarded when that has come, and not before.
    for uuid in (*later, *held.values()):
        cluster.ended(uuid, "REVOKED")
    record = proved(record)
    assert record.effect == "partly"
    assert {(one["target"], one["text"]) for one in record.seen} == {(worker, NOTED) for worker in POOLS}


@pytest.mark.parametrize("worker", [PREFORK, SCALED, THREADS, GEVENT], ids=queue_of)
def test_what_was_reserved_before_is_discarded_or_the_receipt_says_that_it_runs(
    cluster: Cluster, worker: str
) -> None:
    value = f"reserved-{worker}"
    with cluster.busy(worker):
        uuid = stamped(cluster, worker, "shop.add", 1, 2, tenant=value)
        cluster.held(worker, uuid, "reserved")
        record = proved(revoke_stamp("tenant", value))
    runs = "The task that it had reserved runs all the same, if stamped so: a {} pool has such tasks already."
    said = {
        PREFORK: NOTED,
        SCALED: f"{NOTED} Of the 1 that it had reserved some may run: its pool grew, and may have them "
        "already.",
        THREADS: f"{NOTED} {runs.format('threads')}",
        GEVENT: f"{NOTED} {runs.format('gevent')}",
    }
    assert next(one["text"] for one in record.seen if one["target"] == worker) == said[worker]
    end = cluster.over(uuid)
    # Whether the pool grew while the task waited is the autoscaler's affair.
    assert worker == SCALED or end == ("REVOKED" if worker == PREFORK else "SUCCESS")


def test_a_solo_worker_at_work_did_not_say_that_it_noted_the_stamp(cluster: Cluster) -> None:
    with cluster.busy(SOLO):
        record = proved(revoke_stamp("tenant", "solo"))
    assert record.evidence.startswith(f"4 of 5 workers answered; {SOLO} did not."), record.evidence
    text = next(one["text"] for one in record.seen if one["target"] == SOLO)
    assert text == "It did not say that it noted the stamp: it would run such tasks."


def test_a_number_is_sent_as_text_and_as_a_number(cluster: Cluster) -> None:
    revoke_stamp("order", "4711")
    as_number = stamped(cluster, PREFORK, "shop.add", 1, 2, order=4711)
    as_text = stamped(cluster, PREFORK, "shop.add", 1, 2, order="4711")
    for uuid in (as_number, as_text):
        cluster.ended(uuid, "REVOKED")


@pytest.mark.parametrize("worker", [PREFORK, SCALED, GEVENT], ids=queue_of)
def test_with_a_signal_running_tasks_that_bear_it_are_ended(cluster: Cluster, worker: str) -> None:
    value = f"run-{queue_of(worker)}"
    hit = stamped(cluster, worker, "shop.nap", 30, tenant=value)
    gate = f"gate-{value}"
    spared = stamped(cluster, worker, "shop.gated", cluster.url, gate, tenant="spared")
    cluster.began(hit, spared)
    record = proved(revoke_stamp("tenant", value, signal="SIGTERM"), 20)
    mine = next(one for one in record.seen if one["target"] == worker)
    assert mine["seen"] is True, record.seen
    assert hit in mine["text"]
    threads = next(one for one in record.seen if one["target"] == THREADS)
    assert "threads pool cannot stop" in threads["text"]
    assert state_of(spared) == "STARTED"
    cluster.client.set(gate, "open", ex=60)
    cluster.ended(spared, "SUCCESS")


def test_a_threads_worker_notes_it_and_lets_what_runs_go_on(cluster: Cluster) -> None:
    gate = "gate-thread"
    running = stamped(cluster, THREADS, "shop.gated", cluster.url, gate, tenant="thread")
    cluster.began(running)
    record = proved(revoke_stamp("tenant", "thread", signal="SIGKILL"))
    assert {reply["outcome"] for reply in record.replies} == {"ok"}
    said = {one["target"]: one["text"] for one in record.seen}
    assert said[THREADS] == (
        f"{NOTED} What runs there goes on: A threads pool cannot stop a running task: "
        "Python threads cannot be ended from outside."
    )
    assert state_of(running) == "STARTED"
    cluster.client.set(gate, "open", ex=60)
    cluster.ended(running, "SUCCESS")


def test_a_worker_that_restarts_has_forgotten_and_is_told_again_once(cluster: Cluster) -> None:
    with cluster.guest(PREFORK) as guest:
        keeper = StampKeeper(perform)
        first = revoke_stamp("tenant", "restart")
        assert keeper.look() == 1
        cluster.restart(guest, PREFORK)
        # It has forgotten: what bears the stamp runs.
        cluster.ended(stamped(cluster, guest, "shop.add", 1, 2, tenant="restart"), "SUCCESS")
        keeper.look()
        keeper.look()
        again = ControlRecord.objects.filter(username="Umbel", command="revoke_by_stamped_headers")
        assert [record.destinations for record in again] == [[guest]]
        cluster.ended(stamped(cluster, guest, "shop.add", 1, 2, tenant="restart"), "REVOKED")
        standing = StandingStamp.objects.get(value="restart")
        assert standing.record_id == first.pk and [name for name, _ in standing.again] == [guest]
        StandingStamp.objects.update(until=time.time() - 1)
        Worker.objects.filter(hostname=guest).update(online_at=time.time() + 1)
        assert keeper.look() == 0 and again.count() == 1


def test_what_is_no_stamp_is_refused_and_nothing_is_noted(cluster: Cluster) -> None:
    name = "revoke_by_stamped_headers"
    assert "is no header of a stamp" in refused(name, "=x", header="", value="x")
    assert "is no value of a stamp" in refused(name, "x=", header="x", value="  ")
    assert "not a signal" in refused(name, "x=y", header="x", value="y", signal="SIGSTOP")
    assert "from 1 to 720" in refused(name, "x=y", header="x", value="y", hours="9000")
    Worker.objects.update(status="offline")
    assert "No worker is online" in refused(name, "x=y", header="x", value="y")
    assert not StandingStamp.objects.exists()
    for worker in POOLS:
        cluster.ended(stamped(cluster, worker, "shop.add", 1, 2, x="y"), "SUCCESS")
