"""Template tags and drawings: the design's words and marks, and hostile values shown harmlessly."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from django.template import Context, Template

from dashboard.templatetags import drawings, umbel
from dashboard.templatetags.art import ARTS, art

USUAL = SimpleNamespace(p5=None, p50=1.0, p95=3.0, p99=9.0, runs=100)
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "\"'><script>alert(1)</script>",
    "a/../..//b?c#d",
    "x" * 10_000,
    "nul\0and\x1b[31m",
    "\u202egnp.exe",
    "lone \ud800 surrogate",
    "",
    "..",
    "{{ secret }}{% url 'x' %}",
]


def drawn(source: str, **values: Any) -> str:
    return Template("{% load umbel %}" + source).render(Context(values))


def well_formed(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<root>{html}</root>".replace("&nbsp;", " "))


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    "source",
    [
        "{% task_name value %}",
        "{% hostname value %}",
        "{% state value %}",
        "{% state 'FAILURE' label=value %}",
        "{% marked value 'a' %}",
        "{% marked value value %}",
        "{{ value|plain }}",
        "{{ value|initials }}",
        "<b id='t-{% domid value %}'></b>",
        "{% spark numbers value label=value %}",
        "{% norm usual 2.0 label=value %}",
        "{% slots cells label=value %}",
        "{% icon value value %}",
        "{% axis_x list %}",
    ],
)
def test_a_hostile_value_stays_text(source: str, value: str) -> None:
    cells = [{"state": value, "fill": 0.5}, {"state": "running", "fill": 2}]
    html = drawn(source, value=value, numbers=[1, 2], usual=USUAL, cells=cells, list=[umbel.plain(value)])
    for element in well_formed(umbel.plain(html)).iter():
        assert element.tag in {
            "root",
            "span",
            "b",
            "svg",
            "use",
            "path",
            "rect",
            "line",
            "circle",
            "mark",
            "ol",
            "li",
        }
        assert not [name for name in element.attrib if name.startswith("on") or name == "style"]
    assert "\0" not in html or source.startswith(
        ("{% spark", "{% norm", "{% slots", "{% icon", "{% state 'F")
    )


def test_a_name_of_ten_thousand_letters_is_cut() -> None:
    assert len(drawn("{% task_name value %}", value="m." + "x" * 10_000)) < 500


def test_text_that_turns_the_line_around_is_shown_for_what_it_is() -> None:
    assert umbel.plain("\u202egnp.exe") == "▯gnp.exe"
    assert umbel.plain("a\0b") == "a␀b"
    umbel.plain("\ud800").encode()


@pytest.mark.parametrize("at", [1e30, -1e30, float("nan"), float("inf"), 10**40])
def test_an_absurd_time_is_said_to_be_unreadable(at: float) -> None:
    assert "unreadable" in drawn("{% when at %}", at=at)
    assert drawn("{{ at|clock }}{{ at|stamp }}{{ at|ago }}", at=at) == "–––"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -5.0, 1e300, 0.0])
def test_an_absurd_number_is_drawn_without_failing(value: float) -> None:
    for html in (
        drawings.norm(USUAL, value),
        drawings.spark([value, 1.0]),
        drawings.bars([("failed", [value, 1])]),
        drawings.spans([(value, value, "run", "running")]),
        umbel.duration(value),
        umbel.duration_text(value),
        umbel.number(value),
        umbel.rate(value),
        umbel.percent(value),
    ):
        assert "nan" not in str(html) and "inf" not in str(html)


@pytest.mark.parametrize(
    ("seconds", "table", "prose"),
    [
        (None, "–", "–"),
        (0, "0s", "0 s"),
        (0.0004, "<1ms", "<1 ms"),
        (0.3, "300ms", "300 ms"),
        (0.9996, "1.0s", "1.0 s"),
        (2.04, "2.0s", "2.0 s"),
        (59.7, "60s", "1 min 00 s"),
        (90, "90s", "1 min 30 s"),
        (372, "6.2min", "6 min 12 s"),
        (2890, "48min", "48 min 10 s"),
        (7260, "2h 01min", "2 h 01 min"),
        (200_000, "2d 7h", "2 d 7 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float | None, table: str, prose: str) -> None:
    shown = re.sub(r"</?span[^>]*>", "", umbel.duration(seconds)).replace("\u00a0", " ").replace("&lt;", "<")
    assert shown == table
    assert umbel.duration_text(seconds).replace("\u00a0", " ") == prose


def test_ages_are_relative_and_keep_the_absolute() -> None:
    now = time.time()
    assert umbel.ago(now - 75, now) == "1\u00a0min ago"
    assert umbel.ago(now + 75, now) == "in 1\u00a0min"
    assert umbel.ago(now - 0.5, now) == "now"
    assert 'title="2026-03-12 14:32:04 UTC"' in umbel.when(1773325924.0)
    assert 'data-age="1773325924.000"' in umbel.when(1773325924.0)


def test_every_state_of_celery_has_its_word_and_a_glyph_of_the_sprite() -> None:
    from monitor.records import STATES

    sprite = set(re.findall(r'id="(s-[a-z]+)"', Path("templates/_icons.svg").read_text()))
    for name in (*STATES, *umbel.OWN):
        html = umbel.state(name)
        glyph = re.search(r'href="#([a-z-]+)"', html)
        assert glyph and glyph[1] in sprite, name
    assert "Waiting" in umbel.state("PENDING")
    assert "Running" in umbel.state("STARTED")
    assert "Slow" in umbel.state("STARTED", pace="slow")
    assert "Scheduled" in umbel.state("RECEIVED", eta=time.time() + 60)
    assert "Reserved" in umbel.state("RECEIVED", eta=time.time() - 60)


@pytest.mark.parametrize(
    ("value", "running", "state", "mark"),
    [
        (2.0, False, "", "<circle"),
        (2.0, True, "running", "mk-o"),
        (5.0, True, "slow", "<path"),
        (20.0, True, "stuck", '<rect class="mk"'),
        (20.0, False, "failed", '<rect class="mk"'),
    ],
)
def test_the_norm_bar_marks_where_the_run_is(value: float, running: bool, state: str, mark: str) -> None:
    html = drawings.norm(USUAL, value, running)
    assert mark in html
    assert (f'data-state="{state}"' in html) if state else "data-state" not in html


def test_nothing_is_compared_without_a_history() -> None:
    assert drawings.norm(None, 3.0) == ""
    assert drawings.norm(USUAL, None) == ""


def test_slots_say_in_words_what_they_show() -> None:
    cells = [{"state": "running", "fill": 0.5}, {"state": "stuck"}, {"state": "idle"}, {"state": "lost"}]
    html = drawings.slots(cells)
    assert 'aria-label="3 of 4 slots busy, 1 stuck, 1 lost"' in html
    assert drawings.slots([]) == ""


@pytest.mark.parametrize("count", [1, 8, 24, 25, 200, 201, 5000])
def test_a_pool_of_any_size_fits_its_box(count: int) -> None:
    html = drawings.slots([{"state": "running", "fill": 0.2}] * count)
    assert well_formed(html)[0].attrib["width"]
    assert len(html) < 60_000


def test_a_single_failure_stays_visible_beside_a_thousand_successes() -> None:
    html = drawings.bars([("succeeded", [1000.0]), ("failed", [1.0])], 180)
    assert "v-0.8" in html


@pytest.mark.parametrize("kind", list(ARTS))
def test_the_umbel_is_the_same_each_time(kind: str) -> None:
    assert art(kind) == art.__wrapped__(kind)
    well_formed(art(kind))
