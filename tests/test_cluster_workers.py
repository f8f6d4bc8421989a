"""Workers: alive means heard; goodbye, silence, restarts, and what an inspection tells."""

from __future__ import annotations

from typing import Any

import pytest

from monitor.cluster import Cluster
from monitor.records import Gap, Inspection
from tests.fleets import NOW, Fleet, W


def test_a_worker_that_says_goodbye_is_offline_at_once_and_a_late_event_does_not_revive_it() -> None:
    fleet = Fleet()
    fleet.beat(kind="online")
    fleet.beat(kind="offline")
    assert (fleet.worker().status, fleet.worker().reason) == ("offline", "said goodbye")
    fleet.start()
    assert fleet.worker().status == "offline"
    fleet.beat(pid=2, kind="online")
    assert (fleet.worker().status, fleet.worker().pid) == ("online", 2)


def test_a_reconnected_worker_of_the_same_pid_is_back() -> None:
    fleet = Fleet()
    fleet.beat()
    fleet.beat(kind="offline")
    fleet.beat(kind="online")
    assert fleet.worker().status == "online"


def test_the_goodbye_of_an_old_process_does_not_stop_its_successor() -> None:
    fleet = Fleet()
    fleet.beat(pid=1)
    fleet.beat(pid=2, kind="online")
    fleet.beat(pid=1, kind="offline")
    assert (fleet.worker().status, fleet.worker().pid) == ("online", 2)
    fleet.beat(pid=2, kind="offline")
    assert fleet.worker().status == "offline"


def test_a_custom_event_of_a_client_makes_no_worker() -> None:
    fleet = Fleet()
    fleet.send("task-progress", "gen5@host", 5, uuid="a", current=1)
    assert fleet.cluster.feed(fleet.now).workers_known == 0


def test_a_silent_worker_is_offline_after_three_missed_heartbeats_and_not_before() -> None:
    fleet = Fleet()
    fleet.beat()
    fleet.wait(5.5)
    assert fleet.worker().status == "online"
    fleet.wait(1)
    assert (fleet.worker().status, fleet.worker().reason) == ("offline", "silent since")
    fleet.beat()
    assert fleet.worker().status == "online"


def test_a_slow_heartbeat_gives_more_time() -> None:
    fleet = Fleet()
    fleet.beat(freq=20.0)
    fleet.wait(55)
    assert fleet.worker().status == "online"
    fleet.wait(10)
    assert fleet.worker().status == "offline"


@pytest.mark.parametrize("skew", [300.0, -300.0, 86_400.0, 1e12, -1e9])
def test_a_wrong_clock_neither_kills_nor_keeps_alive(skew: float) -> None:
    fleet = Fleet()
    fleet.skew = skew
    fleet.beat()
    fleet.start()
    fleet.wait(20, W)
    assert fleet.worker().status == "online"
    if abs(skew) < 1e5:
        assert fleet.worker().drift == pytest.approx(skew, abs=0.1)
    fleet.wait(7)
    assert fleet.worker().status == "offline"


def test_workers_are_unknown_and_not_offline_while_the_broker_is_silent() -> None:
    fleet = Fleet()
    fleet.beat()
    fleet.cluster.disconnected(fleet.now, "connection refused")
    fleet.wait(60)
    assert (fleet.worker().status, fleet.worker().reason) == ("unknown", "broker unreachable")
    fleet.cluster.connected(fleet.now)
    assert fleet.cluster.wants_inspection(fleet.now) == [W]
    fleet.wait(8)
    assert fleet.worker().status == "unknown"
    fleet.wait(4)
    assert fleet.worker().status == "offline"
    gaps = [d for d in fleet.cluster.drain(fleet.now) if isinstance(d, Gap)]
    assert (gaps[-1].reason, gaps[-1].ended_at is not None) == ("connection refused", True)


def test_a_gap_is_told_when_it_begins_and_when_it_ends_and_no_more() -> None:
    fleet = Fleet()
    fleet.cluster.disconnected(fleet.now, "gone")
    fleet.cluster.disconnected(fleet.now + 1, "still gone")
    (gap,) = [d for d in fleet.cluster.drain(fleet.now) if isinstance(d, Gap)]
    assert (gap.started_at, gap.ended_at) == (fleet.now, None)
    fleet.cluster.connected(fleet.now + 2)
    (gap,) = [d for d in fleet.cluster.drain(fleet.now) if isinstance(d, Gap)]
    assert (gap.started_at, gap.ended_at, gap.reason) == (fleet.now, fleet.now + 2, "gone")
    assert not [d for d in fleet.cluster.drain(fleet.now) if isinstance(d, Gap)]


def test_a_client_is_not_a_worker_and_a_pool_process_not_a_second_one() -> None:
    fleet = Fleet()
    fleet.send("task-sent", "gen77@host", 77, uuid="a", name="n", queue="q")
    assert fleet.cluster.feed(fleet.now).workers_known == 0
    fleet.beat()
    fleet.send("task-progress", W, 4711, uuid="a", current=1)
    fleet.wait(10, W)
    assert not fleet.worker().duplicate
    assert list(fleet.cluster.workers.known[W].processes) == [1]


def test_two_workers_of_one_name_are_told() -> None:
    fleet = Fleet()
    for _ in range(5):
        fleet.beat(pid=1)
        fleet.beat(pid=2)
        fleet.now += 2
    assert fleet.worker().duplicate
    for _ in range(10):
        fleet.beat(pid=2)
        fleet.now += 2
    assert not fleet.worker().duplicate


