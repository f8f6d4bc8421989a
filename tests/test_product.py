"""The product as its user has it: real broker, real workers, the one process, and Chromium in front of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import shop, wait_until
from tests.product import Product

pytestmark = [pytest.mark.live, pytest.mark.browser]


def test_a_task_appears_moves_through_its_states_and_ends_without_a_reload(
    product: Product, signed_in: Any
) -> None:
    page = signed_in()
    page.goto("/tasks/?name=shop.nap")
    page.evaluate("window.notReloaded = true")
    task = shop(product.broker).send_task("shop.nap", [3], queue="pre")
    row = _row(page, task.id)
    expect(row).to_contain_text("Running")
    expect(row).to_contain_text("Succeeded")
    assert page.evaluate("window.notReloaded")


def test_a_stuck_task_is_terminated_and_turns_revoked_for_everyone(product: Product, signed_in: Any) -> None:
    task = shop(product.broker).send_task("shop.nap", [300], queue="pre")
    watching = signed_in("vera")
    watching.goto(f"/tasks/{task.id}/")
    expect(watching.locator("main")).to_contain_text("Running")
    acting = signed_in("otto")
    acting.goto(f"/tasks/{task.id}/")
    acting.get_by_role("link", name="Terminate").or_(
        acting.get_by_role("button", name="Terminate")
    ).first.click()
    dialog = acting.locator("dialog[open]")
    expect(dialog).to_contain_text(product.hostname("pre"))
    dialog.get_by_label("Reason").fill("It hangs")
    dialog.get_by_role("button", name=re.compile("^Terminate")).click()
    expect(acting.locator("#toasts")).to_contain_text("1 of 1 answered")
    expect(acting.locator("#toasts")).to_contain_text("verified")
    expect(acting.locator("main")).to_contain_text("Revoked")
    expect(watching.locator("main")).to_contain_text("Revoked")
    acting.goto("/audit/")
    expect(acting.locator("main")).to_contain_text("It hangs")


def test_a_task_on_threads_says_why_it_cannot_be_terminated(product: Product, signed_in: Any) -> None:
    task = shop(product.broker).send_task("shop.nap", [20], queue="thr")
    page = signed_in()
    page.goto(f"/tasks/{task.id}/")
    expect(page.locator("main")).to_contain_text("Running")
    button = page.get_by_role("button", name="Terminate").first
    expect(button).to_be_disabled()
    assert "threads" in (button.get_attribute("title") or "")


def test_a_waiting_task_is_revoked_and_never_runs(product: Product, signed_in: Any) -> None:
    task = shop(product.broker).send_task("shop.add", [1, 2], queue="pre", countdown=120)
    page = signed_in()
    page.goto(f"/tasks/{task.id}/")
    expect(page.locator("main")).to_contain_text("Scheduled")
    page.get_by_role("button", name="Revoke").first.click()
    expect(page.locator("#toasts")).to_contain_text(re.compile("answered"))
    wait_until(lambda: task.id in _revoked(product), 10, what="the id in the workers' revoked lists")


def test_a_grown_pool_shows_its_new_slots_and_takes_tasks_and_shrinks_again(
    product: Product, signed_in: Any
) -> None:
    page = signed_in()
    _open_worker(page, "pre")
    expect(page.get_by_role("textbox", name="Size")).to_be_visible()
    _resize(page, 4)
    expect(page.locator("#toasts")).to_contain_text("verified")
    assert _processes(product, "pre") == 4
    expect(page.locator("main")).to_contain_text("of 4")
    naps = [shop(product.broker).send_task("shop.nap", [4], queue="pre") for _ in range(4)]
    expect(page.locator("main")).to_contain_text(re.compile(r"4\s*of 4"))
    for nap in naps:
        nap.get(timeout=60)
    page.reload()
    _resize(page, 2)
    wait_until(lambda: _processes(product, "pre") == 2, 15, what="the pool at 2")
    expect(page.locator("#toasts")).to_contain_text("verified")


def test_a_pool_cannot_be_shrunk_to_none(product: Product, signed_in: Any) -> None:
    page = signed_in()
    _open_worker(page, "pre")
    _resize(page, 0)
    expect(page.locator("body")).to_contain_text(re.compile("at least 1|at least one|one process"))
    assert _processes(product, "pre") >= 1


def test_autoscale_is_set_where_it_is_on_and_refused_where_it_is_not(
    product: Product, signed_in: Any
) -> None:
    page = signed_in()
    _open_worker(page, "auto")
    page.get_by_label("Most", exact=True).fill("4")
    page.get_by_label("Least").fill("2")
    page.get_by_role("button", name="Set limits").click()
    expect(page.locator("#toasts")).to_contain_text("verified")
    stats = shop(product.broker).control.inspect([product.hostname("auto")], timeout=10).stats()
    scaler = stats[product.hostname("auto")]["autoscaler"]
    assert (scaler["max"], scaler["min"]) == (4, 2)
    page.get_by_label("Most", exact=True).fill("1")
    page.get_by_role("button", name="Set limits").click()
    expect(page.locator("#toasts")).to_contain_text("The least (2) is over the most (1)")
    _open_worker(page, "thr")
    expect(page.locator("main")).to_contain_text("was started without --autoscale")
    expect(page.get_by_label("Most", exact=True)).to_be_disabled()
    expect(page.get_by_role("textbox", name="Size")).to_be_disabled()


def test_a_queue_is_purged_from_the_overview_when_its_name_is_typed(product: Product, signed_in: Any) -> None:
    for _ in range(7):
        shop(product.broker).send_task("shop.add", (1, 2), queue="nobody.reads")
    page = signed_in()
    page.goto("/")
    page.get_by_role("link", name="Purge nobody.reads").click()
    dialog = page.locator("dialog[open]")
    expect(dialog).to_contain_text("7 waiting messages are deleted")
    dialog.locator("input[name=typed]").fill("nobody")
    dialog.get_by_role("button", name="Purge 7 tasks").click()
    assert dialog.locator("input[name=typed]:invalid").count() == 1, "the browser says so, and asks on"
    dialog.locator("input[name=typed]").fill("nobody.reads")
    dialog.get_by_role("button", name="Purge 7 tasks").click()
    expect(page.locator("#toasts")).to_contain_text("7 messages deleted; none waits now")


def test_a_viewer_sees_everything_and_can_do_nothing(product: Product, signed_in: Any) -> None:
    task = shop(product.broker).send_task("shop.nap", [5], queue="pre")
    page = signed_in("vera")
    page.goto(f"/tasks/{task.id}/")
    expect(page.locator("main")).to_contain_text("Running")
    expect(page.get_by_role("button", name="Terminate").first).to_be_disabled()
    answer = page.evaluate(
        """async (uuid) => {
          const token = document.querySelector("#act input[name=csrfmiddlewaretoken]").value;
          const body = new URLSearchParams({csrfmiddlewaretoken: token, uuid, signal: "SIGTERM"});
          return (await fetch("/tasks/terminate/", {method: "POST", body})).status;
        }""",
        task.id,
    )
    assert answer == 403
    assert task.get(timeout=60) == 5


def _row(page: Page, uuid: str) -> Any:
    return page.locator(f'tr[data-row][data-uuid="{uuid}"]')


def _open_worker(page: Page, name: str) -> None:
    page.goto("/workers/")
    page.get_by_role("link", name=re.compile(f"^{name}@")).first.click()
    expect(page.get_by_role("heading", name=re.compile(f"^{name}@"))).to_be_visible()


def _resize(page: Page, size: int) -> None:
    field = page.get_by_role("textbox", name="Size")
    field.fill(str(size))
    field.press("Enter")


def _processes(product: Product, name: str) -> int:
    stats = shop(product.broker).control.inspect([product.hostname(name)], timeout=10).stats() or {}
    return len(stats[product.hostname(name)]["pool"]["processes"])


def _revoked(product: Product) -> list[str]:
    answers = shop(product.broker).control.inspect([product.hostname("pre")], timeout=10).revoked() or {}
    return [uuid for ids in answers.values() for uuid in ids]
