"""Two monitors, three webs, PostgreSQL and Redis in processes of their own, each killed in turn under load.

At the end every task is as the generator's ledger has it, and every browser shows what a fresh page shows.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bench.generator import Plan
from bench.ledger import Ledger, Verdict, check, postgresql_rows, sqlite_rows
from bench.load import Load
from demo import valkey
from monitor.records import ENDED
from tests.conftest import PATIENCE, wait_until
from tests.postgresql import Server
from tests.scaling import PASSWORD, Browser, Person, Process, Web, environment, monitor, until

pytestmark = pytest.mark.live

RATE = 400.0  # events a second
TAKEN_OVER = 5.0  # seconds
ROUNDS = 40  # of the long test


@dataclass
class Site:
    """All of it, as one test sees it."""

    folder: Path
    broker: valkey.Server
    channels: valkey.Server
    database: Server | None
    monitors: list[Process]
    webs: list[Web]
    environment: dict[str, str]

    def ask(self, query: str) -> list[Any]:
        if self.database is not None:
            return postgresql_rows(self.database.url, query)
        return sqlite_rows(self.folder / "data" / "umbel.sqlite3", query)

    def lease(self) -> tuple[str, int]:
        """Who leads, and under which number; ('', n) when nobody does."""
        rows = self.ask("SELECT holder, epoch FROM monitor_lease")
        return (str(rows[0][0]), int(rows[0][1])) if rows else ("", 0)

    def leader(self) -> Process:
        holder, _ = self.lease()
        pid = int(holder.split(":")[-2])
        return next(one for one in self.monitors if one.running is not None and one.pid == pid)

    def other(self) -> Process:
        leader = self.leader()
        return next(one for one in self.monitors if one is not leader)

    def replaced(self, epoch: int, within: float = TAKEN_OVER) -> float:
        """Seconds until another term than this has begun."""

        def done() -> bool:
            holder, now = self.lease()
            return now > epoch and bool(holder)

        return until(done, within, "the next leader")

    def stored(self) -> int:
        return int(self.ask("SELECT COUNT(*) FROM monitor_task")[0][0])

    def goes_on(self) -> None:
        """What happens now is stored again."""
        before = self.stored()
        wait_until(lambda: self.stored() > before + 20, 20, what="more stored tasks")

    def settled(self, ledger: Ledger) -> None:
        """Waits until nothing changes any more, and holds all of it against the truth."""

        def verdict() -> Verdict:
            return check(truth, [row for row in self.rows() if row[0] not in endless])

        def right() -> bool:
            found = verdict()
            return not (found.wrong or found.missing or found.extra)

        # The generator ended before these did, and their workers with it.
        endless = {line[0] for line in ledger.tasks if line[1] not in ENDED}
        truth = Ledger(tasks=[line for line in ledger.tasks if line[0] not in endless])
        try:
            wait_until(right, 5, 0.3)
        except AssertionError:
            known = {line[0]: line[1] for line in truth.tasks}
            late = [
                row
                for row in self.ask("SELECT uuid, state, seen_at FROM monitor_task ORDER BY seen_at")
                if known.get(row[0], row[1]) != row[1]
            ]
            gaps = self.ask("SELECT started_at, ended_at, reason FROM monitor_gap")
            raise AssertionError(f"{verdict()}; {late[:3]} to {late[-3:]}; {gaps}") from None

    def rows(self) -> list[Any]:
        return self.ask("SELECT uuid, state, name, worker, retries FROM monitor_task")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        database = stack.enter_context(Server())
        yield _start(stack, tmp_path, database, monitors=2, webs=3)


def _start(stack: ExitStack, folder: Path, database: Server | None, monitors: int, webs: int) -> Site:
    broker = valkey.start(folder / "broker")
    stack.callback(broker.stop)
    channels = valkey.start(folder / "channels")
    stack.callback(channels.stop)
    more = {"UMBEL_BROKER": broker.url, "UMBEL_CHANNELS": channels.url}
    if database is not None:
        more["UMBEL_DATABASE"] = database.url
    env = environment(folder, **more)
    site = Site(folder, broker, channels, database, [], [], env)
    site.monitors = [monitor(f"monitor{n}", folder, env) for n in range(monitors)]
    # One of them under another server.
    site.webs = [Web(f"web{n}", folder, env, uvicorn=n == 2) for n in range(webs)]
    # All at once, on an empty database: whoever comes first migrates it.
    for process in [*site.monitors, *site.webs]:
        stack.callback(process.end)
        process.start()
    argv = [
        sys.executable,
        "-P",
        "-m",
        "umbel",
        "user",
        "add",
        "ada",
        "--role",
        "operator",
        "--password-stdin",
    ]
    added = subprocess.run(
        argv, env=env, cwd=folder, input=PASSWORD, capture_output=True, text=True, check=False, timeout=120
    )
    assert added.returncode == 0, added.stderr
    for one in site.monitors:
        one.says("Umbel's monitor is")
    wait_until(lambda: site.lease()[0], 10, what="a leader")
    # What is sent before it listens is said to be missed, and is.
    site.leader().says("broker connected")
    if monitors > 1:
        site.other().says("it listens")
    for web in site.webs:
        web.answers()
    return site


def test_whatever_is_killed_every_task_is_right_and_every_browser_catches_up(site: Site) -> None:
    ada = Person(site.webs[0].url)
    ada.sign_in("ada")
    took: dict[str, float] = {}
    with ExitStack() as stack:
        browsers = [Browser(ada, site.webs, n) for n in range(6)]
        for browser in browsers:
            stack.callback(browser.stop)
        load = stack.enter_context(Load(site.broker.url, site.folder / "load", Plan(rate=RATE, workers=8)))
        load.go()
        site.goes_on()
        wait_until(lambda: all(browser.shown() for browser in browsers), 20, what="a list in each browser")

        # The leader, by the machine's own hand
        _, epoch = site.lease()
        dead = site.leader()
        dead.kill()
        took["killed"] = site.replaced(epoch)
        dead.start()
        # Each web in turn
        for web in site.webs:
            web.kill()
            web.start()
            web.answers()
        # The Redis between them
        site.channels.kill()
        site.channels.start()
        site.goes_on()
        # The database
        assert site.database is not None
        dead.says("it listens")
        _, epoch = site.lease()
        site.database.kill()
        site.database.start()
        site.goes_on()
        assert site.lease()[1] == epoch, "a database that was away deposes nobody"
        # The leader's connections
        with psycopg.connect(site.database.url, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                "AND backend_type = 'client backend'"
            )
        site.goes_on()
        # The leader, frozen; and awake again
        _, epoch = site.lease()
        frozen = site.leader()
        frozen.freeze()
        took["frozen"] = site.replaced(epoch)
        site.goes_on()
        before = frozen.said()
        frozen.thaw()
        frozen.says("it listens", before)
        # It has to have heard what the other may not have read yet, on a machine as busy as this.
        _wait(4.0)
        # The leader, asked to stop
        _, epoch = site.lease()
        stopped = site.leader()
        stopped.ask_to_stop()
        assert stopped.running is not None
        took["stopped"] = site.replaced(epoch, 10.0 * PATIENCE)
        assert stopped.running.wait(10 * PATIENCE) == 0, stopped.running.tail(30)
        stopped.start()
        site.goes_on()
        ledger = load.stop()

        site.settled(ledger)
        # Shown with -s: the figures of docs/scaling.md.
        sys.stdout.write(f"\n{len(ledger.tasks)} tasks right; taken over after {took}\n")
        assert _counted(site, ledger) == {}
        web = site.webs[1]
        assert web.running is not None and web.running.running(), web.said()[-4000:]
        web.answers()
        fresh = Person(web.url)
        fresh.cookies = ada.cookies
        fresh.sign_in("ada")
        for browser in browsers:
            wait_until(
                lambda b=browser: _caught_up(b, fresh),
                10,
                0.3,
                what=f"a browser's page\n{_differs(browser, fresh)}",
            )
        assert all(browser.connects > 1 for browser in browsers)
        assert set().union(*(browser.compressed for browser in browsers)) == {site.webs[2].port}
    gaps = site.ask("SELECT started_at, ended_at, reason FROM monitor_gap")
    assert all(ended is not None and ended - started < TAKEN_OVER for started, ended, _ in gaps), gaps


@pytest.mark.soak
def test_for_minutes_whatever_is_killed_in_whatever_order(site: Site) -> None:
    rng = random.Random(3)
    assert site.database is not None
    with ExitStack() as stack:
        load = stack.enter_context(Load(site.broker.url, site.folder / "load", Plan(rate=RATE, workers=8)))
        load.go()
        for _ in range(ROUNDS):
            site.goes_on()
            what = rng.choice(("kill", "freeze", "stop", "web", "channels", "database"))
            _, epoch = site.lease()
            if what in ("kill", "freeze", "stop"):
                leader, other = site.leader(), site.other()
                other.says("it listens")
                _wait(5.0)
            if what == "kill":
                leader.kill()
                site.replaced(epoch)
                leader.start()
            elif what == "freeze":
                leader.freeze()
                site.replaced(epoch)
                # Started anew, so that its log tells of this time of standing by.
                leader.thaw()
                leader.end()
                leader.start()
            elif what == "stop":
                leader.end()
                site.replaced(epoch)
                leader.start()
            elif what == "web":
                web = rng.choice(site.webs)
                web.kill()
                web.start()
                web.answers()
            elif what == "channels":
                site.channels.kill()
                site.channels.start()
            else:
                site.database.kill()
                site.database.start()
        site.goes_on()
        ledger = load.stop()
        site.settled(ledger)
        assert _counted(site, ledger) == {}


def _wait(seconds: float) -> None:
    since = time.monotonic()
    wait_until(lambda: time.monotonic() - since > seconds, seconds + 1)


def _caught_up(browser: Browser, person: Person) -> bool:
    return not _differs(browser, person)


def _differs(browser: Browser, person: Person) -> str:
    """What a live page shows and a fresh one does not; '' when they agree."""
    page = person.text(browser.path)
    start, end = page.find('id="task-list"'), page.find("</main>")
    ids = [one for one in _ids(page[start:end])]
    if ids != browser.shown():
        return f"{browser.shown()[:3]} for {ids[:3]}"
    states = browser.regions.get("task-states", "")
    return "" if states and states in page else f"{states} is not in the page"


def _ids(text: str) -> list[str]:
    from tests.scaling import UUID

    return list(dict.fromkeys(UUID.findall(text)))


def _counted(site: Site, ledger: Ledger) -> dict[str, tuple[int, int]]:
    """Counts of the history that are not what was published: kept, published."""
    columns = ("received", "started", "succeeded", "failed", "retried")
    sums = ", ".join(f"COALESCE(SUM({column}), 0)" for column in columns)
    query = f"SELECT {sums} FROM monitor_rollup WHERE width = 60 AND \"by\" = 'all'"
    kept = site.ask(query)[0]
    return {
        column: (int(count), ledger.kinds.get(f"task-{column}", 0))
        for column, count in zip(columns, kept, strict=True)
        if int(count) != ledger.kinds.get(f"task-{column}", 0)
    }
