"""Who reads the events: Umbel in three ways, Flower, Celery's State, and the raw limit; each a process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis

from bench.ledger import Ledger, Line, Verdict, check, rows_of
from bench.report import ROOT, Engine, Status, cpu, last_status, program, python, rss, say, umbel_env, until
from demo.guard import Guarded, guarded
from demo.valkey import free_port

FLOWER = ("flower==2.2.*", "celery[redis]==5.7.*", "hiredis")
QUIET = 0.12  # of a core: what uses less has nothing to do


class Contender(ABC):
    """One reader under measurement. ``start``, then ``caught_up`` after a load, ``verdict``, ``stop``."""

    name = ""
    rate = 15_000.0  # events a second at which its CPU is measured
    guess = 50_000.0  # events a second that it may keep up with
    most = 10**9  # events that are enough to measure it

    def __init__(self, folder: Path, broker: str, database: str = "") -> None:
        self.folder, self.broker, self.database = folder, broker, database
        self.log = folder / "log"
        self.final = folder / "final.json"
        self.process: Guarded | None = None

    @abstractmethod
    def start(self) -> None:
        """Runs it, and waits until it listens."""

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop(70)
            self.process = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def cpu(self) -> float:
        return cpu(self.pid)

    def rss(self) -> float:
        return rss(self.pid)

    def seen(self) -> int:
        return last_status(self.log).seen

    def caught_up(self, expected: int, timeout: float) -> tuple[float, float, float]:
        """Waits until all is read, applied and written, or nothing more comes.

        Answers when that was (time.time()), then the CPU seconds used until, and the time they were read at.
        """
        same, first, end = 0, 0.0, time.monotonic() + timeout
        still, before = 0, -1
        last_at = 0.0
        while True:
            status = last_status(self.log)
            if status.at > last_at:
                last_at = status.at
                finished = status.seen >= expected and status.waiting == 0
                still = still + 1 if status.seen == before and status.waiting == 0 else 0
                before = status.seen
                first = first if finished and same else status.at
                same = same + 1 if finished else 0
                # A write that is under way shows in the next line at the latest; silence ends it too.
                if same >= 3 or still >= 12 or time.monotonic() > end:
                    return first, status.cpu, status.at
            time.sleep(0.05)  # its lines come four times a second

    def verdict(self, ledger: Ledger) -> Verdict:
        return check(ledger, self.rows())

    def rows(self) -> list[Line]:
        """Its last word on every task; may stop it."""
        self.stop()
        if not self.final.exists():
            raise RuntimeError(f"{self.name} left no last word: {last_words(self.log)}")
        return [tuple(row) for row in json.loads(self.final.read_text())]

    def _run(self, argv: list[str], env: dict[str, str]) -> None:
        self.log.unlink(missing_ok=True)
        self.process = guarded(argv, self.log, env=env, cwd=ROOT, grace=60)
        until(self._is_connected, 60, f"the start of {self.name}")

    def _is_connected(self) -> bool:
        assert self.process is not None
        if not self.process.running():
            raise RuntimeError(f"{self.name} ended at its start: {self.process.tail(20)}")
        return last_status(self.log).extra.get("connected") is True


class Umbel(Contender):
    """The engine alone, history as the name says."""

    name = "umbel-sqlite"
    history = "sqlite"
    guess = 40_000.0

    def __init__(self, folder: Path, broker: str, database: str = "") -> None:
        super().__init__(folder, broker, database)
        self.log = folder / "engine.log"
        self.engine = Engine(folder, broker, self.history, database)

    def start(self) -> None:
        if self.database:
            _emptied(self.database)
        self.again()

    def again(self) -> None:
        """With the history that is there."""
        self.engine.__enter__()
        self.process = self.engine.process

    def status(self) -> Status:
        return last_status(self.log)

    def rows(self) -> list[Line]:
        return rows_of(self.folder, self.database)


class UmbelPostgres(Umbel):
    name = "umbel-postgresql"
    history = "postgresql"


class UmbelOff(Umbel):
    name = "umbel-off"
    history = "off"
    guess = 60_000.0

    def rows(self) -> list[Line]:
        return Contender.rows(self)


class RawLimit(Contender):
    name = "raw"
    guess = 80_000.0

    def start(self) -> None:
        self._run(python("-m", "bench.raw_limit", str(self.final)), _env(self.folder, self.broker))

    def verdict(self, ledger: Ledger) -> Verdict:
        """It keeps no task: its counts of each type of event are held against the ledger's."""
        self.stop()
        found: dict[str, int] = json.loads(self.final.read_text())
        verdict = Verdict(kinds={}, examples=[])
        for kind, count in ledger.kinds.items():
            verdict.right += min(count, found.get(kind, 0))
            verdict.missing += max(0, count - found.get(kind, 0))
            verdict.extra += max(0, found.get(kind, 0) - count)
        return verdict


