"""The engine killed by SIGKILL in mid-flow: no stored row is lost, and what was missed is measured.

``UMBEL_SOAK=1`` kills fifty times, and ``UMBEL_SEED`` repeats a run.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.events import Sender, command
from bench.generator import Plan
from bench.load import Load, Publisher
from demo.valkey import Server
from monitor.cluster import Cluster
from monitor.cluster.losses import Losses
from monitor.events import decode_body
from monitor.records import Started, TaskRecord, WorkerRecord
from tests.conftest import ROOT, wait_until

KILLS = 50 if os.environ.get("UMBEL_SOAK") == "1" else 3
SEED = int(os.environ.get("UMBEL_SEED") or time.time())
WORKERS = 4
COUNTED_ENDS = {"SUCCESS", "FAILURE", "REVOKED"}

Key = tuple[str, str, int, int, float]  # kind, worker, pid, clock, time


class History:
    """What an Umbel in this folder has stored."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "data" / "umbel.sqlite3"

    def read(self, query: str) -> list[Any]:
        if not self.path.exists():
            return []
        database = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=30)
        try:
            return database.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []  # not migrated yet
        finally:
            database.close()

    def count(self) -> int:
        found = self.read("SELECT COUNT(*) FROM monitor_task")
        return int(found[0][0]) if found else 0

    def tasks(self) -> dict[str, tuple[str, set[Key]]]:
        """By uuid: the state, and the marks."""
        rows = self.read("SELECT uuid, state, marks FROM monitor_task")
        return {
            uuid: (state, {tuple(m[:5]) for m in msgspec.json.decode(marks)}) for uuid, state, marks in rows
        }

    def starts(self) -> Counter[str]:
        """Stored task-started by worker."""
        return Counter(key[1] for _, marks in self.tasks().values() for key in marks if key[0] == "started")

    def connected(self, since: float) -> bool:
        query = "SELECT json_extract(data, '$.connected') FROM monitor_feed WHERE at > "
        return self.read(f"{query}{since}") == [(1,)]

    def missed(self) -> dict[str, int]:
        return dict(self.read("SELECT hostname, missed FROM monitor_worker"))


