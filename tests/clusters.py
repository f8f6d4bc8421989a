"""A cluster with a worker of each pool for live tests of controls, and the words of those tests."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from celery import Celery
from django.db import connections

from demo.guard import Guarded, guarded
from monitor import broker as broker_module
from monitor.broker import Broker
from monitor.control import Actor, Command, Refused, perform
from monitor.control.inspecting import inspect_worker, pool_size, seen_on, stats_of
from monitor.events import Decoded, TaskEvent, WorkerEvent
from monitor.models import ControlRecord, Task, Worker
from monitor.records import ENDED
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
SLOTS = {PREFORK: 3, SCALED: 2, THREADS: 2, SOLO: 1, GEVENT: 4}
OPERATOR = Actor(None, "ada", "operator", "127.0.0.1")
# Of each module whose tests act on this cluster.
ON_EACH_POOL = [
    pytest.mark.live,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("watched"),
]
every_pool = pytest.mark.parametrize("worker", POOLS, ids=lambda name: name.partition("@")[0])
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
        # A result that is let go of after its server has ended would look for that for twenty seconds.
        self.app.conf.result_backend_transport_options = {
            "retry_policy": {"max_retries": 1, "interval_start": 0.1}
        }
        self.client = redis.Redis.from_url(url)

    def up(self) -> None:
        """Workers of every pool, and a beat, unless they are there."""
        if self.processes:
            return
        for worker in POOLS:
            self.launch(worker)
        beat = ["beat", "--enable-remote-control", "-n", BEAT, "-s", str(self.folder / "schedule")]
        self.run(BEAT, beat)
        for worker in POOLS:
            self.answers(worker)

    def down(self) -> None:
        ended = list(self.processes.values())
        self.processes = {}
        for process in ended:
            process.ask_to_stop()
        for process in ended:
            process.stop()

    def launch(self, worker: str, like: str = "", events: bool = True) -> None:
        """A worker that consumes the queue of its own name, with the pool of ``like``."""
        pool = ARGUMENTS[like or worker]
        quiet = ["--without-gossip", "--without-mingle", "-l", "INFO", *(["-E"] if events else [])]
        self.run(worker, ["worker", "-n", worker, "-Q", queue_of(worker), *pool, *quiet], events)

    def run(self, name: str, argv: list[str], events: bool = True) -> None:
        env = os.environ | {"SHOP_BROKER": self.url, "SHOP_BACKEND": self.url, "PYTHONPATH": str(ROOT)}
        env |= {"SHOP_EVENTS": "1" if events else "0"}
        env.pop("DJANGO_SETTINGS_MODULE", None)
        argv = [sys.executable, "-m", "celery", "-A", "tests.shop", *argv]
        self.processes[name] = guarded(argv, self.folder / f"{name}.log", env=env, cwd=ROOT, grace=2)

    def answers(self, worker: str) -> None:
        wait_until(lambda: stats_of(worker, 1.0), 60, what=f"{worker}: {self.processes[worker].tail(5)}")

    @contextmanager
    def guest(self, like: str, name: str = "guest") -> Iterator[str]:
        """One more worker, with the pool of ``like``, that a test may restart and shut down."""
        guest = f"{name}@{HOST}"
        self.launch(guest, like)
        row_of(guest, like)
        try:
            self.answers(guest)
            yield guest
        finally:
            self.processes.pop(guest).stop()

    def restart(self, guest: str, like: str) -> None:
        """It has forgotten everything; its row says so, as the engine would write it."""
        self.gone(guest, ask=True)
        self.launch(guest, like)
        self.answers(guest)
        Worker.objects.filter(hostname=guest).update(
            status="online", pid=self.processes[guest].pid, online_at=time.time()
        )

    def gone(self, guest: str, ask: bool = False) -> None:
        if ask:
            self.processes[guest].ask_to_stop()
        wait_until(lambda: not self.processes[guest].running(), 20, what=f"the end of {guest}")

    @contextmanager
    def busy(self, worker: str, slots: int = 0, tells: bool = True) -> Iterator[list[str]]:
        """Tasks that run, in every slot of the worker or as many as named, until this is over.

        ``tells``: their events are waited for (a solo worker tells of the start when they have ended).
        """
        gate, slots = f"gate-{uuid4()}", slots or SLOTS[worker]
        uuids = [self.start("shop.gated", worker, self.url, gate) for _ in range(slots)]
        try:
            wait_until(
                lambda: int(self.client.get(f"{gate}-in") or 0) >= slots, 15, what="tasks in all slots"
            )
            if tells and worker != SOLO:
                self.began(*uuids)
            yield uuids
        finally:
            self.client.set(gate, "open", ex=600)
            if tells:
                wait_until(lambda: all(state_of(uuid) in ENDED for uuid in uuids), 15, what="their ends")

    def marking(self, worker: str, queue: str = "", **options: Any) -> str:
        """A task that leaves a mark if it runs; ``ran`` tells."""
        uuid = str(uuid4())
        self.start("shop.mark", worker, self.url, f"ran-{uuid}", queue=queue, task_id=uuid, **options)
        return uuid

    def ran(self, uuid: str) -> int:
        """How often, by its own mark."""
        return int(self.client.get(f"ran-{uuid}") or 0)

    def start(self, name: str, worker: str, *args: Any, queue: str = "", **options: Any) -> str:
        return str(self.app.send_task(name, args, queue=queue or queue_of(worker), **options).id)

    def works(self, worker: str) -> None:
        """It runs a task."""
        self.ended(self.start("shop.add", worker, 1, 2), "SUCCESS")

    def renewed(self, worker: str, before: Iterable[int] | None) -> None:
        """After ``pool_restart``: an old process goes only when it next takes a task, or has ended one."""
        old = set(before or ())

        def gone() -> bool:
            for _ in range(2 * len(old)):
                self.start("shop.nap", worker, 0.05)
            self.works(worker)
            return not old & set(seen_on([worker])[worker].processes or old)

        wait_until(gone, 15, what=f"the end of {worker}'s old processes")

    def ended(self, uuid: str, state: str) -> None:
        wait_until(lambda: state_of(uuid) == state, 15, what=f"{state} of {uuid} (is {state_of(uuid)})")

    def over(self, uuid: str) -> str:
        """How it ended."""
        wait_until(lambda: state_of(uuid) in ENDED, 15, what=f"the end of {uuid}")
        return state_of(uuid)

    def began(self, *uuids: str) -> None:
        wait_until(lambda: all(state_of(uuid) == "STARTED" for uuid in uuids), 15, what="the start of tasks")

    def held(self, worker: str, uuid: str, how: str) -> None:
        """Reserved or scheduled there, by the worker's own word."""
        wait_until(lambda: seen_on([worker])[worker].tasks.get(uuid) == how, 10, what=f"{uuid} {how} there")

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


def queue_of(worker: str) -> str:
    return worker.partition("@")[0]


def state_of(uuid: str) -> str:
    row = Task.objects.filter(uuid=uuid).first()
    return row.state if row else ""


@contextmanager
def watching(cluster: Cluster) -> Iterator[Cluster]:
    """Rows of the workers, and a listener that keeps the rows of tasks, as the engine does."""
    broker_module.configure(Broker(cluster.url, result_backend=cluster.url))
    cluster.up()
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
        queues=[queue_of(hostname)],
        autoscale_max=scale[0],
        autoscale_min=scale[1],
        details={"conf": {"worker_pool_restarts": True}},
    )


def told(*workers: str) -> None:
    """Their rows as a thorough look makes them."""
    for worker in workers:
        found = inspect_worker(worker, full=True)
        assert found is not None
        Worker.objects.filter(hostname=worker).update(
            details={"registered": found.registered, "conf": found.conf, "stats": found.stats},
            size=pool_size(found.stats),
            pid=(found.stats or {}).get("pid"),
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
            row.queue = getattr(event, "queue", None) or row.queue
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
