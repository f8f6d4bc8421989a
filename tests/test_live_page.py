"""The scripts in a real browser over the real socket: what moves, what stays, what the keys do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.live_site import Site, running

pytestmark = pytest.mark.browser
ROWS = [[f"r{n}", "Running"] for n in range(20, 10, -1)]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running() as site:
        yield site


@pytest.fixture
def live(site: Site, page: Page) -> Iterator[Page]:
    """The page, connected; any error in its console fails the test."""
    site.set(word="one", rows=ROWS)
    said: list[str] = []
    page.on("console", lambda message: message.type == "error" and said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.context.add_cookies([site.browser_cookie])
    page.goto(f"{site.url}/")
    site.set(word="ready")
    expect(page.locator("#word h2")).to_have_text("ready")
    yield page
    # Chromium itself reports a socket that is refused; some tests refuse it.
    assert [line for line in said if "WebSocket connection" not in line and "ws:error" not in line] == []


def ids(page: Page) -> list[str]:
    found: list[str] = page.eval_on_selector_all("tr[data-row]", "rows => rows.map(r => r.id.slice(2))")
    return found


def test_what_changes_on_the_server_changes_on_the_page(site: Site, live: Page) -> None:
    site.set(word="two")
    expect(live.locator("#word h2")).to_have_text("two")
    live.mouse.move(0, 0)
    site.set(rows=[["r21", "Waiting"], *ROWS])
    expect(live.locator("#t-r21 .st")).to_have_text("Waiting")


def test_a_frame_leaves_focus_typed_words_open_menus_and_nodes_alone(site: Site, live: Page) -> None:
    live.locator("#more summary").click()
    live.locator("#typed").fill("half a wor")
    live.locator("#typed").focus()
    live.evaluate("document.querySelector('#word h2').mine = true")
    site.set(word="three")
    expect(live.locator("#word h2")).to_have_text("three")
    assert live.evaluate("document.querySelector('#word h2').mine") is True
    expect(live.locator("#more")).to_have_attribute("open", "")
    expect(live.locator("#typed")).to_have_value("half a wor")
    expect(live.locator("#typed")).to_be_focused()


def test_frames_do_not_pile_up_white_space(site: Site, live: Page) -> None:
    def nodes() -> int:
        return int(live.evaluate("document.querySelector('#word').parentNode.childNodes.length"))

    site.set(word="w0")
    expect(live.locator("#word h2")).to_have_text("w0")
    before = nodes()
    for n in range(1, 4):
        site.set(word=f"w{n}")
        expect(live.locator("#word h2")).to_have_text(f"w{n}")
    assert nodes() == before


def test_nothing_moves_under_the_pointer_and_states_still_change(site: Site, live: Page) -> None:
    live.locator("#t-r18").hover()
    site.set(rows=[["r22", "Waiting"], ["r21", "Waiting"], *[[i, "Succeeded"] for i, _ in ROWS[:-1]]])
    expect(live.locator("#t-r18 .st")).to_have_text("Succeeded")
    assert ids(live) == [i for i, _ in ROWS], "rows moved while the pointer was on one"
    expect(live.locator(".held")).to_be_visible()
    expect(live.locator("[data-newpill]")).to_have_text("Show 2 newer")
    expect(live.locator("#t-r11")).to_have_attribute("data-gone", "")
    live.keyboard.press(".")
    expect(live.locator("#t-r22")).to_be_visible()
    assert ids(live)[:2] == ["r22", "r21"]
    expect(live.locator("[data-newpill]")).to_be_hidden()
    expect(live.locator(".held")).to_be_hidden()


def test_a_list_that_is_let_go_shows_what_is_newer_by_itself(site: Site, live: Page) -> None:
    live.locator("#t-r18").hover()
    site.set(rows=[["r23", "Waiting"], *ROWS])
    expect(live.locator("[data-newpill]")).to_have_text("Show 1 newer")
    live.mouse.move(0, 0)
    expect(live.locator("#t-r23")).to_be_visible()
    expect(live.locator("[data-newpill]")).to_be_hidden()


def test_a_selection_survives_frames_and_opens_the_bar(site: Site, live: Page) -> None:
    live.locator("#t-r19 .chk").check()
    live.locator("#t-r17 .chk").click(modifiers=["Shift"])
    expect(live.locator("[data-bulk-count]")).to_have_text("3 selected")
    live.mouse.move(0, 0)
    site.set(rows=[["r24", "Waiting"], *[[i, "Failed"] for i, _ in ROWS]])
    expect(live.locator("#t-r19 .st")).to_have_text("Failed")
    expect(live.locator("#t-r18")).to_have_attribute("aria-selected", "true")
    live.keyboard.press(".")
    expect(live.locator("#t-r24")).to_be_visible()
    expect(live.locator("[data-bulk-count]")).to_have_text("3 selected")
    live.keyboard.press("Escape")
    expect(live.locator("[data-bulk]")).to_be_hidden()


def test_the_keyboard_moves_chooses_opens_and_revokes(site: Site, live: Page) -> None:
    live.evaluate(
        """() => document.querySelectorAll('[data-key]')
              .forEach(button => button.onclick = () => (document.title = button.dataset.key))"""
    )
    for key in ("j", "j", "k", "j"):
        live.keyboard.press(key)
    expect(live.locator("tr.is-cursor")).to_have_attribute("id", "t-r19")
    live.keyboard.press("x")
    expect(live.locator("#t-r19 .chk")).to_be_checked()
    live.keyboard.press("Shift+j")
    expect(live.locator("[data-bulk-count]")).to_have_text("2 selected")
    live.keyboard.press("Shift+r")
    assert live.title() == "R"
    live.keyboard.press("Escape")
    live.keyboard.press("r")
    assert live.title() == "r", "without a selection it acts on the row under the cursor"
    expect(live.locator("#t-r18 .chk")).to_be_checked()
    live.keyboard.press("Escape")
    live.keyboard.press("Enter")
    live.wait_for_url("**/tasks/?id=r18")


def test_keys_say_nothing_in_fields_and_can_be_turned_off(site: Site, live: Page) -> None:
    live.keyboard.press("f")
    expect(live.locator(".filters input")).to_be_focused()
    live.keyboard.type("jx t?.")
    expect(live.locator(".filters input")).to_have_value("jx t?.")
    expect(live.locator("tr.is-cursor")).to_have_count(0)
    live.locator(".filters input").blur()
    live.keyboard.press("?")
    expect(live.locator("#keys")).to_be_visible()
    live.keyboard.press("j")
    expect(live.locator("tr.is-cursor")).to_have_count(0)
    live.keyboard.press("Escape")
    expect(live.locator("#keys")).to_be_hidden()
    live.evaluate("localStorage.setItem('umbel-keys', 'off')")
    live.keyboard.press("j")
    expect(live.locator("tr.is-cursor")).to_have_count(0)
    live.evaluate("localStorage.removeItem('umbel-keys')")
    live.keyboard.press("g")
    live.keyboard.press("t")
    live.wait_for_url("**/tasks/")


def test_pause_stops_everything_and_says_how_much(site: Site, live: Page) -> None:
    live.keyboard.press("Space")
    expect(live.locator("#paused")).to_contain_text("Nothing has changed since")
    site.set(word="later", rows=[["r25", "Waiting"], *ROWS])
    expect(live.locator("#paused")).to_contain_text("2 parts of this page have changed since")
    expect(live.locator("#word h2")).to_have_text("ready")
    assert "r25" not in ids(live)
    live.keyboard.press("Space")
    expect(live.locator("#word h2")).to_have_text("later")
    expect(live.locator("#t-r25")).to_be_visible()
    expect(live.locator("#paused")).to_be_hidden()


def test_a_closed_socket_comes_back_with_a_snapshot(site: Site, live: Page) -> None:
    site.end()
    site.set(word="after the restart")
    expect(live.locator("#word h2")).to_have_text("after the restart")
    expect(live.locator("#live")).to_be_hidden()


def test_a_gap_in_the_numbers_asks_for_a_snapshot(site: Site, live: Page) -> None:
    live.evaluate(
        """() => {
          const parse = JSON.parse; let skip = true;
          JSON.parse = (text, ...more) => {
            const got = parse(text, ...more);
            if (skip && got?.seq && got.region === 'word') { got.seq += 5; skip = false; }
            return got;
          };
        }"""
    )
    site.set(word="lost on the way")
    expect(live.locator("#word h2")).to_have_text("lost on the way")
    site.set(word="and on")
    expect(live.locator("#word h2")).to_have_text("and on")


def test_no_socket_is_said_with_since_when_and_the_next_try(site: Site, live: Page) -> None:
    site.end("full")
    expect(live.locator("#live")).to_be_visible()
    expect(live.locator("#live")).to_contain_text("Not live since")
    expect(live.locator("#live")).to_contain_text("Next try in")
    assert live.locator(".app.is-stale").count() == 1
    site.end("open again")
    site.set(word="back")
    expect(live.locator("#word h2")).to_have_text("back")
    expect(live.locator("#live")).to_be_hidden()


def test_signed_out_elsewhere_leads_to_the_sign_in_page(site: Site, live: Page) -> None:
    live.evaluate("window.before = true")
    site.end("signed out")
    live.wait_for_function("window.before === undefined")
    expect(live.locator("#word h2")).to_have_text("ready")


def test_ages_tick_by_themselves(site: Site, live: Page) -> None:
    at = live.evaluate("Date.now() / 1000") - 58
    site.set(at=at, word="aged")
    expect(live.locator("#word time")).to_have_text("1\u00a0min ago")


def test_a_good_toast_leaves_and_a_bad_one_stays(live: Page) -> None:
    live.locator("#good").hover()
    live.wait_for_timeout(100)
    expect(live.locator("#good")).to_be_visible()
    live.mouse.move(0, 0)
    expect(live.locator("#good")).to_have_count(0, timeout=9000)
    expect(live.locator("#bad")).to_be_visible()


def test_theme_tabs_dialog_and_menu(site: Site, live: Page) -> None:
    live.emulate_media(color_scheme="light")
    live.keyboard.press("t")
    expect(live.locator("html")).to_have_attribute("data-theme", "dark")
    cookies = {c["name"]: c["value"] for c in live.context.cookies()}
    assert cookies["umbel-theme"] == "dark", "the server draws the next page in it"
    live.locator("#t1").focus()
    live.keyboard.press("ArrowRight")
    expect(live.locator("#p2")).to_be_visible()
    expect(live.locator("#p1")).to_be_hidden()
    expect(live.locator("#t2")).to_be_focused()
    live.locator(".fresh summary").click()
    live.locator("#main").click(position={"x": 5, "y": 5})
    expect(live.locator(".fresh")).not_to_have_attribute("open", "")


def test_a_question_opens_and_closes_with_its_answer(live: Page) -> None:
    live.get_by_role("button", name="Ask").click()
    expect(live.locator("#question")).to_be_visible()
    assert live.evaluate("document.querySelector('#question').matches(':modal')")
    live.get_by_role("button", name="Do it").click()
    expect(live.locator("#answer")).to_be_visible()
    expect(live.locator("#question")).to_be_hidden()


def test_the_stepper_says_what_its_button_would_do(live: Page) -> None:
    live.get_by_role("button", name="More").click()
    expect(live.locator("[data-said]")).to_have_text("Grow by 1")
    live.locator("[name=size]").fill("2")
    expect(live.locator("[data-said]")).to_have_text("Shrink by 2")


def test_the_chart_draws_follows_and_answers_the_pointer(site: Site, live: Page) -> None:
    expect(live.locator("figure canvas")).to_have_count(2)
    plot = live.locator("figure .h-xl .u-over")
    plot.hover()
    expect(live.locator(".xhair")).to_contain_text("ok")
    times = [1_800_000_000 + 10 * n for n in range(60)]
    site.set(rates={"t": times, "succeeded": [7.0] * 60, "retried": [0] * 60, "failed": [0] * 60})
    site.set(word="drawn")
    expect(live.locator("#word h2")).to_have_text("drawn")
    plot.hover(position={"x": 60, "y": 20})
    expect(live.locator(".xhair")).to_contain_text("7.0 ok")


def test_a_hidden_tab_closes_its_socket_and_comes_back_up_to_date(site: Site, live: Page) -> None:
    def hide(hidden: bool) -> None:
        live.evaluate(
            """hidden => {
              Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
              document.dispatchEvent(new Event('visibilitychange'));
            }""",
            hidden,
        )

    hide(True)
    site.set(word="while away")
    live.wait_for_timeout(300)
    expect(live.locator("#word h2")).to_have_text("ready")
    hide(False)
    expect(live.locator("#word h2")).to_have_text("while away")
    expect(live.locator("#live")).to_be_hidden()
