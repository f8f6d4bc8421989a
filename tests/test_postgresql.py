"""The same tests of what touches the database, on a real PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

from tests.conftest import ROOT
from tests.postgresql import Server

pytestmark = pytest.mark.live

MIGRATE = """
import django; django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
"""


@pytest.fixture(scope="module")
def postgresql() -> Iterator[dict[str, str]]:
    """A server and, on it, a migrated database which those of the tests are made like; as variables."""
    with Server() as server:
        migrated = server.url.replace("/postgres", "/umbel")
        with psycopg.connect(server.url, autocommit=True) as admin:
            admin.execute("CREATE DATABASE umbel")
        env = os.environ | {
            "UMBEL_DATABASE": migrated,
            "DJANGO_SETTINGS_MODULE": "dashboard.settings",
        }
        subprocess.run([sys.executable, "-c", MIGRATE], cwd=ROOT, env=env, check=True)
        yield {"UMBEL_TEST_DATABASE": server.url, "UMBEL_TEST_TEMPLATE": "umbel"}


# What these words name is about the file of SQLite.
NOT = "not sqlite and not database_is_locked and not what_is_told_can_be_read"
SETS = {
    "history": "store rollups retention partitions online spans",
    "leader": "scaling_lease scaling_doubt siblings",
    "engine": "engine engine_rounds",
    "pages": "tasks_page search task_page overview feed workers_page accounts audit notes thresholds lately "
    "api api_callers api_search settings_page pairs",
    "controls": "worker_page task_controls worker_controls access control bands runs runs_again runs_routes "
    "acts acts_sent acts_settled act_pages keeping ladders standing",
}
BUT = {
    "history": NOT,
    "leader": "not either_server",
    "engine": f"(TestFlow or TestConnection) and {NOT}",
    "pages": "not among_all_that_the_worker_ran",  # reads SQLite's plans
}


@pytest.mark.parametrize("which", SETS)
def test_it_holds_on_postgresql_too(postgresql: dict[str, str], which: str) -> None:
    tests = [*(f"tests/test_{name}.py" for name in SETS[which].split()), "-k", BUT.get(which, "")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env=os.environ | postgresql,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"pytest {' '.join(tests)} on PostgreSQL:\n{done.stdout}{done.stderr}"
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
