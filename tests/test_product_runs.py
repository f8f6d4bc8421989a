"""Running tasks in a browser: by hand in one's own time zone, and again by key; both are live."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import shop, wait_until
from tests.product import Product

pytestmark = [pytest.mark.live, pytest.mark.browser]


def test_a_task_run_by_hand_is_live_from_the_first_moment(product: Product, signed_in: Any) -> None:
    page = signed_in(timezone_id="Europe/Berlin")
    _known(page, product)
    _field(page, "name").fill("shop.add")
    _field(page, "args").fill("[40, 2,]")
    _field(page, "queue").fill("pre")
    page.get_by_role("button", name="Send the task").click()
    expect(page.get_by_role("alert").first).to_contain_text("Args, line 1, column 8")
    expect(_field(page, "args")).to_be_focused()
    _field(page, "args").fill("[40, 2]")
    # The route is looked up while one types.
    expect(page.locator("#run-route")).to_contain_text(product.hostname("pre"))
    _field(page, "queue").fill("pree")
    _field(page, "queue").blur()
    expect(page.locator("#run-route")).to_contain_text("has no queue called")
    _field(page, "queue").fill("pre")
    _field(page, "queue").blur()
    expect(page.locator("#run-route")).to_contain_text(product.hostname("pre"))
    expect(page.get_by_text("Or at, Europe/Berlin").first).to_be_visible()
    berlin = datetime.now(ZoneInfo("Europe/Berlin")) + timedelta(seconds=5)
    _field(page, "eta").fill(berlin.strftime("%Y-%m-%dT%H:%M:%S"))
    page.get_by_role("button", name="Send the task").click()
    page.wait_for_url(re.compile(r"/tasks/[0-9a-f-]{36}/$"))
    page.evaluate("window.notReloaded = true")
    expect(page.locator("#task-runs")).to_contain_text("otto")
    expect(page.locator("#task-head")).to_contain_text("Succeeded")
    expect(page.locator("#task-runs")).to_contain_text(re.compile("has taken it|holds it"))
    assert page.evaluate("window.notReloaded")
    page.get_by_role("tab", name="Result").click()
    expect(page.locator("#tp-res")).to_contain_text("42")


def test_a_failed_task_is_run_again_by_key_and_its_page_names_the_new_one(
    product: Product, signed_in: Any
) -> None:
    page = signed_in()
    _known(page, product)
    old = shop(product.broker).send_task("shop.boom", ["by key"], queue="pre")
    page.goto("/tasks/")
    row = page.locator(f'tr[data-uuid="{old.id}"]')
    expect(row).to_contain_text("Failed")
    page.goto(f"/tasks/{old.id}/")
    expect(page.locator("#task-head")).to_contain_text("Failed")
    page.keyboard.press("e")
    page.keyboard.press("e")
    expect(page.locator("#toasts")).to_contain_text("1 task sent, verified")
    assert page.locator("#toasts .toast").count() == 1
    link = page.locator("#task-runs a.mono")
    expect(link).to_have_count(1)
    link.click()
    expect(page.locator("#task-head")).to_contain_text("Failed")
    expect(page.locator("#task-runs")).to_contain_text(old.id[:8])


def test_a_warning_that_was_ticked_stays_ticked_until_the_queue_is_another(
    product: Product, signed_in: Any
) -> None:
    page = signed_in()
    _known(page, product)
    _field(page, "name").fill("shop.add")
    _field(page, "queue").fill("nobody-takes-it")
    _field(page, "queue").blur()
    tick = page.get_by_label("Send it all the same")
    expect(tick).to_have_count(1)
    tick.check()
    _field(page, "args").fill("[1, 2]")
    _field(page, "args").blur()
    expect(tick).to_be_checked()
    _field(page, "queue").fill("nor-this-one")
    _field(page, "queue").blur()
    expect(page.locator("#run-route")).to_contain_text("nor-this-one")
    expect(tick).not_to_be_checked()
    page.get_by_role("button", name="Send the task").click()
    expect(page.get_by_role("alert").first).to_contain_text("Not sent yet")
    page.get_by_label("Send it all the same").check()
    page.get_by_role("button", name="Send the task").click()
    expect(page.locator("#task-runs")).to_contain_text("at place 1 of 1", timeout=60_000)
    expect(page.locator("#task-head")).to_contain_text("Waiting")


def test_a_queue_named_while_the_last_answer_is_on_its_way_is_looked_up_too(
    product: Product, signed_in: Any
) -> None:
    page = signed_in()
    _known(page, product)
    held: list[Any] = []
    page.route("**/run/?fragment=route*", lambda route: held.append(route) if not held else route.continue_())
    _field(page, "name").fill("shop.add")
    _field(page, "name").blur()
    wait_until(lambda: bool(held) or page.wait_for_timeout(10), 5, what="the first look")
    _field(page, "queue").fill("nobody-takes-it")
    _field(page, "queue").blur()
    expect(page.get_by_label("Send it all the same")).to_have_count(1)


def test_what_cannot_be_told_leads_to_the_form(product: Product, signed_in: Any) -> None:
    old = shop(product.broker).send_task("shop.boom", ["x" * 3000], queue="pre")
    page = signed_in(viewport={"width": 390, "height": 844})
    _known(page, product)
    page.goto(f"/tasks/{old.id}/")
    expect(page.locator("#task-head")).to_contain_text("Failed")
    page.get_by_role("button", name="Retry").click()
    page.wait_for_url(re.compile("/tasks/run/"))
    expect(page.locator("main")).to_contain_text("were cut by Celery")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def _field(page: Page, name: str) -> Any:
    return page.locator(f"#run-form [name={name}]")


def _known(page: Page, product: Product) -> None:
    """Umbel has asked the worker what it knows."""

    def told() -> bool:
        page.goto("/tasks/run/?name=shop.add&queue=pre")
        text = page.locator("#run-route").inner_text()
        return text.count(product.hostname("pre")) == 2

    wait_until(told, 20, every=0.5, what="the worker's list of names")
    page.goto("/tasks/run/")
