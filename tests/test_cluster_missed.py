"""What heartbeats say was missed: exact, said once, and nothing where nothing is missed."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.cluster import Cluster
from monitor.events import decode, event_from_dict
from tests.fleets import NOW, Fleet, W


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


@pytest.mark.parametrize("count", [-1, 2**62, 0])
def test_a_forged_count_of_tasks_is_no_loss(count: int) -> None:
    fleet = Fleet()
    for n in range(10):
        fleet.start()
        fleet.now += 2
        fleet.beat(processed=count if n == 5 else n + 1)
    assert fleet.worker().missed == 0
