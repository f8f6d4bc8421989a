"""Controls against real workers: what is sent, what is refused, and what was seen of the effect."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from monitor.control import discover, inspect_worker
from monitor.control.inspecting import seen_on, stats_of
from monitor.models import Task
from tests.clusters import (
    BEAT,
    ON_EACH_POOL,
    POOLS,
    PREFORK,
    SOLO,
    THREADS,
    Cluster,
    ask,
    proved,
    refused,
)
from tests.conftest import wait_until

pytestmark = ON_EACH_POOL


# Looking


def test_inspect_knows_pool_tasks_queues_and_settings(cluster: Cluster) -> None:
    uuid = cluster.running(PREFORK, 2, name="shop.late")
    found = inspect_worker(PREFORK, full=True)
    assert found is not None and found.stats and found.conf and found.registered and found.active_queues
    assert [task["id"] for task in found.active or []] == [uuid]
    assert not found.is_beat
    assert found.reserved == [] and found.scheduled == []
    password = cluster.url.partition(":@")[2].partition("@")[0] or cluster.url.split(":")[2].partition("@")[0]
    assert password not in repr(found)


def test_inspect_hides_what_the_arguments_hold(cluster: Cluster) -> None:
    cluster.app.send_task("shop.nap", [3], {"password": "hunter2-very-secret"}, queue="wire-p")
    wait_until(lambda: (inspect_worker(PREFORK) or None) and inspect_worker(PREFORK).active, 5)
    found = inspect_worker(PREFORK)
    assert found is not None and found.active
    assert "hunter2" not in repr(found)


def test_beat_is_known_as_beat_and_workers_as_workers() -> None:
    found = dict(discover(1.5))
    assert found[BEAT] is True
    assert [found[name] for name in POOLS] == [False] * 5
    inspection = inspect_worker(BEAT, timeout=1.0)
    assert inspection is not None and inspection.is_beat and inspection.stats is None


def test_thirty_looks_lose_no_reply() -> None:
    for _ in range(30):
        seen = seen_on([PREFORK, THREADS, SOLO], timeout=1.0)
        assert sorted(seen) == sorted([PREFORK, THREADS, SOLO])


def test_looks_from_many_threads_do_not_take_each_others_replies() -> None:
    def look(_: int) -> bool:
        found = inspect_worker(PREFORK)
        return found is not None and None not in (found.stats, found.active, found.reserved, found.scheduled)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(look, range(60)))


def test_a_dead_destination_costs_its_time_and_nothing_more() -> None:
    assert inspect_worker("nobody@nowhere", timeout=0.3) is None
    assert inspect_worker(PREFORK) is not None


# Terminate


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL", "SIGQUIT"])
def test_a_running_task_is_terminated_and_seen_to_be_gone(cluster: Cluster, how: str) -> None:
    uuid = cluster.running(PREFORK)
    record = ask("terminate", uuid, signal=how)
    assert record.destinations == [PREFORK]
    assert [reply["outcome"] for reply in record.replies] == ["ok"]
    record = proved(record)
    assert record.effect == "verified", record.evidence
    found = record.seen[0]
    assert (found["target"], found["seen"]) == (uuid, True)
    assert found["text"] == f"Gone from {PREFORK}, and its end was seen: REVOKED."
    places = found["places"]
    assert {places[one] for one in ("process", "active", "reserved", "scheduled")} == {"no"}, places
    assert record.evidence.startswith(f"{PREFORK} answered.")
    wait_until(lambda: cluster.size() == 3, 10)


def test_sigusr1_lets_the_task_end_its_own_way(cluster: Cluster) -> None:
    uuid = cluster.running(PREFORK)
    record = proved(ask("terminate", uuid, signal="SIGUSR1"))
    assert record.effect in ("verified", "partly"), record.evidence
    assert "SIGUSR1" in record.evidence


def test_a_signal_that_a_pool_process_ignores_is_not_called_a_success(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.control.performing.VERIFY_WITHIN", 2.0)
    uuid = cluster.running(PREFORK, 20, name="shop.stubborn")
    record = proved(ask("terminate", uuid, signal="SIGINT"))
    assert record.effect == "none", record.evidence
    assert "lives on" in record.evidence
    for pid in (stats_of(PREFORK) or {})["pool"]["processes"]:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: cluster.size() == 3, 15)


def test_two_tasks_on_one_worker_end_with_one_command(cluster: Cluster) -> None:
    uuids = [cluster.running(PREFORK), cluster.running(PREFORK)]
    record = proved(ask("terminate", *uuids))
    assert record.effect == "verified", record.evidence
    assert "both tasks" in record.evidence


def test_a_task_that_only_a_worker_knows_can_be_terminated(cluster: Cluster) -> None:
    uuid = cluster.running(PREFORK)
    Task.objects.filter(uuid=uuid).delete()
    assert proved(ask("terminate", uuid)).effect in ("verified", "partly")


# Who does not answer


def test_who_takes_no_command_says_why() -> None:
    assert "celery beat" in refused("pool_grow", BEAT, n=1)
    assert "offline (said goodbye)" in refused("pool_grow", "gone@x", n=1)
    assert "No worker is called 'nobody@x'" in refused("pool_grow", "nobody@x", n=1)


def test_a_silent_worker_is_named_and_nothing_is_claimed(cluster: Cluster) -> None:
    uuid = cluster.running(PREFORK, 60)
    pid = cluster.processes[PREFORK].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        assert "did not answer within 2 s" in refused("pool_shrink", PREFORK, n=1)
        record = ask("terminate", uuid)
        assert [(one["worker"], one["outcome"]) for one in record.replies] == [(PREFORK, "silent")]
        assert record.effect == "pending"
    finally:
        os.kill(pid, signal.SIGCONT)
    record = proved(record)
    # It came back within the time: the look corrects what the reply could not say.
    assert record.effect in ("verified", "partly"), record.evidence
    assert record.evidence.startswith(f"{PREFORK} did not answer.")


def test_after_the_broker_drops_its_connections_a_look_still_succeeds(cluster: Cluster) -> None:
    import redis

    assert inspect_worker(PREFORK) is not None
    with redis.Redis.from_url(cluster.url) as client:
        ours = [one["id"] for one in client.client_list() if one["name"] == "umbel"]
        assert ours
        for number in ours:
            client.client_kill_filter(_id=number)
    assert inspect_worker(PREFORK) is not None
