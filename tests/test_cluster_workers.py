"""Workers: alive means heard; what their heartbeats say was missed; the account always balances."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.cluster import Cluster, Limits
from monitor.events import Decoded, decode, event_from_dict
from monitor.records import Gap, Inspection, WorkerRecord

NOW = 1_000_000.0
W = "w@host"


class Fleet:
    """Tells a cluster what workers send; each process has its own Lamport clock and count of starts."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.cluster = Cluster(limits=limits or Limits())
        self.now = NOW
        self.cluster.connected(self.now)
        self.clocks: dict[tuple[str, int], int] = {}
        self.processed: dict[tuple[str, int], int] = {}
        self.skew = 0.0
        self.uuids = 0

    def send(self, kind: str, host: str = W, pid: int = 1, is_lost: bool = False, **fields: Any) -> None:
        place = (host, pid)
        self.clocks[place] = self.clocks.get(place, 0) + 1
        base = {"type": kind, "hostname": host, "pid": pid, "clock": self.clocks[place]}
        event = event_from_dict(base | {"timestamp": self.now + self.skew} | fields)
        if not is_lost:
            self.cluster.apply(event, self.now)

    def beat(self, host: str = W, pid: int = 1, kind: str = "heartbeat", **fields: Any) -> None:
        given = {
            "freq": 2.0,
            "active": 0,
            "processed": self.processed.get((host, pid), 0),
            "sw_ident": "py-celery",
        }
        self.send(f"worker-{kind}", host, pid, **(given | fields))

    def start(self, host: str = W, pid: int = 1, is_lost: bool = False) -> None:
        self.uuids += 1
        self.processed[host, pid] = self.processed.get((host, pid), 0) + 1
        self.send("task-started", host, pid, is_lost, uuid=f"u{self.uuids}")

    def wait(self, seconds: float, *beating: str) -> None:
        for _ in range(int(seconds * 2)):
            self.now += 0.5
            if self.now % 2 == 0:
                for host in beating:
                    self.beat(host)
            self.cluster.tick(self.now)

    def worker(self, host: str = W) -> WorkerRecord:
        return self.cluster.workers.known[host].record


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


# what was missed


def test_missed_starts_are_counted_exactly_and_only_once_confirmed() -> None:
    fleet = Fleet()
    fleet.beat()
    for lost in (0, 5, 0, 3, 0, 0):
        for n in range(10):
            fleet.start(is_lost=n < lost)
        fleet.now += 2
        fleet.beat()
    fleet.beat()
    fleet.beat()
    assert fleet.worker().missed == 8
    assert fleet.cluster.accounting.missed == 8


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), max_size=20), st.randoms(use_true_random=False)
)
def test_what_is_missed_is_exact_for_any_losses_and_nothing_is_missed_without(
    intervals: list[tuple[int, int]], rng: random.Random
) -> None:
    fleet = Fleet()
    fleet.beat()
    true = 0
    for seen, lost in intervals:
        outcomes = [False] * (seen + 1) + [True] * lost
        rng.shuffle(outcomes)
        for is_lost in outcomes:
            fleet.start(is_lost=is_lost)
        true += lost
        fleet.now += 2
        fleet.beat()
        assert fleet.worker().missed <= true
    for _ in range(3):
        fleet.now += 2
        fleet.beat()
    assert fleet.worker().missed == true


def test_starts_that_arrive_after_their_heartbeat_are_not_missed() -> None:
    fleet = Fleet()
    fleet.beat()
    for clock in (2, 3, 4):
        fleet.send("task-started", is_lost=True, uuid=f"u{clock}")
    fleet.processed[W, 1] = 3
    fleet.beat()
    for clock in (2, 3, 4):
        fleet.cluster.apply(
            event_from_dict(
                {
                    "type": "task-started",
                    "hostname": W,
                    "pid": 1,
                    "clock": clock,
                    "timestamp": NOW,
                    "uuid": f"u{clock}",
                }
            ),
            fleet.now,
        )
    for _ in range(4):
        fleet.now += 2
        fleet.beat()
    assert fleet.worker().missed == 0


def test_a_count_that_is_off_by_one_for_a_heartbeat_is_no_loss() -> None:
    fleet = Fleet()
    fleet.beat()
    for n in range(20):
        fleet.start()
        fleet.now += 2
        fleet.beat(processed=fleet.processed[W, 1] + n % 2)
    assert fleet.worker().missed == 0


def test_a_heartbeat_asked_for_by_a_command_is_not_counted() -> None:
    fleet = Fleet()
    fleet.beat()
    for _ in range(6):
        fleet.start()
        fleet.send("worker-heartbeat", freq=5)
        fleet.now += 2
        fleet.beat()
    assert (fleet.worker().missed, fleet.worker().freq) == (0, 2.0)


def test_a_worker_that_runs_tasks_without_task_events_has_its_events_off_and_missed_nothing() -> None:
    fleet = Fleet()
    fleet.beat()
    for _ in range(5):
        for _ in range(4):
            fleet.start(is_lost=True)
        fleet.now += 2
        fleet.beat()
    assert fleet.worker().events_on is False
    assert fleet.worker().missed == 0
    for _ in range(5):
        fleet.start()
        fleet.now += 2
        fleet.beat()
    assert fleet.worker().events_on is True
    assert fleet.worker().missed == 0


