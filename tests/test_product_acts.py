"""Many at once in a real browser: rows, ranges, all that match; the question, the hold, and withdrawing."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.axe import barriers
from tests.conftest import shop, wait_until
from tests.product import Product

pytestmark = [pytest.mark.live, pytest.mark.browser]
NAME = "shop.total"  # that no other test of the product sends


@pytest.fixture
def waiting(product: Product) -> list[str]:
    """Tasks that a worker holds for their time."""
    return [shop(product.broker).send_task(NAME, [[n]], queue="pre", countdown=600).id for n in range(12)]


def rows(page: Page, many: int) -> Any:
    page.goto(f"/tasks/?name={NAME}&state=RECEIVED&in=1h")
    wait_until(lambda: page.locator("[data-row]").count() >= many, 10, what="the rows")
    return page.locator("[data-row] .chk")


def test_rows_ranges_and_all_that_match_are_chosen_by_mouse_and_keyboard(
    product: Product, signed_in: Any, waiting: list[str]
) -> None:
    page = signed_in()
    boxes = rows(page, len(waiting))
    bar, count = page.locator("[data-bulk]"), page.locator("[data-bulk-count]")
    expect(bar).to_be_hidden()
    boxes.nth(1).click()
    boxes.nth(4).click(modifiers=["Shift"])
    expect(count).to_have_text("4 selected")
    page.keyboard.press("Escape")
    boxes.nth(2).click()
    boxes.nth(6).focus()
    page.keyboard.press("Shift+Space")
    expect(count).to_have_text("5 selected")
    page.keyboard.press("Shift+ArrowDown")
    expect(count).to_have_text("6 selected")
    page.keyboard.press("Escape")
    page.locator("[data-all]").check()
    expect(count).to_have_text(f"{boxes.count()} selected")
    page.keyboard.press("Escape")
    expect(bar).to_be_hidden()
    page.keyboard.press("Shift+X")
    expect(count).to_have_text(re.compile(r"^\d+ that match"))
    expect(bar.get_by_label("All that match")).to_be_checked()
    boxes.nth(0).uncheck()
    expect(count).to_have_text(re.compile(r"^\d+ selected"))
    for uuid in waiting:
        shop(product.broker).control.revoke(uuid)


def test_the_button_of_a_row_hides_nothing_and_is_seen_whole(product: Product, signed_in: Any) -> None:
    client = shop(product.broker)
    runs = client.send_task("shop.nap", [60], queue="pre").id
    waits = client.send_task("shop.nap", [1], queue="pre", countdown=600).id
    page = signed_in("otto")
    page.goto("/tasks/?in=1h")
    for uuid, words in ((runs, "Terminate"), (waits, "Revoke")):
        row = page.locator(f'[data-uuid="{uuid}"]')
        button = row.locator(".rowact .btn")
        expect(button).to_contain_text(words, timeout=10_000)
        for width in (1440, 1100):
            page.set_viewport_size({"width": width, "height": 900})
            row.hover()
            expect(button).to_be_visible()
            cell, of = row.locator("td").last.bounding_box(), button.bounding_box()
            assert cell and of and cell["x"] <= of["x"], (words, width)
            assert of["x"] + of["width"] <= cell["x"] + cell["width"], (words, width)
    client.control.revoke([runs, waits], terminate=True)


def test_a_viewer_has_rows_without_boxes_that_the_keyboard_moves_through(
    product: Product, signed_in: Any, waiting: list[str]
) -> None:
    page = signed_in("vera")
    assert rows(page, len(waiting)).count() == 0
    for width in (1440, 1100, 390):
        page.set_viewport_size({"width": width, "height": 900})
        heads = page.locator("thead th:visible").count()
        assert width == 390 or heads == page.locator("[data-row]").first.locator("td:visible").count()
        state = page.locator("[data-row] .state").first
        whole = "it => [it, it.closest('td')].every((box) => box.scrollWidth <= box.clientWidth)"
        assert state.evaluate(whole), width
    for key in ("j", "x", "Shift+X", "r", "Shift+R", "e", "Shift+Space"):
        page.keyboard.press(key)
    expect(page.locator("[data-row].is-cursor")).to_have_count(1)
    expect(page.locator("dialog[open]")).to_have_count(0)
    expect(page.locator("#toasts .toast")).to_have_count(0)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/tasks/[0-9a-f-]{36}/"))


def test_all_that_match_are_revoked_after_a_hold_that_another_person_ends(
    product: Product, signed_in: Any, waiting: list[str]
) -> None:
    otto, ada = signed_in("otto"), signed_in("ada")
    ada.goto("/workers/")
    rows(otto, len(waiting))
    otto.keyboard.press("Shift+X")
    otto.keyboard.press("r")
    dialog = otto.locator("dialog[open]")
    expect(dialog).to_contain_text(re.compile(r"Revoke \d+ waiting tasks\?"))
    send = dialog.get_by_role("button", name=re.compile(r"^Revoke \d+ tasks"))
    send.click()
    expect(dialog).to_be_visible()  # the reason is required
    dialog.get_by_label("Reason").fill("Wrong prices")
    dialog.get_by_label("Hold before it is sent").select_option("30")
    send.click()
    expect(otto.locator("#toasts")).to_contain_text("held")
    line = ada.locator("#acts-now")
    expect(line).to_contain_text(re.compile(r"Revoke of \d+ tasks by otto is sent in \d+\ss"))
    expect(line).to_contain_text("Wrong prices")
    line.get_by_role("button", name="Withdraw").click()
    expect(ada.locator("#toasts")).to_contain_text("withdrawn, nothing was sent")
    expect(line).to_be_hidden()
    expect(otto.locator("#acts-now")).to_be_hidden()
    expect(otto.locator("#toasts")).to_contain_text("withdrawn, nothing was sent")

    expect(otto.locator("[data-bulk]")).to_be_hidden()  # what was chosen has been acted on
    otto.keyboard.press("Shift+X")
    otto.keyboard.press("r")
    dialog.get_by_label("Reason").fill("Wrong prices, really")
    dialog.get_by_label("Hold before it is sent").select_option("0")
    send.click()
    # Beside otto's own two there is one that tells of ada's withdrawal.
    details = otto.locator('#toasts a[href^="/acts/"]')
    expect(details).to_have_count(2)
    details.last.click()
    expect(otto.locator("main")).to_contain_text("Settling")
    expect(otto.locator("main")).to_contain_text("will skip it")
    answers = shop(product.broker).control.inspect([product.hostname("pre")], timeout=10).revoked() or {}
    assert set(waiting) <= {uuid for ids in answers.values() for uuid in ids}


def test_on_a_phone_the_reason_why_not_is_seen_and_one_toast_tells_of_an_act(
    product: Product, signed_in: Any, waiting: list[str]
) -> None:
    page = signed_in("otto", viewport={"width": 390, "height": 844})
    rows(page, len(waiting))
    page.locator("tr[data-row] input.chk").first.check()
    page.locator("tr[data-row] input.chk").nth(1).check()
    page.locator("[data-bulk]").get_by_role("button", name="Terminate").click()
    dialog = page.locator("dialog[open]")
    expect(dialog).to_contain_text("Nothing to act on")
    expect(dialog.get_by_text("it does not run").first).to_be_visible()
    dialog.get_by_role("button", name="Close").last.click()

    page.locator("[data-bulk]").get_by_role("button", name="Revoke").click()
    dialog.get_by_label("Reason").fill("Not these")
    dialog.get_by_label("Hold before it is sent").select_option("30")
    dialog.get_by_role("button", name=re.compile(r"^Revoke \d+ tasks")).click()
    toasts = page.locator("#toasts .toast:not(.is-quiet)")
    expect(toasts).to_contain_text(["held"])
    page.locator("#acts-now").get_by_role("button", name="Withdraw").click()
    expect(toasts).to_contain_text(["withdrawn, nothing was sent"])
    expect(toasts).to_have_count(1)

    page.goto("/acts/")
    heading, tools = page.locator(".bar h1").bounding_box(), page.locator(".bar-tools").bounding_box()
    assert heading and tools and heading["x"] + heading["width"] <= tools["x"]
    page.goto("/workers/")
    page.locator("a.rowlink").first.click()
    page.get_by_role("button", name="Ping").click()
    page.locator("#toasts a", has_text="Details").last.click()
    proof = page.locator("#record .proof").bounding_box()
    assert proof and proof["width"] > 300  # over the whole width, and what was seen under it


def test_many_are_revoked_without_scripts(product: Product, signed_in: Any, waiting: list[str]) -> None:
    page = signed_in("otto", java_script_enabled=False)
    wait_until(
        lambda: (page.goto(f"/tasks/?name={NAME}&in=1h"), page.locator("[data-row]").count() >= 12)[1], 10
    )
    page.locator("[data-row] .chk").first.check()
    page.get_by_label("All that match").check()
    page.locator("[data-bulk]").get_by_role("button", name="Revoke").click()
    expect(page.locator("main")).to_contain_text(re.compile(r"Revoke \d+ waiting tasks\?"))
    page.get_by_label("Reason").fill("Without scripts")
    page.get_by_label("Hold before it is sent").select_option("0")
    page.get_by_role("button", name=re.compile(r"^Revoke \d+ tasks")).click()
    wait_until(lambda: (page.reload(), "Settling" in page.inner_text("main"))[1], 15)


def test_axe_finds_no_violation_where_acts_are(product: Product, signed_in: Any, waiting: list[str]) -> None:
    found = {}
    page = signed_in("otto", viewport={"width": 390, "height": 900}, bypass_csp=True)
    rows(page, 12)
    # By hand, which on a phone is the only way.
    page.locator("tr[data-row] input.chk").first.check()
    expect(page.locator("[data-bulk-count]")).to_have_text("1 selected")
    page.keyboard.press("Shift+X")
    page.keyboard.press("r")
    dialog = page.locator("dialog[open]")
    expect(dialog).to_contain_text("will not run")
    found["dialog"] = barriers(page)
    dialog.get_by_label("Reason").fill("Look")
    dialog.get_by_label("Hold before it is sent").select_option("30")
    dialog.get_by_role("button", name=re.compile(r"^Revoke \d+ tasks")).click()
    page.locator("#toasts").get_by_role("link", name="Details").last.click()
    expect(page.locator("h1").last).to_contain_text("held")
    found["act"] = barriers(page)
    page.locator("#act-head").get_by_role("button", name="Withdraw").click()
    page.goto("/acts/")
    found["acts"] = barriers(page)
    assert {where: wrong for where, wrong in found.items() if wrong} == {}
