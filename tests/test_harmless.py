"""Umbel changes nothing that it watches: no message moves, no task starts twice, no key stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from demo.guard import guarded
from demo.valkey import Server
from monitor import broker as broker_module
from monitor.broker import Broker
from monitor.control import discover, inspect_worker
from monitor.control.inspecting import stats_of
from tests.conftest import ROOT, wait_until

pytestmark = pytest.mark.live

NAME = f"harm@{socket.gethostname()}"

# A monitor as a process of its own: listens, and inspects without end.
MONITOR = """
import asyncio, sys, threading
import django; django.setup()
from monitor import broker
from monitor.broker import Broker
from monitor.control import discover, inspect_worker
from monitor.control.inspecting import stats_of
from monitor.source import RedisSource
b = Broker(sys.argv[1], transport_options={"visibility_timeout": 1}); broker.configure(b)
def look():
    print("looking", discover(0.3), flush=True)
    while True:
        inspect_worker(sys.argv[2], full=True)
threading.Thread(target=look, daemon=True).start()
asyncio.run(RedisSource(b).run(lambda d, at: None, lambda c, r: None))
"""


@pytest.fixture
def server(own_valkey: Server, tmp_path: Path) -> Iterator[Server]:
    """A Valkey with one worker, visibility timeout 3600."""
    env = os.environ | {"SHOP_BROKER": own_valkey.url, "SHOP_BACKEND": "", "PYTHONPATH": str(ROOT)}
    env.pop("DJANGO_SETTINGS_MODULE", None)
    argv = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "tests.shop",
        "worker",
        "-P",
        "prefork",
        "-c",
        "2",
        "-n",
        NAME,
    ]
    argv += ["-Q", "harm", "-E", "--without-gossip", "--without-mingle", "-l", "INFO"]
    process = guarded(argv, tmp_path / "worker.log", env=env, cwd=ROOT, grace=1)
    broker_module.configure(Broker(own_valkey.url, transport_options={"visibility_timeout": 1}))
    wait_until(lambda: inspect_worker(NAME, timeout=1.0), 40, what=f"the worker: {process.tail()}")
    yield own_valkey
    broker_module.current().close()
    process.stop()


def state(client: redis.Redis) -> dict[str, Any]:
    """What Umbel must not change. The queue of waiting messages, those under way, and every key."""
    keys: Any = client.keys("*")
    return {
        "unacked": client.hgetall("unacked"),
        "index": dict(client.zrange("unacked_index", 0, -1, withscores=True)),  # type: ignore[arg-type]
        "waiting": client.llen("harm") + client.llen("nobody-takes"),
        "keys": sorted(key.decode() for key in keys),
    }


def test_five_hundred_looks_restarts_and_a_kill_change_nothing(server: Server) -> None:
    app = Celery("client", broker=server.url, set_as_current=False)
    late = app.send_task("shop.late", [120], queue="harm")
    app.send_task("shop.nap", [0.01], queue="harm", countdown=3600)
    app.send_task("shop.add", [1, 2], queue="nobody-takes")
    client = redis.Redis.from_url(server.url)
    # One that runs unacknowledged, one held for its ETA, and one that waits.
    wait_until(
        lambda: (found := inspect_worker(NAME)) and found.active and found.scheduled,
        10,
        what="the tasks",
    )
    wait_until(lambda: client.hlen("unacked") >= 2, 5)
    wait_until(lambda: not client.keys("umbel.*"), 45, every=0.2)
    before = state(client)
    received = received_count(server)

    for _ in range(400):
        assert stats_of(NAME) is not None
    for _ in range(100):
        found = inspect_worker(NAME)
        assert found is not None and found.active is not None and found.stats is not None
        assert [task["id"] for task in found.active] == [late.id]
    assert discover(0.3) == [(NAME, False)]

    env = os.environ | {"PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": "tests.settings"}
    argv = [sys.executable, "-c", MONITOR, server.url, NAME]
    monitors = [subprocess.Popen(argv, env=env, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    for monitor, how in zip(monitors, (signal.SIGTERM, signal.SIGKILL), strict=True):
        with monitor:
            assert monitor.stdout is not None and b"looking" in monitor.stdout.readline()
            time.sleep(0.2)  # somewhere in the middle of a look
            monitor.send_signal(how)
            monitor.wait(30)

    def unchanged() -> bool:
        return state(client) == before

    wait_until(unchanged, 60, every=0.25, what=f"{before} again, not {state(client)}")
    assert received_count(server) == received
    client.close()


def received_count(server: Server) -> int:
    """How many tasks the worker ever took: a message put back would be taken again."""
    found = inspect_worker(NAME)
    assert found is not None
    return len(found.active or []) + len(found.reserved or []) + len(found.scheduled or [])


def test_a_reply_that_comes_too_late_leaves_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.control.asking.ADDRESS_TTL", 1)
    client = redis.Redis.from_url(server.url)
    pid = (inspect_worker(NAME) or pytest.fail("silent")).stats["pid"]
    wait_until(lambda: not client.keys("umbel.*"), 45, every=0.2)
    before = set(client.keys("*"))  # type: ignore[arg-type]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert inspect_worker(NAME, timeout=0.3) is None
        wait_until(lambda: not client.keys("umbel.*"), 45, every=0.2)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: inspect_worker(NAME), 10)
    wait_until(lambda: set(client.keys("*")) == before, 45, every=0.2)  # type: ignore[arg-type]
    client.close()
