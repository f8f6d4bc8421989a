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
    HOST,
    PREFORK,
    SOLO,
    THREADS,
    Cluster,
    proved,
    refused,
    row_of,
    state_of,
)
from tests.clusters import ask as perform_as_operator
from tests.conftest import never, wait_until

pytestmark = [
    pytest.mark.live,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("watched"),
]


def stamped(cluster: Cluster, worker: str, name: str, *args: Any, **stamps: Any) -> str:
    """A task with these stamps; ``countdown`` and others as options."""
    options = {key: stamps.pop(key) for key in ("countdown", "queue") if key in stamps}
    options.setdefault("queue", worker.partition("@")[0])
    headers = {"stamped_headers": list(stamps), **stamps}
    return str(cluster.app.send_task(name, args, **headers, **options).id)


def revoke_stamp(header: str, value: str, **more: Any) -> ControlRecord:
    return perform_as_operator(
        "revoke_by_stamped_headers", f"{header}={value}", header=header, value=value, **more
    )


@pytest.mark.parametrize("worker", [PREFORK, THREADS, GEVENT, SOLO])
def test_what_bears_the_stamp_is_received_and_discarded_also_later(cluster: Cluster, worker: str) -> None:
    value = f"t-{worker.partition('@')[0]}"
    held = stamped(cluster, worker, "shop.add", 1, 2, tenant=value, countdown=4)
    wait_until(lambda: state_of(held) == "RECEIVED", 10)
    record = revoke_stamp("tenant", value)
    assert {reply["outcome"] for reply in record.replies} == {"ok"}
    later = stamped(cluster, worker, "shop.add", 1, 2, tenant=value)
    other = stamped(cluster, worker, "shop.add", 1, 2, tenant="another")
    wait_until(lambda: state_of(later) == "REVOKED", 15)
    wait_until(lambda: state_of(other) == "SUCCESS", 15)
    # Held for its ETA, it is discarded when that has come, and not before.
    wait_until(lambda: state_of(held) == "REVOKED", 15)
    record = proved(record, 20)
    assert record.effect == "partly"
    assert "By its own word" in record.seen[0]["text"]


def test_a_number_is_sent_as_text_and_as_a_number(cluster: Cluster) -> None:
    revoke_stamp("order", "4711")
    as_number = stamped(cluster, PREFORK, "shop.add", 1, 2, order=4711)
    as_text = stamped(cluster, PREFORK, "shop.add", 1, 2, order="4711")
    for uuid in (as_number, as_text):
        wait_until(lambda uuid=uuid: state_of(uuid) == "REVOKED", 15)


@pytest.mark.parametrize("worker", [PREFORK, GEVENT])
def test_with_a_signal_running_tasks_that_bear_it_are_ended(cluster: Cluster, worker: str) -> None:
    value = f"run-{worker.partition('@')[0]}"
    hit = stamped(cluster, worker, "shop.nap", 30, tenant=value)
    spared = stamped(cluster, worker, "shop.nap", 6, tenant="spared")
    wait_until(lambda: state_of(hit) == state_of(spared) == "STARTED", 15)
    record = proved(revoke_stamp("tenant", value, signal="SIGTERM"), 20)
    mine = next(one for one in record.seen if one["target"] == worker)
    assert mine["seen"] is True, record.seen
    assert hit in mine["text"]
    threads = next(one for one in record.seen if one["target"] == THREADS)
    assert "threads pool cannot stop" in threads["text"]
    assert state_of(spared) == "STARTED"
    wait_until(lambda: state_of(spared) == "SUCCESS", 15)


def test_a_threads_worker_notes_it_and_lets_what_runs_go_on(cluster: Cluster) -> None:
    running = stamped(cluster, THREADS, "shop.nap", 3, tenant="thread")
    wait_until(lambda: state_of(running) == "STARTED", 15)
    record = revoke_stamp("tenant", "thread", signal="SIGKILL")
    assert {reply["outcome"] for reply in record.replies} == {"ok"}
    wait_until(lambda: state_of(running) == "SUCCESS", 15)


def test_a_worker_that_restarts_has_forgotten_and_is_told_again_once(cluster: Cluster) -> None:
    guest = f"guest@{HOST}"
    cluster.launch(guest, like=PREFORK)
    row_of(guest, like=PREFORK)
    try:
        cluster.answers(guest)
        keeper = StampKeeper(perform)
        first = revoke_stamp("tenant", "restart")
        assert keeper.look() == 1
        cluster.processes[guest].ask_to_stop()
        wait_until(lambda: not cluster.processes[guest].running(), 20)
        cluster.launch(guest, like=PREFORK)
        cluster.answers(guest)
        now = time.time()
        Worker.objects.filter(hostname=guest).update(
            status="online", pid=cluster.processes[guest].pid, online_at=now
        )
        # It has forgotten: what bears the stamp runs.
        ran = stamped(cluster, guest, "shop.add", 1, 2, tenant="restart")
        wait_until(lambda: state_of(ran) == "SUCCESS", 15)
        keeper.look()
        keeper.look()
        again = ControlRecord.objects.filter(username="Umbel", command="revoke_by_stamped_headers")
        assert [record.destinations for record in again] == [[guest]]
        kept = stamped(cluster, guest, "shop.add", 1, 2, tenant="restart")
        wait_until(lambda: state_of(kept) == "REVOKED", 15)
        standing = StandingStamp.objects.get(value="restart")
        assert standing.record_id == first.pk and [name for name, _ in standing.again] == [guest]
        StandingStamp.objects.update(until=time.time() - 1)
        Worker.objects.filter(hostname=guest).update(online_at=time.time() + 1)
        assert keeper.look() == 0 and again.count() == 1
    finally:
        cluster.processes.pop(guest).stop()


def test_what_is_no_stamp_is_refused_and_nothing_is_noted(cluster: Cluster) -> None:
    name = "revoke_by_stamped_headers"
    assert "is no header of a stamp" in refused(name, "=x", header="", value="x")
    assert "is no value of a stamp" in refused(name, "x=", header="x", value="  ")
    assert "not a signal" in refused(name, "x=y", header="x", value="y", signal="SIGSTOP")
    assert "from 1 to 720" in refused(name, "x=y", header="x", value="y", hours="9000")
    Worker.objects.update(status="offline")
    assert "No worker is online" in refused(name, "x=y", header="x", value="y")
    assert not StandingStamp.objects.exists()
    uuid = stamped(cluster, PREFORK, "shop.add", 1, 2, x="y")
    wait_until(lambda: state_of(uuid) == "SUCCESS", 15)
    never(lambda: state_of(uuid) == "REVOKED", 0.3)
