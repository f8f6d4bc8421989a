"""Several people at one cluster, in browsers of their own: what one does, the others see at once."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import shop
from tests.product import Product

pytestmark = [pytest.mark.live, pytest.mark.browser]


def test_operators_see_each_others_acts_and_viewers_are_told_of_none(
    product: Product, signed_in: Any
) -> None:
    task = shop(product.broker).send_task("shop.add", [1, 2], queue="pre", countdown=600)
    otto, ada, vera, log = signed_in("otto"), signed_in("ada"), signed_in("vera"), signed_in("ada")
    for page in (otto, ada, vera):
        page.goto(f"/tasks/{task.id}/")
        expect(page.locator("#task-head")).to_contain_text(re.compile("Reserved|Scheduled"))
        page.evaluate("window.notReloaded = true")
    log.goto("/audit/")
    expect(log.locator("#audit-log")).to_be_visible()
    log.evaluate("window.notReloaded = true")
    otto.get_by_role("button", name=re.compile("^Revoke")).first.click()
    told = ada.locator("#toasts .is-quiet")
    expect(told).to_contain_text("otto: ")
    expect(told).to_contain_text("add")
    expect(log.locator("#audit-log")).to_contain_text(task.id[:8])
    # Once it is proven, the same toast says so, and leaves by itself.
    expect(ada.locator("#toasts .is-quiet")).to_have_count(1)
    expect(told).to_contain_text(re.compile("otto: 1 task revoked|otto: Revoke 1 task"), timeout=40_000)
    # Who acted has the own receipt, a viewer nothing.
    expect(otto.locator("#toasts .toast")).to_have_count(1)
    expect(otto.locator("#toasts .is-quiet")).to_have_count(0)
    expect(vera.locator("#toasts .toast")).to_have_count(0)
    expect(told).to_have_count(0, timeout=40_000)
    # Another page does not tell it again.
    ada.goto("/workers/")
    expect(ada.locator("#workers")).to_be_visible()
    ada.wait_for_timeout(1_500)
    expect(ada.locator("#toasts .toast")).to_have_count(0)
    for page in (otto, vera, log):
        assert page.evaluate("window.notReloaded")


def test_a_worker_that_someone_else_pings_is_told_on_its_page(product: Product, signed_in: Any) -> None:
    otto, ada = signed_in("otto"), signed_in("ada")
    for page in (otto, ada):
        page.goto("/workers/")
        page.locator("tr[data-row] a", has_text="thr").first.click()
        expect(page.locator("#worker-head")).to_contain_text("Online")
    ada.get_by_role("button", name="Ping").click()
    expect(otto.locator("#toasts .is-quiet")).to_contain_text("ada: ")
    expect(otto.locator("#toasts .is-quiet")).to_contain_text(product.hostname("thr"))
    expect(ada.locator("#toasts .is-quiet")).to_have_count(0)


@pytest.mark.parametrize("width", [1440, 390])
def test_a_note_is_written_by_keyboard_and_is_there_for_everyone(
    product: Product, signed_in: Any, width: int
) -> None:
    task = shop(product.broker).send_task("shop.add", [1, 2], queue="pre", countdown=600)
    otto = signed_in("otto", viewport={"width": width, "height": 900})
    vera = signed_in("vera", viewport={"width": width, "height": 900})
    for page in (otto, vera):
        page.goto(f"/tasks/{task.id}/")
        expect(page.locator("#task-notes")).to_contain_text("No note yet")
    text = f"Waits for the bank {width}\nhttps://wiki.example/bank"
    otto.locator("#note-new summary").focus()
    otto.keyboard.press("Enter")
    otto.keyboard.press("Tab")
    otto.keyboard.type(text)
    otto.keyboard.press("Tab")
    otto.keyboard.press("Tab")
    otto.keyboard.press("Enter")
    for page in (otto, vera):
        note = page.locator("#task-notes .note-t")
        expect(note).to_contain_text(f"Waits for the bank {width}")
        assert note.get_by_role("link").get_attribute("href") == "https://wiki.example/bank"
        assert _fits(page)
    expect(otto.locator("#note-new textarea")).to_have_value("")
    expect(otto.locator("#task-notes").get_by_text("Edit", exact=False)).to_have_count(1)
    expect(vera.locator("#task-notes").get_by_text("Edit", exact=False)).to_have_count(0)
    otto.locator("#task-notes").get_by_role("link", name=re.compile("Edit")).click()
    otto.get_by_label("Its words").fill("Came through.")
    otto.get_by_role("button", name="Save note").click()
    expect(vera.locator("#task-notes .note-t")).to_have_text("Came through.")
    expect(otto.locator("main")).to_contain_text("changed it")
    assert _fits(otto)
    otto.get_by_role("button", name="Remove note").click()
    expect(vera.locator("#task-notes")).to_contain_text("No note yet")
    shop(product.broker).control.revoke(task.id)


def test_times_for_slow_and_stuck_are_set_on_a_tasks_page(product: Product, signed_in: Any) -> None:
    task = shop(product.broker).send_task("shop.nap", [30], queue="pre")
    otto, vera = signed_in("otto"), signed_in("vera")
    for page in (otto, vera):
        page.goto(f"/tasks/{task.id}/")
        expect(page.locator("#task-head")).to_contain_text("Running")
    expect(vera.locator("#threshold")).to_have_count(0)
    otto.locator("#threshold summary").click()
    otto.get_by_label("Stuck after, s").fill("0.5")
    otto.get_by_role("button", name="Set for this name").click()
    expect(otto.locator("#toasts")).to_contain_text("Set for every shop.nap")
    for page in (otto, vera):
        expect(page.locator("#task-head")).to_contain_text("Stuck")
        expect(page.locator("#task-usual")).to_contain_text("Set by otto")
    otto.get_by_role("button", name="Back to automatic").click()
    expect(vera.locator("#task-usual")).not_to_contain_text("Set by otto")
    shop(product.broker).control.revoke(task.id, terminate=True, destination=[product.hostname("pre")])


def _fits(page: Page) -> bool:
    """Nothing is wider than the window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))
