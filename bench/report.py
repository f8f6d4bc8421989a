"""What every bench shares: options in, rows out, and the servers and processes that are measured."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from demo import valkey as valkey_server
from demo.guard import Guarded, guarded
from demo.valkey import free_port

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """``quick`` asks for smaller sizes, not for other things. ``folder`` is the run's own, on a real disk."""

    quick: bool
    folder: Path
    seed: int = 1

    def part(self, name: str) -> Path:
        """A new empty folder of this run."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``measured``, ``flower`` and ``raw`` are in ``unit``; None: not measured.

    ``must`` says the bound in words; ``met`` is None where the row is there for comparison only.
    ``ratio`` is of Umbel to Flower, larger is better for Umbel.
    """

    name: str
    must: str
    measured: float | str | None
    unit: str
    met: bool | None = None
    note: str = ""
    flower: float | str | None = None
    raw: float | str | None = None
    ratio: float | None = None
    state: float | str | None = None  # Celery's own Receiver and State


COLUMNS = ("", "must", "Umbel", "Flower 2.2", "Celery State", "raw limit", "ratio", "met")


def table(rows: Sequence[Row]) -> str:
    """A Markdown table that also reads well in a terminal; columns that hold nothing are left out."""
    cells = [COLUMNS, *(_cells(row) for row in rows)]
    used = [column for column in range(len(COLUMNS)) if not column or any(line[column] for line in cells[1:])]
    widths = {column: max(len(line[column]) for line in cells) for column in used}
    lines = [
        "| " + " | ".join(line[column].ljust(widths[column]) for column in used) + " |" for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (widths[column] + 2) for column in used) + "|")
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    unit = f" {row.unit}" if row.unit else ""
    values = [
        shown(value) + (unit if value is not None and not isinstance(value, str) else "")
        for value in (row.measured, row.flower, row.state, row.raw)
    ]
    ratio = "" if row.ratio is None else f"{shown(row.ratio)} ×"
    met = {True: "yes", False: "NO", None: ""}[row.met]
    return (row.name, row.must, *values, ratio, met)


