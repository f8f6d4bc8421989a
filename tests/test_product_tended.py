"""Resizing with its preview, shrink when free, drift and drain, in the browser with a worker of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import Worker, WorkerFactory, shop, wait_until
from tests.product import Product

pytestmark = [pytest.mark.live, pytest.mark.browser]


@pytest.fixture
def guest(product: Product, worker: WorkerFactory, request: pytest.FixtureRequest) -> Iterator[Worker]:
    """Two pool processes on a queue of its name, which is that of the test."""
    name = re.sub(r"\W+", "-", request.node.name)[-30:]
    yield worker(product.broker, name=name, queues=(name,), grace=8)


def queue(guest: Worker) -> str:
    return guest.hostname.partition("@")[0]


def opened(page: Page, guest: Worker) -> Page:
    page.goto("/workers/")
    page.get_by_role("link", name=guest.hostname).or_(
        page.locator(f"a.rowlink:has-text('{queue(guest)}')")
    ).first.click()
    expect(page.get_by_role("heading", name=guest.hostname, level=1)).to_be_visible()
    expect(page.locator("#worker-slots")).to_contain_text("of 2")
    return page


def test_the_preview_follows_the_wanted_size(product: Product, signed_in: Any, guest: Worker) -> None:
    page = opened(signed_in(), guest)
    expect(page.locator("#resize-preview")).to_contain_text("0 of 2 slots busy")
    # Another size by somebody else's hand is followed, too.
    shop(product.broker).control.pool_grow(1, destination=[guest.hostname])
    expect(page.locator("#resize-preview")).to_contain_text("0 of 3 slots busy")
    page.get_by_role("button", name="One more").click()
    page.get_by_role("button", name="One more").click()
    expect(page.locator("#resize-preview")).to_contain_text("No effect now: nothing waits")
    expect(page.get_by_role("button", name="Grow by 2")).to_be_visible()
    page.get_by_role("textbox", name="Size").fill("x")
    expect(page.locator("#resize-preview")).to_contain_text("“x” is none")


def test_a_command_on_one_worker_is_held_seen_by_all_and_withdrawn(
    product: Product, signed_in: Any, guest: Worker
) -> None:
    page = opened(signed_in(), guest)
    other = page.context.new_page()
    other.goto("/tasks/")
    page.get_by_label("Hold before it is sent").select_option("20")
    page.get_by_role("textbox", name="Size").fill("3")
    page.get_by_role("button", name="Grow by 1").click()
    held = f"Grow pool of {guest.hostname}"
    expect(page.locator("#toasts")).to_contain_text(f"{held}, held")
    expect(page.get_by_label("Hold before it is sent")).to_have_value("20")
    line = other.locator("#acts-now", has_text=f"{held} by otto")
    line.get_by_role("button", name="Withdraw").click()
    expect(line).to_be_hidden()
    expect(page.locator("#toasts")).to_contain_text("withdrawn, nothing was sent")
    page.get_by_label("Hold before it is sent").select_option("5")
    page.get_by_role("textbox", name="Size").fill("3")
    page.get_by_role("button", name="Grow by 1").click()
    expect(page.locator("#worker-slots")).to_contain_text("of 3", timeout=60_000)
    expect(page.locator("#toasts")).to_contain_text(f"{guest.hostname} grown, confirmed", timeout=60_000)


def test_a_shrink_waits_for_what_runs_and_is_sent_when_it_has_ended(
    product: Product, signed_in: Any, guest: Worker
) -> None:
    page = opened(signed_in(), guest)
    naps = [shop(product.broker).send_task("shop.nap", [6], queue=queue(guest)) for _ in range(2)]
    expect(page.locator("#worker-slots")).to_contain_text(re.compile(r"2\s*of 2"))
    page.get_by_role("textbox", name="Size").fill("1")
    page.get_by_role("button", name="When free").click()
    expect(page.locator("#toasts")).to_contain_text("Waits for idle slots to shrink to 1")
    tended = page.locator("#worker-tended")
    expect(tended).to_contain_text("Shrinks to 1 when free.")
    expect(tended).to_contain_text("otto asked")
    for nap in naps:
        nap.get(timeout=60)
    expect(tended).to_contain_text("Sent when", timeout=60_000)
    expect(page.locator("#worker-slots")).to_contain_text("of 1")
    page.goto("/audit/?what=pool_shrink&who=otto")
    expect(page.locator("main")).to_contain_text("When free, as asked for at")


def test_what_a_restart_forgot_is_offered_again_and_set_with_one_button(
    product: Product, signed_in: Any, guest: Worker, worker: WorkerFactory
) -> None:
    page = opened(signed_in(), guest)
    page.get_by_role("textbox", name="Size").fill("3")
    page.get_by_role("button", name="Grow by 1").click()
    expect(page.locator("#worker-drift")).to_contain_text("Pool size 3", timeout=60_000)
    expect(page.locator("#worker-drift")).to_contain_text("celery worker -c 3")
    # Both pages are open all the while: the offer comes to them.
    overview = page.context.new_page()
    overview.goto("/")
    item = overview.locator("#attention li", has_text=f"{guest.hostname} came back with 2")
    expect(page.locator("#worker-tended")).to_be_hidden()
    guest.stop()
    worker(product.broker, name=queue(guest), queues=(queue(guest),))
    expect(page.locator("#worker-tended")).to_contain_text("set again?", timeout=60_000)
    expect(item).to_contain_text("3 was wanted by otto")
    expect(item.get_by_role("button")).to_have_text("Grow to 3 again")
    item.get_by_role("button").click()
    expect(page.locator("#worker-slots")).to_contain_text("of 3", timeout=60_000)
    expect(item).to_be_hidden(timeout=60_000)
    expect(page.locator("#worker-tended")).not_to_contain_text("set again?", timeout=60_000)
    expect(page.locator("#worker-drift")).to_contain_text("Pool size 3", timeout=60_000)


def test_a_drain_goes_step_by_step_is_live_and_can_be_undone(
    product: Product, signed_in: Any, guest: Worker
) -> None:
    app, name = shop(product.broker), queue(guest)
    page = opened(signed_in(), guest)
    app.send_task("shop.add", [1, 2], queue=name, countdown=600)
    app.send_task("shop.nap", [8], queue=name)
    expect(page.locator("#worker-slots")).to_contain_text(re.compile(r"1\s*of 2"))
    page.get_by_role("link", name="Drain…").click()
    page.get_by_label("Reason").fill("New host")
    page.get_by_role("button", name="Drain: stop consuming 1 queue").click()
    drain = page.locator("#worker-drain")
    expect(drain).to_contain_text("Under way")
    expect(drain).to_contain_text("Cancelled")
    expect(drain).to_contain_text("1 task held for its ETA.")
    expect(drain).to_contain_text("which no other online worker consumes")
    expect(drain).to_contain_text(re.compile(r"Running\s*0"), timeout=60_000)
    expect(drain).to_contain_text("it can go")
    waits = app.send_task("shop.add", [3, 4], queue=name)
    page.get_by_role("button", name="Undo: consume again").click()
    expect(drain).to_contain_text("otto undid it")
    # Without a reload it can be drained anew; what somebody types meanwhile stays.
    again = page.get_by_role("button", name="Drain: stop consuming 1 queue")
    expect(again).to_be_visible()
    page.get_by_label("Reason").fill("Once more")
    app.send_task("shop.nap", [1], queue=name).get(timeout=60)
    expect(page.get_by_label("Reason")).to_have_value("Once more")
    assert waits.get(timeout=60) == 7
    again.click()
    expect(drain).to_contain_text("Under way")
    expect(drain).to_contain_text("Once more")
    expect(again).to_be_hidden()


def test_a_drain_ends_with_the_shutdown_by_name(product: Product, signed_in: Any, guest: Worker) -> None:
    page = opened(signed_in(), guest)
    page.get_by_role("link", name="Drain…").click()
    page.get_by_role("button", name="Drain: stop consuming 1 queue").click()
    drain = page.locator("#worker-drain")
    expect(drain).to_contain_text("it can go", timeout=60_000)
    page.get_by_role("link", name="Shut down…").click()
    dialog = page.locator("dialog[open]")
    dialog.get_by_label("Type the worker’s name").fill(guest.hostname)
    dialog.get_by_role("button", name="Shut down worker").click()
    expect(drain).to_contain_text("It was shut down, and is offline.", timeout=60_000)
    wait_until(lambda: not guest.process.running(), 20, what="the end of the worker")
