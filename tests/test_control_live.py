"""Controls against real workers: what is sent, what is refused, and what was seen of the effect."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import time
import uuid as uuidlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery import Celery
from django.db import connections

from demo.guard import Guarded, guarded
from demo.valkey import Server
from monitor import broker as broker_module
from monitor.broker import Broker
from monitor.control import Actor, Command, Refused, discover, inspect_worker, perform
from monitor.control.inspecting import pool_size, seen_on, stats_of
from monitor.events import Decoded, TaskEvent
from monitor.models import ControlRecord, Task, Worker
from monitor.source import RedisSource
from tests.conftest import ROOT, wait_until

pytestmark = [pytest.mark.live, pytest.mark.django_db(transaction=True)]

HOST = socket.gethostname()
PREFORK, SCALED, THREADS, SOLO, BEAT = (
    f"{n}@{HOST}" for n in ("wire-p", "wire-a", "wire-t", "wire-s", "beat")
)
OPERATOR = Actor(None, "ada", "operator", "127.0.0.1")
STATES = {
    "sent": "PENDING", "received": "RECEIVED", "started": "STARTED", "succeeded": "SUCCESS",
    "failed": "FAILURE", "retried": "RETRY", "revoked": "REVOKED", "rejected": "REJECTED",
}  # fmt: skip


# Clients and workers send at the same time: what comes late must not undo what is known.
RANK = {"PENDING": 0, "RECEIVED": 1, "STARTED": 2}


class Cluster:
    """Real workers on one Valkey, and what their events say, in the database."""

    def __init__(self, url: str, processes: dict[str, Guarded]) -> None:
        self.url, self.processes = url, processes
        self.app = Celery("client", broker=url, backend=url, set_as_current=False)
        self.app.conf.task_send_sent_event = True

    def start(self, name: str, worker: str, *args: Any, **options: Any) -> str:
        queue = worker.partition("@")[0]
        return str(self.app.send_task(name, args, queue=queue, **options).id)

    def running(self, worker: str, *args: Any, name: str = "shop.nap") -> str:
        """A task that has begun."""
        uuid = self.start(name, worker, *(args or (30,)))
        wait_until(
            lambda: state_of(uuid) == "STARTED",
            10,
            what=f"{uuid} ({seen_on([worker])}) {self.processes[worker].tail(12)}",
        )
        return uuid

    def size(self, worker: str = PREFORK) -> int:
        return pool_size(stats_of(worker)) or 0


def state_of(uuid: str) -> str:
    row = Task.objects.filter(uuid=uuid).first()
    return row.state if row else ""


@pytest.fixture(scope="module")
def cluster(valkey: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("workers")
    processes: dict[str, Guarded] = {}
    env = os.environ | {"SHOP_BROKER": valkey.url, "SHOP_BACKEND": valkey.url, "PYTHONPATH": str(ROOT)}
    env.pop("DJANGO_SETTINGS_MODULE", None)
    celery = [sys.executable, "-m", "celery", "-A", "tests.shop"]
    quiet = ["-E", "--without-gossip", "--without-mingle", "-l", "INFO"]
    kinds = {
        PREFORK: ["-P", "prefork", "-c", "3"],
        SCALED: ["-P", "prefork", "--autoscale", "2,1"],
        THREADS: ["-P", "threads", "-c", "2"],
        SOLO: ["-P", "solo"],
    }
    for worker, pool in kinds.items():
        argv = [*celery, "worker", "-n", worker, "-Q", worker.partition("@")[0], *pool, *quiet]
        processes[worker] = guarded(argv, folder / f"{worker}.log", env=env, cwd=ROOT, grace=2)
    argv = [*celery, "beat", "--enable-remote-control", "-n", BEAT, "-s", str(folder / "schedule")]
    processes[BEAT] = guarded(argv, folder / "beat.log", env=env, cwd=ROOT, grace=2)
    broker_module.configure(Broker(valkey.url, result_backend=valkey.url))
    try:
        for worker in kinds:
            wait_until(lambda w=worker: stats_of(w, 1.0), 60, what=f"{worker}: {processes[worker].tail(5)}")
        yield Cluster(valkey.url, processes)
    finally:
        for process in processes.values():
            process.ask_to_stop()
        for process in processes.values():
            process.stop()


@pytest.fixture(autouse=True)
def watched(cluster: Cluster) -> Iterator[Cluster]:
    """Rows of the workers, and a listener that keeps the rows of tasks, as the engine does."""
    broker_module.configure(Broker(cluster.url, result_backend=cluster.url))
    now = time.time()
    for hostname, pool in ((PREFORK, "prefork"), (SCALED, "prefork"), (THREADS, "threads"), (SOLO, "solo")):
        scale = (2, 1) if hostname == SCALED else (None, None)
        Worker.objects.create(
            hostname=hostname, status="online", pool=pool, first_seen_at=now,
            autoscale_max=scale[0], autoscale_min=scale[1],
        )  # fmt: skip
    Worker.objects.create(hostname=BEAT, status="online", is_beat=True, first_seen_at=now)
    Worker.objects.create(
        hostname="gone@x", status="offline", reason="said goodbye", pool="prefork", first_seen_at=now
    )
    listener = Listener(broker_module.current())
    yield cluster
    wait_until(lambda: not ControlRecord.objects.filter(completed_at=None).exists(), 15, what="verification")
    listener.stop()


class Listener:
    def __init__(self, broker: Broker) -> None:
        self.source = RedisSource(broker)
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert self.ready.wait(30)

    def stop(self) -> None:
        self.source.stop()
        self.thread.join(10)

    def _run(self) -> None:
        def on_state(connected: bool, _reason: str, _since: float | None = None) -> None:
            if connected:
                self.ready.set()

        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
        asyncio.run(self.source.run(self._on_message, on_state))
        connections.close_all()

    def _on_message(self, decoded: Decoded, at: float) -> None:
        for event in decoded.events:
            kind = event.type.removeprefix("task-")
            if not isinstance(event, TaskEvent) or kind not in STATES:
                continue
            row = Task.objects.filter(uuid=event.uuid).first() or Task(uuid=event.uuid, first_seen_at=at)
            row.seen_at = at
            if RANK.get(STATES[kind], 3) >= RANK.get(row.state, 3) or not row.state:
                row.state = STATES[kind]
            row.marks = [*row.marks, [kind, event.hostname, event.pid, event.clock, event.timestamp, at]]
            if kind != "sent":
                row.worker = event.hostname
            row.name = getattr(event, "name", None) or row.name
            row.save()


def ask(name: str, *targets: str, **arguments: Any) -> ControlRecord:
    return perform(Command(name, targets, arguments), OPERATOR)


def proved(record: ControlRecord, timeout: float = 15.0) -> ControlRecord:
    """The record once Umbel has looked."""
    wait_until(lambda: ControlRecord.objects.get(pk=record.pk).completed_at, timeout, what="verification")
    return ControlRecord.objects.get(pk=record.pk)


def refused(name: str, *targets: str, actor: Actor = OPERATOR, **arguments: Any) -> str:
    """The sentence of the refusal; checks that it was recorded and that nothing was sent."""
    before = {record.pk for record in ControlRecord.objects.all()}
    with pytest.raises(Refused) as refusal:
        perform(Command(name, targets, arguments), actor)
    (record,) = [one for one in ControlRecord.objects.all() if one.pk not in before]
    assert (record.effect, record.sent_at, record.replies) == ("refused", None, [])
    assert record.evidence == str(refusal.value)
    return str(refusal.value)


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
    assert [found[name] for name in (PREFORK, SCALED, THREADS, SOLO)] == [False] * 4
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
    assert record.seen == [
        {"target": uuid, "seen": True, "text": f"Gone from {PREFORK}, and its end was seen: REVOKED."}
    ]
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
    assert sorted(record.destinations) == sorted([PREFORK, SCALED, THREADS, SOLO])
    record = proved(record)
    assert record.effect == "verified", record.evidence
    assert record.evidence.startswith("All 4 workers answered.")
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
