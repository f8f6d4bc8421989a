"""A private RabbitMQ node on ports of its own, for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from celery import Celery

from demo.guard import guarded
from demo.valkey import free_port
from tests.conftest import PATIENCE, need_program


@contextmanager
def node(folder: Path) -> Iterator[str]:
    """The URL of a node that lives in ``folder``; about six seconds to start."""
    program = need_program("rabbitmq-server", package="rabbitmq-server")
    # The script on the PATH wants to be the user rabbitmq; this one runs as whoever calls it.
    private = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    port = free_port()
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{port}\nloopback_users.guest = true\n"
    )
    (folder / "enabled_plugins").write_text("[].\n")
    environment = os.environ | {
        "HOME": str(folder),
        "RABBITMQ_NODENAME": f"umbel{port}@localhost",
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "ERL_EPMD_PORT": str(free_port()),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }
    argv = [str(private) if private.exists() else program]
    running = guarded(argv, folder / "node.log", env=environment, cwd=folder, grace=3)
    url = f"amqp://guest:guest@127.0.0.1:{port}//"
    probe = Celery("probe", broker=url, set_as_current=False)
    end = time.monotonic() + 60 * PATIENCE
    try:
        while True:
            with suppress(OSError), probe.connection_for_read(connect_timeout=1) as connection:
                connection.connect()
                break
            if time.monotonic() > end or not running.running():
                pytest.fail(f"RabbitMQ did not start:\n{running.tail(30)}")
            time.sleep(0.1)
        yield url
    finally:
        running.stop()
        if epmd := shutil.which("epmd"):
            # The port daemon that this node alone has brought up, on a port of its own.
            subprocess.run([epmd, "-kill"], env=environment, capture_output=True, check=False, timeout=5)


_running: list[str] = []


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One node for all modules that import this fixture; take names of your own."""
    if _running:
        yield _running[0]
        return
    with node(tmp_path_factory.mktemp("rabbitmq")) as url:
        _running.append(url)
        yield url
        _running.clear()
