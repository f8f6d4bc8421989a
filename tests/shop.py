"""The small Celery project of the live tests: quick, slow, failing, retrying and stubborn tasks."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery, Task
from celery.contrib.abortable import AbortableTask
from celery.exceptions import SoftTimeLimitExceeded
from celery.worker.control import control_command

app = Celery("shop", broker=os.environ.get("SHOP_BROKER"), backend=os.environ.get("SHOP_BACKEND") or None)
app.conf.update(
    task_send_sent_event=True,
    worker_send_task_events=os.environ.get("SHOP_EVENTS", "1") == "1",
    task_default_queue="celery",
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": int(os.environ.get("SHOP_VISIBLE", "43200"))},
    result_expires=600,
    result_extended=os.environ.get("SHOP_EXTENDED") == "1",
    worker_hijack_root_logger=False,
    worker_pool_restarts=True,
    # kombu's pools share one limit in a process: the same as the monitor's, which tests run beside.
    broker_pool_limit=16,
)


@control_command(name="go_deaf")
def go_deaf(state: Any, **kwargs: Any) -> dict[str, str]:
    """As after a broker restart that its consumer did not survive: it lists its queues, and takes nothing."""
    state.consumer.task_consumer.cancel()
    return {"ok": "deaf"}


@app.task(name="shop.add")
def add(x: int, y: int) -> int:
    return x + y


@app.task(name="shop.nap")
def nap(seconds: float, **kwargs: Any) -> float:
    time.sleep(seconds)
    return seconds


@app.task(name="shop.boom")
def boom(text: str = "no such order") -> None:
    raise ValueError(text)


@app.task(name="shop.flaky", bind=True, max_retries=5)
def flaky(self: Task, failures: int = 2, countdown: float = 0.2) -> int:
    """Fails so many times, then ends well."""
    if self.request.retries < failures:
        raise self.retry(exc=ConnectionError(f"try {self.request.retries + 1}"), countdown=countdown)
    return int(self.request.retries)


@app.task(name="shop.late", acks_late=True)
def late(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@app.task(name="shop.stubborn")
def stubborn(seconds: float) -> float:
    """Swallows the soft ways to be stopped; only SIGKILL ends it early."""
    import signal

    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGQUIT):
        signal.signal(name, signal.SIG_IGN)
    end = time.time() + seconds
    while time.time() < end:
        time.sleep(0.1)
    return seconds


@app.task(name="shop.goes_on")
def goes_on(seconds: float) -> float:
    """Catches the soft limit, cleans up for ever, and dies of SIGTERM."""
    end = time.time() + seconds
    while time.time() < end:
        try:
            time.sleep(0.1)
        except SoftTimeLimitExceeded:
            continue
    return seconds


@app.task(name="shop.patient", bind=True, base=AbortableTask)
def patient(self: AbortableTask, seconds: float) -> str:
    """Ends when it is aborted."""
    end = time.time() + seconds
    while time.time() < end:
        if self.is_aborted():
            return "stopped midway"
        time.sleep(0.1)
    return "whole"


@app.task(name="shop.total")
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(name="shop.mute", send_events=False)
def mute(x: int = 0) -> int:
    """Silent by design: the worker sends no event of it."""
    return x


@app.task(name="shop.mark")
def mark(url: str, key: str) -> int:
    """Leaves a mark that it ran."""
    import redis

    with redis.Redis.from_url(url) as client:
        return int(client.incr(key))


@app.task(name="shop.gated")
def gated(url: str, gate: str) -> int:
    """Says that it is in, and runs until the gate is opened."""
    import redis

    with redis.Redis.from_url(url) as client:
        turn = int(client.incr(f"{gate}-in"))
        while not client.exists(gate):
            time.sleep(0.02)  # the work of this task: to wait for its gate
        return turn