@contextmanager
def engine(folder: Path, broker: str) -> Iterator[subprocess.Popen[bytes]]:
    """The engine as a process, without pages."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UMBEL_")}
    environment |= {
        "UMBEL_DATA": str(folder / "data"),
        "UMBEL_BROKER": broker,
        "DJANGO_SETTINGS_MODULE": "dashboard.settings",
        "PYTHONPATH": str(ROOT),
    }
    with (folder / "engine.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.engine"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait(10)


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def beat(broker: str, processed: dict[str, int], times: int) -> None:
    """More heartbeats of workers that rest, since a count is judged when two more are in."""
    publisher = Publisher(broker)
    for place, hostname in enumerate(sorted(processed)):
        sender = Sender(hostname, 1_000 + 10 * place)
        sender.clock, sender.processed = 10**9 + times, processed[hostname]
        text = sender.state("heartbeat", (0.1, 0.1, 0.1), time.time())
        publisher.publish([command(sender, "worker.heartbeat", text, f"beat-{place}-{times}")])
    publisher.settle()
    publisher.close()


@pytest.mark.live
def test_a_killed_engine_loses_no_stored_row_and_measures_what_it_missed(
    own_valkey: Server, tmp_path: Path
) -> None:
    sys.stdout.write(f"UMBEL_SEED={SEED}\n")
    rng = random.Random(SEED)
    history, broker = History(tmp_path), own_valkey.url
    (tmp_path / "data").mkdir(mode=0o700)
    away: list[tuple[float, float]] = []
    load = Load(broker, tmp_path / "load", Plan(rate=400, workers=WORKERS, seed=SEED))
    with load:
        begun = False
        for turn in range(KILLS):
            with engine(tmp_path, broker) as process:
                wait_until(partial(history.connected, time.time() - 0.1), 60, what="its connection")
                if away:
                    away[-1] = (away[-1][0], time.time())
                if not begun:
                    load.go()
                    begun = True
                    wait_until(lambda: len(history.missed()) == WORKERS, 30)
                before = history.count()
                wait_until(lambda before=before: history.count() > before, 30, what=f"rows in turn {turn}")
                threading.Event().wait(rng.uniform(0.0, 3.0))
                held = history.tasks()
                kill(process)
                away.append((time.time(), 0.0))
            after = history.tasks()
            assert history.read("PRAGMA quick_check") == [("ok",)]
            for uuid, (_, marks) in held.items():
                assert uuid in after, f"{uuid} was stored and is gone (seed {SEED})"
                assert marks <= after[uuid][1], f"{uuid} lost marks (seed {SEED})"
            threading.Event().wait(rng.uniform(0.0, 2.0))
        with engine(tmp_path, broker) as process:
            before = history.count()
            wait_until(lambda: history.count() > before, 60, what="rows after the last restart")
            away[-1] = (away[-1][0], time.time())
            threading.Event().wait(1.0)
            ledger = load.stop()
            truth = {host: count for host, count in ledger.started.items()}
            times = iter(range(1, 10_000))

            def measured() -> bool:
                beat(broker, truth, next(times))
                lost = {host: truth[host] - history.starts()[host] for host in truth}
                return history.missed() == lost

            try:
                wait_until(measured, 30, every=0.5, what="the exact number of missed starts")
            except AssertionError as error:
                lost = {host: truth[host] - history.starts()[host] for host in truth}
                raise AssertionError(f"missed {history.missed()}, truly {lost} (seed {SEED})") from error
            process.terminate()
            process.wait(60)
    assert sum(history.missed().values()) > 0, "nothing was missed while it was dead?"
    check_gaps(history, away)
    check_states(history, {line[0]: line[1] for line in ledger.tasks})
    check_counts(history)


def check_gaps(history: History, away: list[tuple[float, float]]) -> None:
    gaps = history.read("SELECT started_at, ended_at, reason FROM monitor_gap")
    for killed, back in away:
        assert any(begun <= killed and ended and ended <= back + 1 for begun, ended, _ in gaps), (
            f"no gap tells that Umbel was away from {killed} to {back}: {gaps} (seed {SEED})"
        )


def check_states(history: History, truth: dict[str, str]) -> None:
    """A row may not know its end, but what it says ended, ended so."""
    rows = history.read("SELECT uuid, state FROM monitor_task WHERE known = 'seen'")
    wrong = {u: (s, truth.get(u)) for u, s in rows if s in COUNTED_ENDS and truth.get(u, s) != s}
    assert not wrong, f"{wrong} (seed {SEED})"


def check_counts(history: History) -> None:
    """Counts are committed with the rows that they count."""
    ((counted,),) = history.read(
        "SELECT SUM(started) FROM monitor_rollup WHERE width = 10 AND \"by\" = 'all'"
    )
    assert counted == sum(history.starts().values()), f"seed {SEED}"


# The account of what was missed, over a restart


def killed_and_restarted(lose: range, restarts: set[int]) -> tuple[int, int]:
    """A worker runs 200 tasks; starts in ``lose`` are not heard. Gives what is called missed, and what is."""
    sender = Sender("a@h", 7)
    cluster, at = Cluster(), 1_790_000_000.0
    stored: dict[str, TaskRecord] = {}
    worker: list[WorkerRecord] = []
    told: set[int] = set()

    def hear(text: str) -> None:
        cluster.apply(decode_body(text, "application/json").events[0], at)

    def commit() -> None:
        if cold := list(cluster.cold()):
            cluster.absorb([stored[uuid] for uuid in cold if uuid in stored])
        for record in cluster.drain(at):
            if isinstance(record, TaskRecord):
                stored[record.uuid] = msgspec.structs.replace(record)
            elif isinstance(record, WorkerRecord):
                worker[:] = [msgspec.json.decode(msgspec.json.encode(record), type=WorkerRecord)]

    cluster.connected(at)
    hear(sender.state("online", (), at))
    for n in range(200):
        at += 0.25
        sender.processed += 1
        text = sender.started(f"t{n}", at)
        if n not in lose:
            told.add(n)
            hear(text)
        if n % 8 == 7:
            beat = sender.state("heartbeat", (), at)
            if n not in lose:
                hear(beat)
        cluster.tick(at)
        commit()
        if n in restarts:
            cluster = Cluster()
            starts = [
                Started(m.worker, m.pid, m.clock, record.uuid)
                for record in stored.values()
                for m in record.marks
                if m.kind == "started"
            ]
            cluster.restore(worker, list(stored.values()), at, starts)
            cluster.connected(at)
    for _ in range(3):
        at += 2.0
        hear(sender.state("heartbeat", (), at))
        cluster.tick(at)
        commit()
    return worker[0].missed, 200 - len(told)


@pytest.mark.parametrize(
    ("lose", "restarts"),
    [
        (range(0), {50}),
        (range(50, 90), {50}),
        (range(50, 90), {49, 55, 70, 89}),
        (range(48, 51), {49}),
        (range(80, 81), {3, 80, 81, 82}),
        (range(20, 180), {20, 100, 179}),
        (range(30, 33), {60}),
    ],
)
def test_what_was_missed_is_exact_over_restarts(lose: range, restarts: set[int]) -> None:
    missed, truly = killed_and_restarted(lose, restarts)
    assert missed == truly


def test_a_process_that_was_followed_by_another_leaves_its_account_behind() -> None:
    losses = Losses()
    losses.resume((100, 50, 2, 9.0), [Started("a@h", 7, n, str(n)) for n in (90, 101, 102)])
    assert [start.clock for start in losses.starts] == [101, 102]
    assert losses.account == (100, 50, 2, 9.0)
    for clock, processed in ((103, 52), (105, 52), (107, 52)):
        losses.beat(clock, processed)
    assert losses.missed == 2


@pytest.mark.parametrize(
    "kept", [None, 5, {"7": "x"}, {"7": [1, 2]}, {"x": [1, 2, 3, 4, 5]}, {"7": [1, -2, 3, 4, 5]}]
)
def test_an_account_that_cannot_be_read_is_begun_anew(kept: object) -> None:
    record = WorkerRecord("a@h", heartbeat_at=5.0, details={"losses": {"accounts": kept}})
    cluster = Cluster()
    cluster.restore([record], [], 10.0)
    assert cluster.workers.known["a@h"].accounts == {}
