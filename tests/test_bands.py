"""Spans in which Umbel was not listening, on every chart and list that they touch."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from django.test import Client

from dashboard import access, fragments
from dashboard.fragments import Page
from dashboard.queries import gaps
from monitor import models
from monitor.deltas import topics
from monitor.records import Gap, Rollup
from monitor.store import Store

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("now")]
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
        rows = [Rollup(width, "all", "", start + n * width, succeeded=5) for n in range(590 // width)]
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


def test_a_blink_is_told_with_its_length_and_several_in_one_as_such() -> None:
    assert gaps.Blind(NOW // 10 * 10 + 0.1, NOW // 10 * 10 + 0.35).words.startswith("blind for 250")
    assert re.fullmatch(r"blind at times from [\d:]{8} to [\d:]{8}", gaps.Blind(NOW, NOW + 9, "", True).words)
    for n in range(60):
        gap(-3_000 + n * 10, -2_995 + n * 10)
    found = gaps.between(NOW - 40_000, NOW, NOW)
    assert [g.broken for g in found] == [True]


def test_spans_that_touch_are_one_and_not_broken() -> None:
    gap(-50, -40)
    gap(-40, -30)
    (found,) = gaps.between(NOW - 100, NOW, NOW)
    assert not found.broken and round(found.ended_at or 0) == round(NOW - 30)


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
    # As wide as the list, which has a column of boxes only for those who may use them.
    columns = page[page.index("<thead>") : page.index("</thead>")].count("<th ")
    assert f'<td colspan="{columns}"' in page[page.index(mine) :][:200]
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


def test_a_list_in_another_order_and_an_empty_one_say_it_in_a_sentence(viewer: Client) -> None:
    task("new", -5, runtime=1.0)
    gap(-40, -30)
    for query in ("sort=ran", "q=nowhere", "state=LOST"):
        page = html(viewer, f"/tasks/?{query}")
        panel = page[page.index('id="task-list"') :]
        assert "Umbel was <span" in panel and 'class="blind-r"' not in panel, query
    before = html(viewer, "/tasks/?q=nowhere&from=2020-01-01T00:00&to=2020-01-02T00:00")
    assert "Umbel was <span" not in before[before.index('id="task-list"') :]


def test_hits_of_a_text_have_the_row_between_them(viewer: Client) -> None:
    for uuid, at in (("new", -5), ("old", -60)):
        task(uuid, at, args="('needle',)")
    row = gap(-40, -30)
    page = html(viewer, "/tasks/?q=needle")
    mine = f'id="gap-{row.started_at * 1000:.0f}"'
    assert page.index('data-uuid="new"') < page.index(mine) < page.index('data-uuid="old"')


def test_a_search_that_finds_nothing_says_when_nobody_listened(viewer: Client) -> None:
    assert "what was sent then may be missing" not in html(viewer, "/search/?q=nowhere")
    gap(-40, -30)
    assert "what was sent then may be missing" in html(viewer, "/search/?q=nowhere")


def test_the_audit_log_has_a_row_where_effects_may_not_have_been_seen(viewer: Client) -> None:
    for at in (-5, -60):
        models.ControlRecord.objects.create(at=NOW + at, username="otto", role="operator", command="revoke")
    row = gap(-40, -30)
    page = html(viewer, "/audit/")
    new, old = (page.index(f'id="c-{r.pk}"') for r in models.ControlRecord.objects.order_by("-at"))
    assert new < page.index(f'id="gap-{row.started_at * 1000:.0f}"') < old
    assert "its effect may not have been seen" in page


def test_a_command_whose_effect_was_looked_for_meanwhile_says_so(viewer: Client) -> None:
    fields: dict[str, Any] = {"username": "otto", "role": "operator", "command": "revoke", "targets": ["t"]}
    one = models.ControlRecord.objects.create(
        at=NOW - 60, sent_at=NOW - 60, completed_at=NOW - 50, effect="unverified", **fields
    )
    gap(-40, -30)
    assert "Umbel was <span" not in html(viewer, f"/audit/{one.pk}/")
    gap(-58, -52)
    assert "An effect of then is known only" in html(viewer, f"/audit/{one.pk}/")


def test_pages_of_workers_say_so_while_it_may_still_show(viewer: Client) -> None:
    one = models.Worker.objects.create(hostname="a@h", status="online", first_seen_at=NOW - 9_000)
    models.Worker.objects.filter(pk=one.pk).update(details={"losses": {"accounts": {"7": []}}}, missed=3)
    gap(-5_000, -4_990)
    for path in ("/workers/", f"/workers/{one.pk}/"):
        assert 'blind" hidden></div>' in html(viewer, path), path
    # What was missed is counted since it was first heard of.
    assert "blind from" in html(viewer, f"/workers/{one.pk}/")
    gap(-40, -30)
    for path in ("/workers/", f"/workers/{one.pk}/"):
        assert "figures over it can be low" in html(viewer, path), path


def test_many_spans_are_told_in_few_words(viewer: Client) -> None:
    task("new", -5)
    for n in range(6):
        gap(-1_000 - n * 100, -990 - n * 100)
    page = html(viewer, "/tasks/?sort=ran")
    assert " and 3 times before" in page


def test_lists_hear_of_a_gap_by_itself() -> None:
    """While nobody listens no task changes, and no task's topic is told."""
    fragments.load()
    told = topics([Gap(NOW, None, "broker away")])
    for view, names in {
        "tasks": {"task-list", "task-matches"},
        "task": {"task-time"},
        "audit": {"audit-log"},
        "control-record": {"record"},
        "workers": {"workers-blind"},
        "worker": {"worker-blind", "worker-unheard"},
    }.items():
        page = Page(view, (("pk", 1), ("uuid", "u")))
        hearing = {r.name for r in fragments.regions(page) if r.listens(page) & told}
        assert names <= hearing, view
