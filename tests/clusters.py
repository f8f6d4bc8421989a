"""A cluster with a worker of each pool for live tests of controls, and the words of those tests."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from django.db import connections

from demo.guard import Guarded, guarded
from monitor import broker as broker_module
from monitor.broker import Broker
from monitor.control import Actor, Command, Refused, perform
from monitor.control.inspecting import pool_size, seen_on, stats_of
from monitor.events import Decoded, TaskEvent, WorkerEvent
from monitor.models import ControlRecord, Task, Worker
from monitor.source import RedisSource
from tests.conftest import ROOT, wait_until

HOST = socket.gethostname()
PREFORK, SCALED, THREADS, SOLO, GEVENT, BEAT = (
    f"{n}@{HOST}" for n in ("wire-p", "wire-a", "wire-t", "wire-s", "wire-g", "beat")
)
POOLS = {PREFORK: "prefork", SCALED: "prefork", THREADS: "threads", SOLO: "solo", GEVENT: "gevent"}
ARGUMENTS = {
    PREFORK: ["-P", "prefork", "-c", "3"],
    SCALED: ["-P", "prefork", "--autoscale", "2,1"],
    THREADS: ["-P", "threads", "-c", "2"],
    SOLO: ["-P", "solo"],
    GEVENT: ["-P", "gevent", "-c", "4"],
}
OPERATOR = Actor(None, "ada", "operator", "127.0.0.1")
STATES = {
    "sent": "PENDING", "received": "RECEIVED", "started": "STARTED", "succeeded": "SUCCESS",
    "failed": "FAILURE", "retried": "RETRY", "revoked": "REVOKED", "rejected": "REJECTED",
}  # fmt: skip


# Clients and workers send at the same time: what comes late must not undo what is known.
RANK = {"PENDING": 0, "RECEIVED": 1, "STARTED": 2}


class Cluster:
    """Real workers on one Valkey, and what their events say, in the database."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.processes: dict[str, Guarded] = {}
        self.app = Celery("client", broker=url, backend=url, set_as_current=False)
        self.app.conf.task_send_sent_event = True

    def launch(self, worker: str, like: str = "") -> None:
        """A worker that consumes the queue of its own name, with the pool of ``like``."""
        pool = ARGUMENTS[like or worker]
        quiet = ["-E", "--without-gossip", "--without-mingle", "-l", "INFO"]
        self.run(worker, ["worker", "-n", worker, "-Q", worker.partition("@")[0], *pool, *quiet])

    def run(self, name: str, argv: list[str]) -> None:
        env = os.environ | {"SHOP_BROKER": self.url, "SHOP_BACKEND": self.url, "PYTHONPATH": str(ROOT)}
        env.pop("DJANGO_SETTINGS_MODULE", None)
        argv = [sys.executable, "-m", "celery", "-A", "tests.shop", *argv]
        self.processes[name] = guarded(argv, self.folder / f"{name}.log", env=env, cwd=ROOT, grace=2)

    def answers(self, worker: str) -> None:
        wait_until(lambda: stats_of(worker, 1.0), 60, what=f"{worker}: {self.processes[worker].tail(5)}")

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


@contextmanager
def one_of_each_pool(url: str, folder: Path) -> Iterator[Cluster]:
    """Workers of every pool, and a beat."""
    broker_module.configure(Broker(url, result_backend=url))
    found = Cluster(url, folder)
    try:
        for worker in POOLS:
            found.launch(worker)
        argv = ["beat", "--enable-remote-control", "-n", BEAT, "-s", str(folder / "schedule")]
        found.run(BEAT, argv)
        for worker in POOLS:
            found.answers(worker)
        yield found
    finally:
        for process in found.processes.values():
            process.ask_to_stop()
        for process in found.processes.values():
            process.stop()


@contextmanager
def watching(cluster: Cluster) -> Iterator[Cluster]:
    """Rows of the workers, and a listener that keeps the rows of tasks, as the engine does."""
    broker_module.configure(Broker(cluster.url, result_backend=cluster.url))
    now = time.time()
    for hostname in POOLS:
        row_of(hostname)
    Worker.objects.create(hostname=BEAT, status="online", is_beat=True, first_seen_at=now)
    Worker.objects.create(
        hostname="gone@x", status="offline", reason="said goodbye", pool="prefork", first_seen_at=now
    )
    listener = Listener(broker_module.current())
    try:
        yield cluster
        wait_until(
            lambda: not ControlRecord.objects.filter(completed_at=None).exists(), 15, what="verification"
        )
    finally:
        listener.stop()


def row_of(hostname: str, like: str = "") -> Worker:
    """As the engine would write it."""
    like = like or hostname
    scale = (2, 1) if like == SCALED else (None, None)
    return Worker.objects.create(
        hostname=hostname,
        status="online",
        pool=POOLS[like],
        first_seen_at=time.time(),
        autoscale_max=scale[0],
        autoscale_min=scale[1],
        details={"conf": {"worker_pool_restarts": True}},
    )


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
            if isinstance(event, WorkerEvent) and event.type == "worker-offline":
                Worker.objects.filter(hostname=event.hostname).update(status="offline", offline_at=at)
            kind = event.type.removeprefix("task-")
            if not isinstance(event, TaskEvent) or kind not in STATES:
                continue
            row = Task.objects.filter(uuid=event.uuid).first() or Task(uuid=event.uuid, first_seen_at=at)
            row.seen_at = at
            state = STATES[kind]
            if row.state == "REVOKED" and getattr(event, "result", "") in (None, "None"):
                state = "REVOKED"  # a killed greenlet says that it succeeded, too; see cluster.deliveries
            if RANK.get(state, 3) >= RANK.get(row.state, 3) or not row.state:
                row.state = state
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
