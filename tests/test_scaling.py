"""The engine and the pages apart: what refuses, what hands over, what meets a schema newer than itself."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from dashboard.process import database
from demo import valkey
from demo.guard import guarded
from tests.conftest import PATIENCE, wait_until
from tests.scaling import Process, Web, environment, monitor, until


@pytest.mark.parametrize("command", [["umbel", "web"], ["uvicorn", "dashboard.asgi:application"]])
def test_pages_apart_say_how_they_would_hear_of_changes(tmp_path: Path, command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", *command, "--port", "0"],
        env=environment(tmp_path, UMBEL_BROKER="redis://127.0.0.1:1"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "umbel: umbel web hears of changes through a Redis" in done.stderr
    assert "--channels redis://host:6379/0" in done.stderr


@pytest.mark.django_db(transaction=True)
def test_a_schema_newer_than_this_process_is_left_as_it_is() -> None:
    recorder = MigrationRecorder(connection)
    recorder.record_applied("monitor", "0099_of_a_later_umbel")
    try:
        database.prepare()
        assert ("monitor", "0099_of_a_later_umbel") in recorder.applied_migrations()
    finally:
        recorder.record_unapplied("monitor", "0099_of_a_later_umbel")


@pytest.mark.django_db(transaction=True)
def test_processes_that_start_together_migrate_one_at_a_time() -> None:
    """An empty database is met by whoever comes first; see also the live test, where six come at once."""
    order: list[str] = []
    import threading

    def other() -> None:
        with database.alone():
            order.append("second")

    with database.alone():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]


@pytest.fixture
def on_sqlite(tmp_path: Path, valkey: valkey.Server) -> Iterator[list[Process]]:
    """Two monitors on one machine and one file."""
    env = environment(tmp_path, UMBEL_BROKER=valkey.url, UMBEL_CHANNELS=valkey.url)
    both = [monitor(f"monitor{n}", tmp_path, env) for n in range(2)]
    for one in both:
        one.start()
    yield both
    for one in both:
        one.end()


def _lease(folder: Path) -> tuple[str, int]:
    with closing(sqlite3.connect(f"file:{folder / 'data' / 'umbel.sqlite3'}?mode=ro", uri=True)) as stored:
        rows = stored.execute("SELECT holder, epoch FROM monitor_lease").fetchall()
    return rows[0] if rows else ("", 0)


def _freeze_between_writes(leader: Process, folder: Path) -> None:
    """A process that is frozen in the middle of a write keeps the file's one write lock, until it goes on."""
    path = folder / "data" / "umbel.sqlite3"
    with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as stored:
        stored.execute("BEGIN IMMEDIATE")
        leader.freeze()
        stored.execute("ROLLBACK")


@pytest.mark.live
@pytest.mark.alone
def test_on_sqlite_the_second_takes_over_and_a_stop_is_clean(
    tmp_path: Path, on_sqlite: list[Process]
) -> None:
    for one in on_sqlite:
        one.says("Umbel's monitor is")
    holder, epoch = wait_until(lambda: (found := _lease(tmp_path))[0] and found)
    leader = next(one for one in on_sqlite if f":{one.pid}:" in holder)
    other = next(one for one in on_sqlite if one is not leader)
    other.says("it listens")
    _freeze_between_writes(leader, tmp_path)
    until(lambda: _lease(tmp_path)[1] == epoch + 1, 5.0, "the next leader")
    before = leader.said()
    leader.thaw()
    leader.says("it listens", before)
    other.ask_to_stop()
    assert other.running is not None
    assert other.running.wait(10) == 0
    until(lambda: _lease(tmp_path)[1] == epoch + 2, 5.0 * PATIENCE, "the leader that was asked to stop")
    assert "Traceback" not in other.said()


@pytest.mark.live
def test_umbel_alone_says_that_another_has_its_database(tmp_path: Path, valkey: valkey.Server) -> None:
    env = environment(tmp_path, UMBEL_BROKER=valkey.url)
    argv = [sys.executable, "-P", "-m", "umbel", "--port", "0"]
    first = guarded(argv, tmp_path / "first.log", env=env, cwd=tmp_path, grace=12)
    try:
        wait_until(lambda: "Ctrl-C stops it" in first.tail(40), 30)
        second = subprocess.run(
            argv, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert second.returncode == 2
        assert "umbel: Another Umbel (" in second.stderr
        assert "watches into this database already" in second.stderr
        assert f":{first.pid})" in second.stderr
        assert first.running()
        # After it was killed the next one need not wait.
        os.kill(first.pid, signal.SIGKILL)
    finally:
        first.stop(15)
    third = guarded(argv, tmp_path / "third.log", env=env, cwd=tmp_path, grace=12)
    try:
        wait_until(lambda: "Ctrl-C stops it" in third.tail(40), 30)
    finally:
        third.stop(15)


@pytest.mark.live
def test_a_web_starts_before_any_monitor(tmp_path: Path, valkey: valkey.Server) -> None:
    web = Web("web", tmp_path, environment(tmp_path, UMBEL_BROKER=valkey.url, UMBEL_CHANNELS=valkey.url))
    web.start()
    try:
        web.answers()
    finally:
        web.end()
