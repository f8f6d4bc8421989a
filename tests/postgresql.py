"""A private PostgreSQL server on a port of its own, for tests, which may kill it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from demo.guard import Guarded, guarded
from demo.valkey import free_port
from tests.conftest import need_program, wait_until

# PostgreSQL refuses to run as root.
USER = {"user": "nobody"} if os.geteuid() == 0 else {}


class Server:
    """``with Server() as server:`` runs it. Data survive ``kill`` and ``start``, and end with the block."""

    def __init__(self) -> None:
        self._initdb = need_program("initdb", package="postgresql")
        self._postgres = need_program("postgres", package="postgresql")
        # pytest's own temporary folders are closed to the user nobody.
        self.folder = Path(tempfile.mkdtemp(prefix="umbel-postgresql-"))
        self.port = free_port()
        self.url = f"postgres://umbel@127.0.0.1:{self.port}/postgres"
        self._running: Guarded | None = None

    def __enter__(self) -> Self:
        if USER:
            shutil.chown(self.folder, USER["user"])
        argv = [self._initdb, "-D", str(self.folder / "data"), "-U", "umbel", "-A", "trust"]
        made = subprocess.run(
            [*argv, "-E", "UTF8", "--no-locale", "--no-sync"],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
            **USER,
        )
        assert made.returncode == 0, made.stderr
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._running is not None:
            self._running.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        argv = [self._postgres, "-D", str(self.folder / "data"), "-p", str(self.port), "-k", str(self.folder)]
        # What it has committed is in the hands of the system, and outlives a kill.
        argv += ["-h", "127.0.0.1", "-c", "fsync=off"]
        argv += ["-c", "full_page_writes=off"]
        if USER:
            argv = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *argv]
        log = self.folder / "postgresql.log"
        log.unlink(missing_ok=True)
        running = self._running = guarded(argv, log, cwd=self.folder, grace=3)
        wait_until(
            lambda: "ready to accept connections" in running.tail() or not running.running(),
            60,
            what="the start of PostgreSQL",
        )
        assert running.running(), running.tail(30)

    def kill(self) -> None:
        """SIGKILL to all of it, as when the machine dies."""
        assert self._running is not None
        self._running.kill()
        self._running = None
