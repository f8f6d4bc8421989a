"""A worker of each pool that was started without -E: its events, then its drain, then its shutdown."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from monitor import broker as broker_module
from monitor.broker import Broker
from monitor.control import Actor, Refused
from monitor.control.inspecting import queues_of
from monitor.control.workers import draining
from monitor.models import ControlRecord, Drain, Worker
from tests.clusters import (
    HOST,
    ON_EACH_POOL,
    OPERATOR,
    POOLS,
    PREFORK,
    SOLO,
    Cluster,
    ask,
    every_pool,
    proved,
    queue_of,
    refused,
    row_of,
    state_of,
)
from tests.conftest import never, wait_until

pytestmark = ON_EACH_POOL


@pytest.fixture(scope="module")
def started(cluster: Cluster) -> Iterator[dict[str, str]]:
    """By worker of the cluster, one more with the same pool; all at once."""
    broker_module.configure(Broker(cluster.url, result_backend=cluster.url))
    guests = {worker: f"leaving-{queue_of(worker)}@{HOST}" for worker in POOLS}
    with ExitStack() as stack:
        for worker, guest in guests.items():
            cluster.launch(guest, worker, events=False)
            stack.callback(cluster.processes[guest].stop)
        for guest in guests.values():
            cluster.answers(guest)
        yield guests
        for guest in guests.values():
            cluster.processes.pop(guest).ask_to_stop()


@pytest.fixture
def guest(watched: Cluster, started: dict[str, str], worker: str) -> str:
    row_of(started[worker], worker)
    return started[worker]


@every_pool
def test_events_are_turned_on_and_off_and_what_comes_proves_it(
    cluster: Cluster, guest: str, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runs_unseen() -> None:
        uuid = cluster.marking(guest)
        wait_until(lambda: cluster.ran(uuid), 10, what="a task that nobody tells of")
        never(lambda: state_of(uuid) not in ("", "PENDING"), 0.3)

    runs_unseen()
    record = ask("enable_events", guest)
    assert record.replies == [{"worker": guest, "outcome": "ok", "text": "task events enabled"}]
    cluster.works(guest)
    record = proved(record)
    assert (record.effect, record.evidence) == ("verified", f"{guest} answered. It sends task events.")
    monkeypatch.setattr("monitor.control.performing.VERIFY_WITHIN", 0.3)
    record = ask("disable_events", guest)
    assert record.replies == [{"worker": guest, "outcome": "ok", "text": "task events disabled"}]
    record = proved(record)
    assert (record.effect, record.evidence) == (
        "partly",
        f"{guest} answered. No task event has come since: it may have had nothing to do.",
    )
    runs_unseen()
    # As the engine finds when its heartbeats count tasks that no event told of.
    Worker.objects.filter(hostname=guest).update(events_on=False)
    record = proved(ask("disable_events", guest))
    assert (record.effect, record.evidence) == (
        "verified",
        f"{guest} answered. It works and sends no task event.",
    )
    for name in ("enable_events", "disable_events"):
        assert "needs the operator role" in refused(name, guest, actor=Actor(None, "vera", "viewer"))


@every_pool
def test_a_drain_stops_what_comes_keeps_what_runs_and_is_undone(
    cluster: Cluster, guest: str, worker: str
) -> None:
    cluster.app.control.enable_events(destination=[guest], reply=True)
    own = queue_of(guest)
    with cluster.busy(guest, 1, tells=worker != SOLO) as (running,):
        if worker == SOLO:
            with pytest.raises(Refused, match="did not answer within 2 s; nothing was sent"):
                draining.drain(guest, OPERATOR)
            assert not Drain.objects.exists() and not ControlRecord.objects.filter(effect="pending").exists()
        else:
            found = draining.drain(guest, OPERATOR, "new host")
            assert (found.queues, found.refused) == ([own], {})
            wait_until(lambda: queues_of(guest) == set(), 5)
            later = cluster.marking(guest)
            never(lambda: cluster.ran(later), 0.5)
            assert state_of(running) == "STARTED"
    if worker == SOLO:
        found = draining.drain(guest, OPERATOR, "new host")
        later = cluster.marking(guest)
        wait_until(lambda: queues_of(guest) == set(), 5)
        never(lambda: cluster.ran(later), 0.5)
    cancelled = ControlRecord.objects.get(command="cancel_consumer")
    assert (proved(cancelled).effect, proved(cancelled).seen[0]["text"]) == (
        "verified",
        "It consumes no queue.",
    )
    assert state_of(running) == "SUCCESS"
    assert draining.undo(found, OPERATOR)
    cluster.ended(later, "SUCCESS")
    assert queues_of(guest) == {own}
    found.refresh_from_db()
    assert found.ended == "ada undid it: it consumes its queues again."
    with pytest.raises(Refused, match="needs the operator role"):
        draining.drain(guest, Actor(None, "vera", "viewer"))


@every_pool
def test_a_drained_worker_is_shut_down_and_takes_no_command_any_more(
    cluster: Cluster, guest: str, worker: str
) -> None:
    found = draining.drain(guest, OPERATOR)
    proved(ControlRecord.objects.get(command="cancel_consumer"))
    record = proved(ask("shutdown", guest), 30)
    assert (record.effect, record.evidence) == (
        "verified",
        f"Sent to {guest}; a shutdown is never answered. "
        "It said that it is offline, answers no more, and no task runs there.",
    )
    cluster.gone(guest)
    assert draining.settle(time.time()) == 0
    found.refresh_from_db()
    assert found.ended == "It was shut down, and is offline."
    for name in ("shutdown", "ping", "enable_events"):
        assert f"{guest} is offline" in refused(name, guest)
    with pytest.raises(Refused, match="is offline"):
        draining.drain(guest, OPERATOR)


def test_a_shutdown_waits_for_what_runs_and_says_so(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.control.performing.VERIFY_WITHIN", 1.0)
    with cluster.guest(PREFORK) as guest:
        with cluster.busy(guest, 1, tells=False):
            record = proved(ask("shutdown", guest), 30)
            assert record.effect == "partly", record.evidence
            assert "It is stopping: 1 task was still running there" in record.evidence
            assert cluster.processes[guest].running()
        cluster.gone(guest)


def test_a_solo_worker_at_work_hears_of_its_shutdown_when_it_is_done(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.control.performing.VERIFY_WITHIN", 0.5)
    with cluster.guest(SOLO) as guest:
        with cluster.busy(guest, 1, tells=False):
            record = proved(ask("shutdown", guest), 30)
            assert (record.effect, record.evidence) == (
                "partly",
                f"Sent to {guest}; a shutdown is never answered. "
                "It answers no more, and has not said that it is offline.",
            )
            assert cluster.processes[guest].running()
        cluster.gone(guest)