def test_an_idle_worker_is_not_said_to_have_its_events_off() -> None:
    fleet = Fleet()
    fleet.wait(60, W)
    assert fleet.worker().events_on is None


def test_events_missed_while_we_were_not_connected_are_counted() -> None:
    fleet = Fleet()
    fleet.beat()
    fleet.start()
    fleet.now += 2
    fleet.beat()
    fleet.cluster.disconnected(fleet.now, "kicked")
    for _ in range(47):
        fleet.start(is_lost=True)
    fleet.now += 3
    fleet.cluster.connected(fleet.now)
    for _ in range(4):
        fleet.start()
        fleet.now += 2
        fleet.beat()
    assert fleet.worker().missed == 47


@pytest.mark.parametrize("pid", [1, 2])
def test_a_restart_falls_back_to_zero_without_a_loss(pid: int) -> None:
    fleet = Fleet()
    for _ in range(5):
        fleet.start()
        fleet.beat()
        fleet.now += 2
    fleet.clocks[W, pid], fleet.processed[W, pid] = 0, 0
    fleet.beat(pid=pid, kind="online")
    for _ in range(5):
        fleet.start(pid=pid)
        fleet.now += 2
        fleet.beat(pid=pid)
    assert (fleet.worker().missed, fleet.worker().processed, fleet.worker().pid) == (0, 5, pid)


@pytest.mark.parametrize("name", ["wire_prefork_E", "wire_threads_E", "wire_prefork_noE"])
def test_recordings_show_no_loss_and_the_exact_loss_when_messages_are_cut_out(name: str) -> None:
    messages = json.loads((Path(__file__).parent / "recordings" / f"{name}.json").read_text())["messages"]
    decoded = [(at, decode(p.encode())) for at, channel, p in messages if "celeryev" in channel]
    whole = Cluster()
    whole.connected(decoded[0][0])
    for at, message in decoded:
        for event in message.events:
            whole.apply(event, at)
    (record,) = [w.record for w in whole.workers.known.values()]
    assert record.missed == 0
    assert record.events_on is (not name.endswith("noE"))


# the account


def test_whatever_comes_the_account_balances() -> None:
    fleet = Fleet()
    fleet.beat()
    fleet.start()
    fleet.cluster.count(Decoded(malformed=2, ignored=1, reasons=["a", "b", "c"]))
    fleet.cluster.drop(5, "queue was full")
    for n in range(200):
        fleet.cluster.count(Decoded(malformed=1, reasons=[f"reason {n}"]))
    accounting = fleet.cluster.accounting
    assert accounting.balanced
    assert (accounting.received, accounting.dropped, accounting.malformed) == (210, 5, 202)
    assert len(accounting.refused) <= 65
    assert accounting.refused["other reasons"] > 100


def test_fifty_thousand_names_of_workers_are_bounded_and_counted() -> None:
    fleet = Fleet(Limits(workers=50))
    for n in range(500):
        fleet.beat(f"w{n}@host")
    feed = fleet.cluster.feed(fleet.now)
    assert (feed.workers_known, feed.limits["workers"]) == (50, 450)
    assert feed.accounting.balanced


def test_offline_workers_make_room_for_new_ones() -> None:
    fleet = Fleet(Limits(workers=2))
    fleet.beat("a@h")
    fleet.beat("a@h", kind="offline")
    fleet.beat("b@h")
    fleet.cluster.drain(fleet.now)
    fleet.beat("c@h")
    assert set(fleet.cluster.workers.known) == {"b@h", "c@h"}


def test_lag_is_free_of_skew_and_shows_delay() -> None:
    fleet = Fleet()
    fleet.skew = 300.0
    for _ in range(50):
        fleet.now += 0.1
        fleet.beat()
    lag = fleet.cluster.feed(fleet.now).lag
    assert lag is not None
    assert lag < 0.01
    assert fleet.cluster.feed(fleet.now).worst_drift == pytest.approx(300, abs=0.1)
    fleet.skew = 298.0  # two seconds late by now
    for _ in range(50):
        fleet.now += 0.1
        fleet.beat()
    assert fleet.cluster.feed(fleet.now).lag == pytest.approx(2.0, abs=0.1)
    assert fleet.cluster.feed(fleet.now).rate == pytest.approx(10, abs=1.5)


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


def test_lag_that_lasts_is_not_taken_for_a_wrong_clock() -> None:
    fleet = Fleet()
    fleet.beat()
    fleet.skew = -30.0
    for _ in range(300):
        fleet.now += 2
        fleet.beat()
    assert fleet.cluster.feed(fleet.now).lag == pytest.approx(30, abs=1)


@pytest.mark.parametrize("count", [-1, 2**62, 0])
def test_a_forged_count_of_tasks_is_no_loss(count: int) -> None:
    fleet = Fleet()
    for n in range(10):
        fleet.start()
        fleet.now += 2
        fleet.beat(processed=count if n == 5 else n + 1)
    assert fleet.worker().missed == 0