class CeleryState(Contender):
    name = "celery-state"
    rate = 6_000.0
    guess = 10_000.0
    most = 60_000

    def start(self) -> None:
        argv = [str(flower_python()), "-P", str(ROOT / "bench" / "celery_state.py"), str(self.final)]
        self._run(argv, _env(self.folder, self.broker))


class Flower(Contender):
    """Flower 2.2 as installed by pip, its defaults, and its API open to this machine."""

    name = "flower"
    rate = 3_000.0
    guess = 5_000.0
    most = 30_000

    def start(self) -> None:
        self.port = free_port()
        argv = [str(flower_python()), "-P", "-m", "celery", "-b", self.broker, "flower"]
        argv += [f"--port={self.port}", "--address=127.0.0.1", "--max_tasks=1000000"]
        env = _env(self.folder, self.broker) | {"FLOWER_UNAUTHENTICATED_API": "true"}
        self.log.unlink(missing_ok=True)
        self.process = guarded(argv, self.log, env=env, cwd=self.folder, grace=3)
        until(lambda: self._answers("/healthcheck"), 60, "Flower's start")
        with redis.Redis.from_url(self.broker) as client:
            until(lambda: client.pubsub_numpat() > 0, 30, "Flower's subscription")

    def seen(self) -> int:
        """It does not say, but on a page that costs it more than the events."""
        return 0

    def caught_up(self, expected: int, timeout: float) -> tuple[float, float, float]:
        """When it has nothing to do and the broker holds nothing back for it, it has caught up."""
        end = time.monotonic() + timeout
        with redis.Redis.from_url(self.broker) as client:
            while True:
                began, used = time.time(), self.cpu()
                time.sleep(0.5)  # the span in which it has to be quiet
                quiet = self.cpu() - used < QUIET * 0.5 and not _unread(client)
                if quiet or time.monotonic() > end:
                    return began, self.cpu(), time.time()

    def rows(self) -> list[Line]:
        listed: dict[str, Any] = json.loads(self._get("/api/tasks", 300))
        return [
            (uuid, task["state"], task.get("name"), task.get("worker"), task.get("retries") or 0)
            for uuid, task in listed.items()
        ]

    def _answers(self, path: str) -> bool:
        assert self.process is not None
        if not self.process.running():
            raise RuntimeError(f"Flower ended at its start: {self.process.tail(20)}")
        with suppress(urllib.error.URLError, OSError):
            return bool(self._get(path, 2))
        return False

    def _get(self, path: str, timeout: float) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout) as answer:
            return bytes(answer.read())


CONTENDERS: dict[str, type[Contender]] = {
    kind.name: kind for kind in (Umbel, UmbelPostgres, UmbelOff, Flower, CeleryState, RawLimit)
}


def last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if not line.startswith('{"seen"')]
    return "\n".join(lines[-12:])


def flower_python() -> Path:
    """The interpreter of the environment that Flower is in; made once, in .umbel/bench."""
    place = ROOT / ".umbel" / "bench" / "flower"
    found, ready = place / "bin" / "python", place / ".ready"
    if not ready.exists():
        say("Installing Flower 2.2 and Celery 5.7 into an environment of their own …")
        place.parent.mkdir(parents=True, exist_ok=True)
        made = subprocess.run(
            [sys.executable, "-m", "venv", "--clear", str(place)], capture_output=True, check=False
        )
        pip = [str(found), "-m", "pip"]
        if made.returncode:
            # Debian's Python without python3-venv: this interpreter's pip can fill an empty one.
            subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(place)], check=True)
            pip = [sys.executable, "-m", "pip", "--python", str(found)]
        install = [*pip, "install", "-q", "--disable-pip-version-check", *FLOWER]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"Flower could not be installed: {done.stderr[-800:]}")
        ready.touch()
    return found


def _env(folder: Path, broker: str) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    return umbel_env(folder, broker) | {"BENCH_BROKER": broker}


def _unread(client: Any) -> int:
    """Bytes that the broker holds back for its slowest subscriber."""
    return max((int(one["omem"]) for one in client.client_list("pubsub")), default=0)


def _emptied(database: str) -> None:
    import psycopg

    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


def needs_postgresql(name: str) -> bool:
    if name == UmbelPostgres.name:
        program("postgres", "postgresql")
        return True
    return False
