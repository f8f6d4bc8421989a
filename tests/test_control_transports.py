"""Asking workers over RabbitMQ, a unix socket and Sentinel; each with a real server and a real worker."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from demo.guard import guarded
from demo.valkey import Server, binary, free_port
from monitor import broker as broker_module
from monitor.broker import Broker
from monitor.control import discover, inspect_worker
from monitor.control.asking import Question, ask
from monitor.control.inspecting import seen_on
from monitor.source import RedisSource
from tests.conftest import ROOT, wait_until

pytestmark = pytest.mark.live

NAME = f"carried@{socket.gethostname()}"


@contextmanager
def worker(url: str, folder: Path, **options: str) -> Iterator[None]:
    """One worker on this broker; ``options`` are transport options."""
    (folder / "carried.py").write_text(
        "from tests.shop import app\n"
        f"app.conf.broker_url = {url!r}\napp.conf.broker_transport_options = {options!r}\n"
    )
    env = os.environ | {"SHOP_BROKER": url, "SHOP_BACKEND": "", "PYTHONPATH": f"{folder}:{ROOT}"}
    env.pop("DJANGO_SETTINGS_MODULE", None)
    argv = [sys.executable, "-m", "celery", "-A", "carried", "worker", "-P", "prefork", "-c", "2", "-n", NAME]
    argv += ["-E", "--without-gossip", "--without-mingle", "-l", "INFO"]
    process = guarded(argv, folder / "worker.log", env=env, cwd=ROOT, grace=1)
    try:
        wait_until(lambda: inspect_worker(NAME, timeout=1.0), 40, what=f"the worker: {process.tail()}")
        yield
    finally:
        broker_module.current().close()
        process.stop()


def every_question_is_answered() -> None:
    for _ in range(20):
        found = inspect_worker(NAME, full=True)
        assert found is not None
        parts = (found.stats, found.active, found.reserved, found.scheduled, found.conf, found.active_queues)
        assert None not in parts
    assert discover(0.5) == [(NAME, False)]
    assert inspect_worker("nobody@nowhere", timeout=0.3) is None
    broker = broker_module.current()
    (reply,) = ask(broker, [Question("pool_grow", {"n": 1}, (NAME,))], timeout=2)
    assert reply.ok and reply.text == "pool will grow"
    wait_until(lambda: len(seen_on([NAME])[NAME].processes or ()) == 3, 10)
    (reply,) = ask(
        broker, [Question("rate_limit", {"task_name": "no", "rate_limit": "1/s"}, (NAME,))], timeout=2
    )
    assert not reply.ok and "unknown task" in reply.text


def test_rabbitmq_carries_questions_and_replies(rabbitmq: str, tmp_path: Path) -> None:
    broker_module.configure(Broker(rabbitmq))
    with worker(rabbitmq, tmp_path):
        every_question_is_answered()


def test_under_a_key_prefix_replies_come_and_leave_nothing(own_valkey: Server, tmp_path: Path) -> None:
    broker_module.configure(Broker(own_valkey.url, key_prefix="shop:"))
    with worker(own_valkey.url, tmp_path, global_keyprefix="shop:"):
        every_question_is_answered()
        with redis.Redis.from_url(own_valkey.url) as client:
            wait_until(lambda: not [key for key in client.keys("*") if b"umbel" in key], 15)


def test_a_unix_socket_carries_questions_replies_and_events(tmp_path: Path) -> None:
    path = Path("/tmp") / f"umbel-{os.getpid()}.sock"  # a socket's path must be short
    argv = [str(binary()), "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)]
    server = guarded(argv, tmp_path / "valkey.log", cwd=tmp_path, grace=1)
    try:
        wait_until(path.exists, 10)
        url = f"redis+socket://{path}?virtual_host=2"
        broker_module.configure(Broker(f"unix://{path}?db=2"))
        with worker(url, tmp_path):
            every_question_is_answered()
            asyncio.run(an_event_comes())
    finally:
        server.stop()


def test_sentinel_names_the_server_for_questions_and_events(tmp_path: Path) -> None:
    port, watch = free_port(), free_port()
    common = ["--bind", "127.0.0.1", "--dir", str(tmp_path)]
    server = guarded(
        [str(binary()), "--port", str(port), "--save", "", *common],
        tmp_path / "valkey.log",
        cwd=tmp_path,
        grace=1,
    )
    config = tmp_path / "sentinel.conf"
    config.write_text(f"port {watch}\nbind 127.0.0.1\nsentinel monitor shop 127.0.0.1 {port} 1\n")
    sentinel = guarded(
        [str(binary()), str(config), "--sentinel"], tmp_path / "sentinel.log", cwd=tmp_path, grace=1
    )
    try:
        with redis.Redis(port=watch, socket_connect_timeout=1) as client:
            wait_until(lambda: _answers(client), 10)
        url = f"sentinel://127.0.0.1:{watch}/0"
        broker_module.configure(Broker(url, transport_options={"master_name": "shop"}))
        with worker(url, tmp_path, master_name="shop"):
            every_question_is_answered()
            asyncio.run(an_event_comes())
    finally:
        sentinel.stop()
        server.stop()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


async def an_event_comes() -> None:
    source = RedisSource(broker_module.current())
    came = asyncio.Event()
    runner = asyncio.create_task(source.run(lambda decoded, at: came.set(), lambda connected, why: None))
    await asyncio.wait_for(came.wait(), 15)
    source.stop()
    await asyncio.wait_for(runner, 5)