def shown(value: float | str | None) -> str:
    """A number with three digits that count, and thousands apart."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def share(part: int, whole: int) -> str:
    """Per cent, rounded down: all is said of all only."""
    return "100 %" if part == whole else f"{part * 10_000 // max(1, whole) / 100:.2f} %"


def say(text: str) -> None:
    """A line of progress, apart from the table."""
    print(text, file=sys.stderr, flush=True)


# figures


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def until(true: Callable[[], T], timeout: float, what: str, every: float = 0.05) -> T:
    """Polls until ``true()`` is true and answers it; raises TimeoutError at the deadline."""
    end = time.monotonic() + timeout
    while not (value := true()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come within {timeout:g} s.")
        time.sleep(every)
    return value


# processes


def end_cleanly() -> None:
    """At SIGTERM leave as at Ctrl-C: servers stopped, folders removed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def cpu(pid: int) -> float:
    """Seconds of user and system CPU that a process and its living children have used."""
    total = 0.0
    for one in tree(pid):
        with suppress(OSError, IndexError):
            # The name, in brackets, may hold spaces.
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def rss(pid: int) -> float:
    """MiB of resident memory of a process and its children."""
    total = 0
    for one in tree(pid):
        with suppress(OSError, IndexError):
            for line in Path(f"/proc/{one}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1])
    return total / 1024


def tree(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        for listed in Path(f"/proc/{one}/task").glob("*/children"):
            with suppress(OSError):
                found += [int(child) for child in listed.read_text().split()]
    return found


@contextmanager
def running(
    argv: Sequence[str],
    log: Path,
    *,
    env: dict[str, str] | None = None,
    cwd: Path = ROOT,
    grace: float = 15.0,
) -> Iterator[Guarded]:
    """A process that ends with the block, or with the bench however that ends; ``.pid`` is its own."""
    process = guarded([*argv], log, env=env, cwd=cwd, grace=grace)
    try:
        yield process
    finally:
        process.stop(grace + 4)


def python(*argv: str) -> list[str]:
    return [sys.executable, "-P", *argv]


# servers


@contextmanager
def valkey(folder: Path) -> Iterator[valkey_server.Server]:
    """A broker of one's own, limits as Redis has them by default; ``.url`` and ``.pid``."""
    server = valkey_server.start(folder / "valkey")
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """The URL of a PostgreSQL of one's own, durable as an operator would run it, on loopback."""
    initdb, postgres = program("initdb", "postgresql"), program("postgres", "postgresql")
    # PostgreSQL refuses to run as root.
    root = os.geteuid() == 0
    place = folder / "postgresql"
    place.mkdir(parents=True, exist_ok=True)
    if root:
        shutil.chown(place, "nobody", "nogroup")
        for parent in place.parents:
            if not parent.stat().st_mode & 0o001:
                raise RuntimeError(
                    f"The user nobody cannot reach {place}: choose another folder with --folder."
                )
    data, port = place / "data", free_port()
    argv = [initdb, "-D", str(data), "-U", "umbel", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
    as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if root else []
    made = subprocess.run([*as_nobody, *argv], cwd=place, capture_output=True, text=True, check=False)
    if made.returncode:
        raise RuntimeError(f"initdb failed: {made.stderr[-500:]}")
    argv = [postgres, "-D", str(data), "-p", str(port), "-k", str(place), "-h", "127.0.0.1"]
    argv += ["-c", "max_wal_size=4GB", "-c", "shared_buffers=512MB"]
    with running([*as_nobody, *argv], folder / "postgresql.log", cwd=place) as server:
        until(lambda: "ready to accept" in server.tail() or not server.running(), 60, "PostgreSQL's start")
        if not server.running():
            raise RuntimeError(f"PostgreSQL did not start: {server.tail(30)}")
        yield f"postgres://umbel@127.0.0.1:{port}/postgres"


def program(name: str, package: str) -> str:
    places = [
        os.environ.get("PATH", os.defpath),
        "/usr/sbin",
        *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"))),
    ]
    if found := shutil.which(name, path=os.pathsep.join(places)):
        return found
    raise RuntimeError(f"{name} is not installed (on Debian: apt install {package}).")


def umbel_env(folder: Path, broker: str, database: str = "") -> dict[str, str]:
    """The environment of an Umbel of the bench's own; without ``database`` SQLite in ``folder/data``."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("UMBEL_", "DJANGO_"))}
    env |= {
        "UMBEL_DATA": str(folder / "data"),
        "UMBEL_BROKER": broker,
        "DJANGO_SETTINGS_MODULE": "dashboard.settings",
    }
    if database:
        env["UMBEL_DATABASE"] = database
    return env | {"PYTHONPATH": str(ROOT)}


@dataclass(slots=True)
class Status:
    """What a contender last said of itself, one JSON line each quarter of a second (see bench/engine.py)."""

    seen: int = 0  # events read
    waiting: int = 0  # events or records that are not yet applied and written
    lost: int = 0  # events dropped, and known to be
    cpu: float = 0.0  # seconds, its own clock of user and system time
    at: float = 0.0  # time.time() of the line
    extra: dict[str, Any] = field(default_factory=dict)


class Engine:
    """An Umbel engine without pages in a process of its own: ``with Engine(folder, url) as engine``.

    ``history``: sqlite, postgresql (give ``database``) or off. ``status()`` is its last line.
    """

    def __init__(self, folder: Path, broker: str, history: str = "sqlite", database: str = "") -> None:
        self.folder, self.history = folder, history
        self.env = umbel_env(folder, broker, database)
        self.log = folder / "engine.log"
        self.profile: Path | None = None  # where bench.sampling wants what it saw
        self.process: Guarded | None = None

    def __enter__(self) -> Engine:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        argv = python(
            "-m", "bench.engine", "--history", self.history, "--final", str(self.folder / "final.json")
        )
        if self.profile is not None:
            argv += ["--profile", str(self.profile)]
        self.process = guarded(argv, self.log, env=self.env, cwd=ROOT, grace=60)
        try:
            until(self._ready, 60, "the engine's start")
        except TimeoutError as error:
            tail = self.process.tail()
            self.stop()
            raise RuntimeError(f"{error} Its last words:\n{tail}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _ready(self) -> bool:
        assert self.process is not None
        if not self.process.running():
            raise RuntimeError(f"The engine ended: {self.process.tail(20)}")
        return self.status().extra.get("connected") is True

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def status(self) -> Status:
        return last_status(self.log)

    def stop(self) -> None:
        """Clean: what it heard is written."""
        if self.process is not None:
            self.process.stop(64)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()


def last_status(log: Path) -> Status:
    """The last whole line of JSON in a log, if there is one."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 8_192))
        for line in reversed(file.read().split(b"\n")[:-1]):
            if line.startswith(b'{"seen"'):
                with suppress(ValueError):
                    return Status(**json.loads(line))
    return Status()


def machine() -> str:
    """The machine in a line, without its name."""
    model, count = "unknown processor", os.cpu_count()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kernel, interpreter = os.uname().release.split("-")[0], sys.version.split()[0]
    return f"{count} × {model}, {memory:.0f} GiB, Linux {kernel}, Python {interpreter}"
