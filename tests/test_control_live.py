"""Controls against real workers: what is sent, what is refused, and what was seen of the effect."""

from __future__ import annotations

import os
import signal
import uuid as uuidlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections

from monitor.control import Refused, discover, inspect_worker
from monitor.control.inspecting import seen_on, stats_of
from monitor.models import ControlRecord, Task
from tests.clusters import (
    BEAT,
    GEVENT,
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
    assert [found[name] for name in (PREFORK, SCALED, THREADS, SOLO, GEVENT)] == [False] * 5
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


def test_a_pool_that_cannot_terminate_refuses_with_the_reason(cluster: Cluster) -> None:
    uuid = cluster.running(THREADS, 1.5)
    assert "threads pool cannot stop" in refused("terminate", uuid)
    wait_until(lambda: state_of(uuid) == "SUCCESS", 10)


def test_an_ended_task_is_left_alone(cluster: Cluster) -> None:
    uuid = cluster.start("shop.add", PREFORK, 1, 2)
    wait_until(lambda: state_of(uuid) == "SUCCESS", 10)
    assert "has ended already: SUCCESS" in refused("terminate", uuid)
    assert "has ended already" in refused("revoke", uuid)


def test_a_task_that_only_a_worker_knows_can_be_terminated(cluster: Cluster) -> None:
    uuid = cluster.running(PREFORK)
    Task.objects.filter(uuid=uuid).delete()
    assert proved(ask("terminate", uuid)).effect in ("verified", "partly")


# Revoke


def test_a_waiting_task_is_revoked_by_all_and_never_runs(cluster: Cluster) -> None:
    uuid = cluster.start("shop.add", PREFORK, 1, 2, countdown=600)
    wait_until(lambda: state_of(uuid) == "RECEIVED", 10)
    record = ask("revoke", uuid)
    assert sorted(record.destinations) == sorted([PREFORK, SCALED, THREADS, SOLO, GEVENT])
    record = proved(record)
    assert record.effect == "verified", record.evidence
    assert record.evidence.startswith("All 5 workers answered.")
    assert "takes effect when a worker reaches it" in record.evidence
    assert uuid in (inspect_worker(SOLO) or pytest.fail("silent")).revoked


def test_a_running_task_is_not_revoked_but_pointed_to_terminate(cluster: Cluster) -> None:
    uuid = cluster.running(PREFORK, 1.5)
    assert "a revoke does not stop it. Terminate it" in refused("revoke", uuid)


def test_what_nobody_knows_is_refused_and_leaves_no_result_behind(cluster: Cluster) -> None:
    unknown = str(uuidlib.uuid4())
    assert unknown in refused("revoke", unknown)
    assert unknown in refused("terminate", unknown)
    assert cluster.app.backend.client.get(f"celery-task-meta-{unknown}") is None


# Pools


def test_a_pool_grows_and_shrinks_and_each_is_counted(cluster: Cluster) -> None:
    record = proved(ask("pool_grow", PREFORK, n=2))
    assert (record.effect, record.seen[0]["text"]) == ("verified", "3 → 5 pool processes"), record.evidence
    record = proved(ask("pool_shrink", PREFORK, n=2))
    assert (record.effect, record.seen[0]["text"]) == ("verified", "5 → 3 pool processes"), record.evidence
    assert cluster.size() == 3


def test_a_shrink_of_everything_leaves_one(cluster: Cluster) -> None:
    record = ask("pool_shrink", PREFORK, n=100)
    assert record.arguments == {"n": 2, "before": 3, "to": 1, "asked": 100}
    assert proved(record).effect == "verified"
    assert cluster.size() == 1
    assert "one pool process left" in refused("pool_shrink", PREFORK, n=1)
    assert proved(ask("pool_grow", PREFORK, n=2)).effect == "verified"


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


def test_autoscale_is_set_and_read_back(cluster: Cluster) -> None:
    record = proved(ask("autoscale", SCALED, max=4, min=2))
    assert record.effect == "verified", record.evidence
    assert "autoscale from 2 to 4" in record.evidence
    assert "scales itself" in refused("pool_grow", SCALED, n=1)
    assert "without --autoscale" in refused("autoscale", PREFORK, max=4, min=2)
    assert proved(ask("autoscale", SCALED, max=2, min=1)).effect == "verified"


def test_pools_that_cannot_change_say_why() -> None:
    assert "threads pool keeps its size" in refused("pool_grow", THREADS, n=1)
    assert "solo pool" in refused("pool_shrink", SOLO, n=1)
    assert "celery beat" in refused("pool_grow", BEAT, n=1)
    assert "offline (said goodbye)" in refused("pool_grow", "gone@x", n=1)
    assert "No worker is called 'nobody@x'" in refused("pool_grow", "nobody@x", n=1)


# Who does not answer


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


def test_events_are_switched_on_and_the_first_one_is_waited_for(cluster: Cluster) -> None:
    record = ask("enable_events", PREFORK)
    cluster.start("shop.add", PREFORK, 1, 2)
    record = proved(record)
    assert record.effect == "verified", record.evidence


def test_after_the_broker_drops_its_connections_a_look_still_succeeds(cluster: Cluster) -> None:
    import redis

    assert inspect_worker(PREFORK) is not None
    with redis.Redis.from_url(cluster.url) as client:
        ours = [one["id"] for one in client.client_list() if one["name"] == "umbel"]
        assert ours
        for number in ours:
            client.client_kill_filter(_id=number)
    assert inspect_worker(PREFORK) is not None