def test_a_restart_is_no_duplicate() -> None:
    fleet = Fleet()
    for pid in (1, 2):
        for _ in range(5):
            fleet.beat(pid=pid)
            fleet.now += 2
            assert not fleet.worker().duplicate


def test_a_worker_without_heartbeats_is_not_called_dead() -> None:
    fleet = Fleet()
    fleet.start()
    assert fleet.worker().status == "online"
    fleet.wait(70)
    assert (fleet.worker().status, fleet.worker().reason) == ("unknown", "sends no heartbeats")


def test_an_answer_to_inspect_tells_pool_size_queues_and_limits() -> None:
    fleet = Fleet()
    fleet.beat()
    pool = {
        "implementation": "celery.concurrency.prefork:TaskPool",
        "processes": [5, 6, 7],
        "max-concurrency": 2,
    }
    stats = {"pid": 1, "pool": pool, "prefetch_count": 16, "autoscaler": {"max": 8, "min": 2}, "uptime": 60}
    stats["broker"] = {"hostname": "redis", "password": "hunter2"}
    fleet.cluster.reconcile(
        Inspection(W, fleet.now, stats=stats, active_queues=[{"name": "q2"}, {"name": "q1"}]), fleet.now
    )
    record = fleet.worker()
    assert (record.pool, record.size, record.prefetch, record.queues) == ("prefork", 3, 16, ["q1", "q2"])
    assert (record.autoscale_max, record.autoscale_min, record.booted_at) == (8, 2, NOW - 60)
    assert record.details["stats"]["broker"]["password"] == "[hidden]"
    assert not fleet.cluster.wants_inspection(fleet.now)
    pool = {"implementation": "celery.concurrency.thread:TaskPool", "max-concurrency": 20, "threads": 3}
    fleet.cluster.reconcile(Inspection(W, fleet.now, stats={"pid": 1, "pool": pool}), fleet.now)
    assert (record.pool, record.size, record.autoscale_max) == ("threads", 20, None)


@pytest.mark.parametrize(
    "broken", [{}, {"pool": []}, {"pool": {"processes": "x"}, "pid": "z", "autoscaler": 3}]
)
def test_a_broken_answer_to_inspect_does_no_harm(broken: dict[str, Any]) -> None:
    fleet = Fleet()
    strange: Any = [{"id": 5}, {"request": None}, 7, None, {}]
    inspection = Inspection(W, fleet.now, broken, strange, strange, strange, active_queues=strange)
    fleet.cluster.reconcile(inspection, fleet.now)
    fleet.cluster.absorb([])
    fleet.cluster.drain(fleet.now)


def test_beat_is_shown_as_beat_and_not_counted_as_a_worker() -> None:
    fleet = Fleet()
    fleet.cluster.reconcile(Inspection("beat1@host", fleet.now, is_beat=True), fleet.now)
    assert fleet.worker("beat1@host").is_beat
    assert fleet.cluster.feed(fleet.now).workers_known == 0
    fleet.wait(60)
    assert fleet.worker("beat1@host").status != "offline"


def test_who_sends_heartbeats_is_no_beat_whatever_an_answer_cut_short_says() -> None:
    fleet = Fleet()
    fleet.cluster.reconcile(Inspection(W, fleet.now, is_beat=True), fleet.now)
    fleet.beat()
    assert not fleet.worker().is_beat
    fleet.cluster.reconcile(Inspection(W, fleet.now, is_beat=True), fleet.now)
    assert not fleet.worker().is_beat
    assert fleet.cluster.feed(fleet.now).workers_known == 1
    fleet.cluster.reconcile(Inspection("mute@host", fleet.now, is_beat=True), fleet.now)
    fleet.cluster.reconcile(Inspection("mute@host", fleet.now, {"pid": 5}), fleet.now)
    assert not fleet.worker("mute@host").is_beat


def test_a_restored_worker_is_unknown_until_it_is_heard() -> None:
    fleet = Fleet()
    fleet.beat()
    record = fleet.worker()
    again = Cluster()
    again.restore([record], [])
    assert again.workers.known[W].record.status == "unknown"
    assert again.accounting.missed == 0
    again.connected(fleet.now)
    assert again.wants_inspection(fleet.now) == [W]
    again.tick(fleet.now + 5)
    assert again.workers.known[W].record.status == "unknown"
    again.tick(fleet.now + 11)
    assert again.workers.known[W].record.status == "offline"


def test_two_containers_of_one_name_and_pid_are_told_and_nothing_is_lost() -> None:
    fleet = Fleet()
    fleet.cluster.absorb([])
    for n in range(1, 12):
        for first in (0, 5_000):  # two Lamport clocks, two counts
            fleet.now += 1
            fleet.clocks[W, 1] = first + 10 * n
            fleet.beat(processed=first + n)
            fleet.cluster.tick(fleet.now)
    assert fleet.worker().duplicate
    assert fleet.worker().missed == 0


def test_what_a_container_ran_before_it_began_anew_under_pid_1_is_lost() -> None:
    fleet = Fleet()
    fleet.beat()
    fleet.start()
    fleet.cluster.cold()
    fleet.cluster.absorb([])
    fleet.cluster.drain(fleet.now)
    fleet.wait(4, W)
    fleet.clocks[W, 1] = fleet.processed[W, 1] = 0
    fleet.beat(kind="online")
    fleet.start()
    fleet.wait(10, W)
    fleet.cluster.cold()
    fleet.cluster.absorb([])
    fleet.cluster.drain(fleet.now)
    states = {uuid: task.row.state for uuid, task in fleet.cluster.tasks.live.items() if task.row}
    assert states == {"u1": "LOST", "u2": "STARTED"}
