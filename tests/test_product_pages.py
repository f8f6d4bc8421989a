"""What holds for every page in a real browser: reload equals live, no barrier, no script needed, no harm."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.axe import barriers
from tests.conftest import shop, wait_until
from tests.product import Product, publish

pytestmark = [pytest.mark.live, pytest.mark.browser]


def test_reload_equals_live(product: Product, signed_in: Any) -> None:
    done = shop(product.broker).send_task("shop.add", [1, 2], queue="pre")
    page = signed_in()
    wait_until(
        lambda: (page.goto(f"/tasks/{done.id}/"), "Succeeded" in page.content())[1], 8, what="one that ended"
    )
    page.goto("/workers/")
    expect(page.locator("main")).to_contain_text(product.hostname("pre").split("@")[0])
    for address in ("/workers/", "/tasks/?state=SUCCESS"):
        page.goto(address)
        live = page.wait_for_selector("tr[data-row]") and _shown(page)
        page.reload()
        wait_until(lambda live=live: _shown(page) == live, 5, what=f"{address} as it was live")


def test_axe_finds_no_violation_on_any_page(product: Product, signed_in: Any) -> None:
    task = shop(product.broker).send_task("shop.boom", ["axe"], queue="pre")
    running = shop(product.broker).send_task("shop.nap", [120], queue="pre")
    page = signed_in("ada", bypass_csp=True)
    page.goto("/workers/")
    worker = page.locator("tr[data-row] a").first.get_attribute("href")
    addresses = [
        "/", "/tasks/", "/tasks/?state=FAILURE", "/tasks/?q=nothing-like-this", f"/tasks/{task.id}/",
        f"/tasks/{running.id}/", f"/tasks/terminate/?uuid={running.id}", "/workers/", worker,
        "/audit/", "/feed/", "/settings/", "/users/", "/users/add/", "/search/?q=shop",
        "/tasks/no-such-task/", "/no-such-page/", "/tasks/run/?name=shop.add&queue=nowhere",
        f"/tasks/run/?again={task.id}", f"/tasks/run/failed/?of={task.id}",
    ]  # fmt: skip
    found = {}
    for address in addresses:
        page.goto(str(address))
        if wrong := barriers(page):
            found[address] = wrong
    shop(product.broker).control.revoke(running.id, terminate=True, destination=[product.hostname("pre")])
    assert found == {}


def test_the_page_works_without_scripts(product: Product, signed_in: Any) -> None:
    task = shop(product.broker).send_task("shop.nap", [300], queue="pre")
    page = signed_in("otto", java_script_enabled=False)
    wait_until(lambda: (page.goto(f"/tasks/{task.id}/"), "Running" in page.content())[1], 8)
    page.get_by_role("link", name="Terminate").or_(page.get_by_role("button", name="Terminate")).first.click()
    page.wait_for_url(re.compile("/tasks/terminate/"))
    # A reload before the answer is there would take the answer's place.
    with page.expect_navigation(wait_until="load"):
        page.get_by_role("button", name=re.compile("^Terminate")).last.click()
    wait_until(lambda: (page.reload(), re.search("[Vv]erified", page.inner_text("main")))[1], 15)


def test_hostile_names_do_no_harm(product: Product, signed_in: Any) -> None:
    evil = "<img src=x onerror=alert(1)>'\"/../é%00"
    uuid = f"evil-{time.time_ns()}"
    stamp = {"hostname": f"{evil}@{evil}", "utcoffset": 0, "pid": 1, "clock": 1, "timestamp": time.time()}
    beat = {"type": "worker-heartbeat", "freq": 2.0, "active": 0, "processed": 0, "loadavg": [1, 1, 1]}
    publish(product.broker, stamp | beat | {"sw_ident": evil, "sw_ver": evil, "sw_sys": evil})
    for kind in ("task-received", "task-started", "task-failed"):
        stamp["clock"] += 1
        more = (
            {"name": evil, "args": evil, "kwargs": "{'password': 'hunter2'}"}
            if kind == "task-received"
            else {}
        )
        publish(
            product.broker, stamp | more | {"type": kind, "uuid": uuid, "exception": evil, "traceback": evil}
        )
    page = signed_in()
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    for address in ("/", "/tasks/?state=FAILURE", f"/tasks/{uuid}/", "/workers/", "/feed/", "/search/?q=img"):
        page.goto(address)
        assert page.locator("img[src=x]").count() == 0
        assert "hunter2" not in page.content()
    page.goto(f"/tasks/{uuid}/")
    expect(page.locator("main")).to_contain_text("onerror=alert(1)")
    assert dialogs == []


def _shown(page: Page) -> list[str]:
    """Ids and states of the rows."""
    return page.locator("tr[data-row]").evaluate_all(
        "rows => rows.map(row => `${row.id} ${row.querySelector('.state')?.textContent.trim()}`)"
    )
