"""Spans in which Umbel was not listening, on every chart and list that they touch."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from django.test import Client

from dashboard import access
from dashboard.queries import gaps
from monitor import models
from monitor.deltas import Delta
from monitor.records import Rollup
from monitor.store import Store

pytestmark = pytest.mark.django_db
NOW = time.time()


@pytest.fixture
def viewer(client: Client) -> Client:
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    return client


def gap(start: float, end: float | None, reason: str = "broker away") -> models.Gap:
    return models.Gap.objects.create(
        started_at=NOW + start, ended_at=None if end is None else NOW + end, reason=reason
    )


def task(uuid: str, at: float, **more: Any) -> None:
    fields: dict[str, Any] = {"name": "shop.add", "state": "SUCCESS", "first_seen_at": NOW + at}
    models.Task.objects.create(uuid=uuid, **(fields | {"seen_at": NOW + at} | more))


def finished() -> None:
    """Counts for the overview's chart."""
    for width in (10, 60):
        start = int(NOW // width) * width - 600
        rows = [Delta(Rollup(width, "all", "", start + n * width, succeeded=5)) for n in range(590 // width)]
        Store().write(rows, NOW)


def html(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.content.decode()


# Which, and where


def test_a_span_is_found_by_what_it_touches() -> None:
    gap(-100, -90)
    gap(-50, -40)
    gap(-5, None)
    found = gaps.between(NOW - 95, NOW - 45, NOW)
    assert [round(g.started_at - NOW) for g in found] == [-100, -50]
    assert gaps.between(NOW - 89, NOW - 51, NOW) == []
    assert [g.ended_at for g in gaps.between(NOW - 3, NOW, NOW)] == [None]


def test_it_is_told_with_its_day_when_that_is_not_today() -> None:
    old = gaps.Blind(1_784_000_000.0, 1_784_000_010.0)
    assert old.words == "blind from 2026-07-14 03:33:20 UTC to 2026-07-14 03:33:30 UTC"
    assert re.fullmatch(r"blind since [\d:]{8}", gaps.Blind(NOW, None).words)


def test_its_place_on_an_axis_is_cut_to_the_axis() -> None:
    assert gaps.Blind(10.0, 20.0).part(0.0, 100.0) == (10.0, 10.0)
    assert gaps.Blind(-10.0, 20.0).part(0.0, 100.0) == (0.0, 20.0)
    assert gaps.Blind(90.0, None).part(0.0, 100.0) == (90.0, 10.0)


def test_among_rows_it_stands_between_those_that_it_separates() -> None:
    gap(-50, -40)
    moments = [NOW - 10, NOW - 30, NOW - 45, NOW - 60, NOW - 70]
    assert {
        k: [round(g.started_at - NOW) for g in v] for k, v in gaps.among(moments, newest=True).items()
    } == {3: [-50]}
    gap(-5, None)
    assert sorted(gaps.among(moments, newest=True)) == [0, 3]
    assert sorted(gaps.among(moments, newest=False)) == [3]
    assert gaps.among([], newest=True) == {}


def test_a_broker_that_flaps_gives_a_few_bands() -> None:
    for n in range(200):
        gap(-2_000 + n * 5, -1_999 + n * 5)
    found = gaps.between(NOW - 3_600, NOW, NOW)
    assert 1 <= len(found) <= gaps.SHOWN
    assert found[-1].ended_at == pytest.approx(NOW - 1_004)


def test_an_engine_that_is_silent_is_blind_without_a_row() -> None:
    models.Feed.objects.create(pk=1, at=NOW - 60, data={})
    (found,) = gaps.between(NOW - 10, NOW, NOW)
    assert (found.started_at, found.ended_at) == (NOW - 60, None)


# On the pages


def test_without_a_gap_no_page_says_anything(viewer: Client) -> None:
    task("a", -10)
    finished()
    for path in ("/", "/tasks/", "/tasks/a/"):
        page = html(viewer, path)
        assert "blind from" not in page and "blind since" not in page and "blind-r" not in page


def test_the_overviews_chart_and_figures_say_so(viewer: Client) -> None:
    finished()
    gap(-300, -280)
    words = gaps.between(NOW - 600, NOW, NOW)[0].words
    page = html(viewer, "/")
    assert '<rect class="blind"' in page
    assert re.search(r'"blind": \[\[[\d.]+, [\d.]+\]\]', page)
    note = page[page.index('id="throughput-blind"') :][:900]
    assert words in note and "can be low" in note
    figures = page[page.index('id="figures"') :][:4_000]
    assert "can be low: Umbel was" in figures


def test_a_range_that_the_gap_does_not_touch_says_nothing(viewer: Client) -> None:
    finished()
    gap(-3_000, -2_900)
    assert "blind from" not in html(viewer, "/?range=15m")
    assert "blind from" in html(viewer, "/?range=1h")


def test_the_task_list_has_a_row_between_what_it_separates(viewer: Client) -> None:
    for uuid, at in (("new", -5), ("old", -60)):
        task(uuid, at)
    row = gap(-40, -30)
    page = html(viewer, "/tasks/")
    mine = f'id="gap-{row.started_at * 1000:.0f}"'
    assert page.index('data-uuid="new"') < page.index(mine) < page.index('data-uuid="old"')
    assert 'colspan="11"' in page
    assert '<rect class="blind"' in page[page.index('id="task-matches"') :]


def test_an_open_gap_stands_on_top_and_a_list_in_another_order_has_none(viewer: Client) -> None:
    task("new", -5)
    gap(-2, None)
    page = html(viewer, "/tasks/")
    assert "blind since" in page
    assert page.index('class="blind-r"') < page.index('data-uuid="new"')
    assert 'class="blind-r"' not in html(viewer, "/tasks/?sort=ran")


def test_a_reason_from_outside_is_text(viewer: Client) -> None:
    task("new", -50)
    gap(-20, -10, reason="<script>alert(1)</script>")
    for path in ("/", "/tasks/"):
        assert "<script>alert" not in html(viewer, path)


def test_a_tasks_timeline_shows_what_of_it_was_not_seen(viewer: Client) -> None:
    attempt = {"number": 0, "worker": "w@h", "state": "SUCCESS", "received_at": NOW - 60}
    attempt |= {"started_at": NOW - 50, "ended_at": NOW - 10}
    task("t", -10, received_at=NOW - 60, started_at=NOW - 50, ended_at=NOW - 10, attempts=[attempt])
    assert "g-blind" not in html(viewer, "/tasks/t/")
    gap(-40, -30)
    page = html(viewer, "/tasks/t/")
    assert "g-blind" in page and "Blind from" in page
    assert re.search(r'sp-blind" x="(39|40|41)[\d.]*%" width="20', page)
