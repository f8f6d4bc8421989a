"""The same tests of what touches the database, on a real PostgreSQL."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.guard import guarded
from demo.valkey import free_port
from tests.conftest import ROOT, need_program, wait_until

pytestmark = pytest.mark.live

# PostgreSQL refuses to run as root.
USER = {"user": "nobody"} if os.geteuid() == 0 else {}


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The URL of a server of this test run, on loopback; nothing outlives it."""
    initdb = need_program("initdb", package="postgresql")
    postgres = need_program("postgres", package="postgresql")
    # pytest's own temporary folders are closed to the user nobody.
    folder = Path(tempfile.mkdtemp(prefix="umbel-postgresql-"))
    if USER:
        shutil.chown(folder, USER["user"])
    data, port = folder / "data", free_port()
    argv = [initdb, "-D", str(data), "-U", "umbel", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
    made = subprocess.run(
        argv,
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        **USER,
    )
    assert made.returncode == 0, made.stderr
    argv = [postgres, "-D", str(data), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1"]
    argv += ["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"]
    if USER:
        argv = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *argv]
    running = guarded(argv, folder / "postgresql.log", cwd=folder, grace=3)
    try:
        wait_until(
            lambda: "ready to accept connections" in running.tail() or not running.running(),
            60,
            what="the start of PostgreSQL",
        )
        assert running.running(), running.tail(30)
        yield f"postgres://umbel@127.0.0.1:{port}/postgres"
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)


# What these words name is about the file of SQLite.
NOT = "not sqlite and not database_is_locked and not what_is_told_can_be_read"
SETS = {
    "history": [
        *(
            f"tests/test_{name}.py"
            for name in ("store", "rollups", "retention", "partitions", "online", "spans")
        ),
        "-k",
        NOT,
    ],
    "leader": [
        *(f"tests/test_{name}.py" for name in ("scaling_lease", "scaling_doubt", "siblings")),
        *("-k", "not either_server"),
    ],
    "engine": [
        *("tests/test_engine.py", "tests/test_engine_rounds.py"),
        *("-k", f"(TestFlow or TestConnection) and {NOT}"),
    ],
    "pages": [
        *(
            f"tests/test_{name}.py"
            for name in (
                "tasks_page",
                "search",
                "task_page",
                "overview",
                "feed",
                "workers_page",
                "accounts",
            )
        ),
        "-k",
        "not among_all_that_the_worker_ran",  # reads SQLite's plans
    ],
    "controls": [
        f"tests/test_{name}.py"
        for name in (
            "worker_page",
            "task_controls",
            "worker_controls",
            "access",
            "control",
            "bands",
            "runs",
            "runs_again",
            "runs_routes",
        )
    ],
    "acts": [
        f"tests/test_{name}.py"
        for name in ("acts", "acts_sent", "acts_settled", "act_pages", "keeping", "ladders", "standing")
    ],
    "people": [f"tests/test_{name}.py" for name in ("audit", "notes", "thresholds", "lately")],
    "programs": [
        f"tests/test_{name}.py" for name in ("api", "api_callers", "api_search", "settings_page", "pairs")
    ],
}


@pytest.mark.parametrize("tests", SETS.values(), ids=SETS)
def test_it_holds_on_postgresql_too(postgresql: str, tests: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env=os.environ | {"UMBEL_TEST_DATABASE": postgresql},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"pytest {' '.join(tests)} on PostgreSQL:\n{done.stdout}{done.stderr}"
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
