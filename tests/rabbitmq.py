"""A private RabbitMQ node on ports of its own, for tests, which may restart it and rule over it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest
from celery import Celery

from demo.guard import Guarded, guarded
from demo.valkey import free_port
from tests.conftest import PATIENCE, need_program

# The scripts on the PATH want to be the user rabbitmq; these run as whoever calls them.
PRIVATE = Path("/usr/lib/rabbitmq/bin")


class Node:
    """``with Node(folder) as node:`` runs it, in about six seconds. Ports and data survive ``restart``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._program = _script("rabbitmq-server")
        port = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{port}//"
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{port}\nloopback_users.guest = true\n"
        )
        (folder / "enabled_plugins").write_text("[].\n")
        self._environment = os.environ | {
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
        self._running: Guarded | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if epmd := shutil.which("epmd"):
            # The port daemon that this node alone has brought up, on a port of its own.
            argv = [epmd, "-kill"]
            subprocess.run(argv, env=self._environment, capture_output=True, check=False, timeout=5)

    def start(self) -> None:
        log = self.folder / "node.log"
        running = guarded([self._program], log, env=self._environment, cwd=self.folder, grace=3)
        self._running = running
        probe = Celery("probe", broker=self.url, set_as_current=False)
        end = time.monotonic() + 60 * PATIENCE
        while True:
            with suppress(OSError), probe.connection_for_read(connect_timeout=1) as connection:
                connection.connect()
                return
            if time.monotonic() > end or not running.running():
                pytest.fail(f"RabbitMQ did not start:\n{running.tail(30)}")
            time.sleep(0.1)

    def stop(self) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None

    def evaluate(self, erlang: str) -> str:
        """What the node answers to one Erlang expression; a second or two, most of it ``rabbitmqctl``."""
        argv = [_script("rabbitmqctl"), "--quiet", "eval", erlang]
        done = subprocess.run(
            argv, env=self._environment, cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(argv)}:\n{done.stdout}{done.stderr}"
        return done.stdout


def _script(name: str) -> str:
    program = need_program(name, package="rabbitmq-server")
    return str(PRIVATE / name) if (PRIVATE / name).exists() else program
