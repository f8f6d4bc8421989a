"""Commands from a web process: with the monitor in another, and with none at all, in a browser."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from bench.ledger import sqlite_rows
from demo import valkey
from demo.guard import guarded
from tests.conftest import ROOT, shop, wait_until
from tests.scaling import PASSWORD, Process, Web, environment, monitor

pytestmark = [pytest.mark.live, pytest.mark.browser]

QUEUE = "apart"


@dataclass
class Site:
    """A monitor, two webs and a worker, each a process of its own."""

    broker: valkey.Server
    monitor: Process
    webs: list[Web]
    worker: str
    database: Path

    def send(self, name: str, *args: Any, **options: Any) -> str:
        return str(shop(self.broker.url).send_task(name, args, queue=QUEUE, **options).id)

    def state(self, uuid: str) -> str:
        rows = sqlite_rows(self.database, f"SELECT state FROM monitor_task WHERE uuid = '{uuid}'")
        return str(rows[0][0]) if rows else ""

    def record(self, uuid: str) -> tuple[str, ...]:
        """Of the command on this task: what, by whom, with which effect and evidence."""
        query = "SELECT command, username, effect, evidence, targets FROM monitor_controlrecord"
        rows = [row for row in sqlite_rows(self.database, query) if uuid in row[4]]
        assert len(rows) < 2, rows
        return tuple(str(value) for value in rows[0][:4]) if rows else ("", "", "pending", "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("apart")
    with ExitStack() as stack:
        broker = valkey.start(folder / "broker")
        stack.callback(broker.stop)
        env = environment(folder, UMBEL_BROKER=broker.url, UMBEL_CHANNELS=broker.url)
        worker = f"apart@{socket.gethostname()}"
        argv = ["-m", "celery", "-A", "tests.shop", "worker", "-E", "--without-gossip", "--without-mingle"]
        running = guarded(
            [sys.executable, *argv, "-c", "2", "-n", worker, "-Q", QUEUE],
            folder / "worker.log",
            env=os.environ | {"SHOP_BROKER": broker.url, "SHOP_BACKEND": broker.url, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            grace=2,
        )
        stack.callback(running.stop)
        watching = monitor("monitor", folder, env)
        webs = [Web(f"web{n}", folder, env, uvicorn=n == 1) for n in range(2)]
        for process in (watching, *webs):
            stack.callback(process.end)
        watching.start()
        watching.says("Umbel's monitor is")
        add = ["user", "add", "ada", "--role", "operator", "--password-stdin"]
        added = subprocess.run(
            [sys.executable, "-P", "-m", "umbel", *add],
            env=env, cwd=folder, input=PASSWORD, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert added.returncode == 0, added.stderr
        for web in webs:
            web.start()
            web.answers()
        made = Site(broker, watching, webs, worker, folder / "data" / "umbel.sqlite3")
        query = f"SELECT status FROM monitor_worker WHERE hostname = '{worker}' AND inspected_at IS NOT NULL"
        wait_until(lambda: sqlite_rows(made.database, query), 60, what=f"the worker: {running.tail(5)}")
        yield made


@pytest.fixture(params=[0, 1], ids=["daphne", "uvicorn"])
def page(site: Site, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    context = browser.new_context(base_url=site.webs[request.param].url)
    page = context.new_page()
    page.goto("/sign-in/")
    page.get_by_label("User name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    yield page
    context.close()


def act(page: Page, uuid: str, button: str) -> None:
    """Presses it on the task's page; the dialog that asks first is answered."""
    page.goto(f"/tasks/{uuid}/")
    page.get_by_role("button", name=button).or_(page.get_by_role("link", name=button)).first.click()
    if button == "Terminate":
        page.locator("dialog[open]").get_by_role("button", name=re.compile("^Terminate")).click()


def test_a_revoke_from_a_web_apart_is_verified_and_recorded(site: Site, page: Page) -> None:
    uuid = site.send("shop.add", 1, 2, countdown=300)
    wait_until(lambda: site.state(uuid) == "RECEIVED", 20, what="the task in history")
    act(page, uuid, "Revoke")
    expect(page.locator("#toasts")).to_contain_text("verified", timeout=60_000)
    command, who, effect, evidence = site.record(uuid)
    assert (command, who, effect) == ("revoke", "ada", "verified"), evidence
    page.goto("/audit/")
    expect(page.locator("tr[data-row]").first).to_contain_text(uuid[:8])


def test_a_terminate_from_a_web_apart_is_verified_and_its_page_follows(site: Site, page: Page) -> None:
    uuid = site.send("shop.nap", 300)
    wait_until(lambda: site.state(uuid) == "STARTED", 20, what="the task at work")
    act(page, uuid, "Terminate")
    expect(page.locator("#toasts")).to_contain_text("verified", timeout=60_000)
    expect(page.locator("main")).to_contain_text("Revoked")
    assert site.record(uuid)[2] == "verified"


@pytest.mark.parametrize("page", [0], indirect=True, ids=["daphne"])
def test_without_a_monitor_pages_say_so_and_a_command_claims_no_more_than_was_seen(
    site: Site, page: Page
) -> None:
    waiting, working = site.send("shop.add", 1, 2, countdown=300), site.send("shop.nap", 300)
    wait_until(lambda: site.state(waiting) == "RECEIVED", 20, what="the waiting task in history")
    wait_until(lambda: site.state(working) == "STARTED", 20, what="the task at work")
    page.goto("/workers/")
    site.monitor.end()
    try:
        # By itself, on a page that was open all the time, and on a fresh one.
        expect(page.locator("#feed-banner")).to_contain_text("is umbel monitor running?", timeout=40_000)
        act(page, waiting, "Revoke")
        expect(page.locator("#feed-banner")).to_contain_text("engine is silent")
        expect(page.locator("#toasts")).to_contain_text("verified", timeout=60_000)
        assert site.record(waiting)[2] == "verified"
        act(page, working, "Terminate")
        wait_until(lambda: site.record(working)[2] != "pending", 30, what="the end of the look")
        _, _, effect, evidence = site.record(working)
        # The worker itself says that it is gone; nobody was there to hear how it ended.
        assert (effect, "its end was not seen in an event" in evidence) == ("partly", True), evidence
    finally:
        site.monitor.start()
        site.monitor.says("Umbel's monitor is")
