"""The overview: a sentence that agrees with the list, figures against their past, words when empty."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec
import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from dashboard import access, fragments
from dashboard.fragments import Page
from dashboard.queries import attention, backlog, overview, shared, waiting
from dashboard.queries import feed as feed_queries
from dashboard.queries import workers as fleet_queries
from monitor import models
from monitor.records import FeedRecord
from tests.test_workers_page import history, task, worker

pytestmark = pytest.mark.django_db


@pytest.fixture
def viewer(client: Client) -> Client:
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    return client


@pytest.fixture
def shared_readings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in the product, where what one region read serves the next."""
    shared.forget()
    monkeypatch.setattr(shared, "kept", True)
    yield
    shared.forget()


def told(**values: Any) -> None:
    now = time.time()
    record = FeedRecord(
        **{"connected": True, "since": now - 90, "last_event_at": now, "broker": "redis://b:1/0"} | values
    )
    models.Feed.objects.create(pk=1, at=now, data=msgspec.to_builtins(record))


def items() -> list[attention.Item]:
    return attention.current()


def head() -> str:
    fleet = fleet_queries.fleet()
    return attention.verdict(attention.current(), fleet).head


def test_all_is_well_and_says_so(viewer: Client) -> None:
    told()
    for n in range(4):
        worker(f"w{n}@h")
    html = viewer.get("/").content.decode()
    assert "All 4 workers healthy" in html
    assert "Nothing needs you." in html


def test_the_sentence_is_made_of_the_first_two_of_the_list() -> None:
    now = time.time()
    history()
    worker("gone@h", status="offline", reason="silent since", heartbeat_at=now - 100, offline_at=now - 90)
    task("lost", worker="gone@h", state="LOST", ended_at=now - 90)
    worker("a@h", size=0, events_on=False, duplicate=True)
    task("long", worker="a@h", started_at=now - 900)
    found = items()
    assert [item.title for item in found][:2] == ["gone@h is offline", "1 task looks stuck"]
    assert head() == "gone@h is offline and 1 task looks stuck"
    titles = {item.title for item in found}
    assert {"a@h has no pool process", "a@h sends no task events", "a@h is there twice"} <= titles


def test_a_worker_that_said_goodbye_needs_nobody() -> None:
    now = time.time()
    worker("a@h")
    worker("b@h", status="offline", reason="said goodbye", offline_at=now, heartbeat_at=now)
    assert not items()
    assert head() == "All 1 online workers healthy"


def test_no_event_for_half_a_minute_names_the_fix() -> None:
    told(last_event_at=time.time() - 45)
    worker("a@h")
    (item,) = items()
    assert item.title.startswith("No events for 45")
    assert "-E" in item.text


def test_a_silent_broker_is_said_first_and_no_worker_is_blamed() -> None:
    told(connected=False, error="refused")
    worker("a@h", status="unknown")
    history()
    task("long", worker="a@h", started_at=time.time() - 900)
    assert [item.title for item in items()] == ["Umbel cannot reach the broker"]


def test_a_name_that_fails_more_than_it_used_to_is_listed() -> None:
    now = int(time.time() // 60) * 60
    history(runs=1000, failures=14)
    models.Rollup.objects.create(
        width=60, start=now, by="name", key="shop.tasks.pay", succeeded=40, failed=10
    )
    assert [item.title for item in items()] == ["pay fails 20.0%"]


def test_a_queue_that_grows_is_listed_and_one_that_drains_is_not() -> None:
    now = time.time()
    for n in range(60):
        task(f"u{n}", state="PENDING", queue="slow", first_seen_at=now - 5, started_at=None, sent_at=now - 5)
    assert [item.title for item in items()] == ["slow grows faster than it drains"]
    models.Task.objects.update(first_seen_at=now - 600)
    assert not items()


def test_more_than_seven_are_counted() -> None:
    for n in range(9):
        worker(f"w{n}@h", events_on=False)
    html = fragments.named("attention").draw(Page("overview", role="operator"))
    assert html.count("<li") == 7
    assert "and 2 more" in html
    assert html.count("Enable events") == 7
    assert "Enable events" not in fragments.named("attention").draw(Page("overview", role="viewer"))


def test_figures_have_no_usual_range_before_there_is_history() -> None:
    worker("a@h")
    fleet = fleet_queries.fleet()
    found = overview.figures(overview.RANGES[0], fleet, backlog.backlog(fleet))
    assert [figure.note for figure in found][:4] == ["no history yet"] * 4
    now = int(time.time() // 10) * 10
    for n in range(1, 181):
        models.Rollup.objects.create(width=10, by="all", start=now - n * 10, succeeded=98, failed=2)
    for n in range(1, 31):
        models.Rollup.objects.create(
            width=60, by="all", start=(now // 60 - n) * 60, succeeded=588, failed=12, wait={"0": 600}
        )
    found = overview.figures(overview.RANGES[0], fleet, backlog.backlog(fleet))
    assert (found[0].value, found[1].value, found[1].unit) == ("10.0", "2.0", "%")
    assert found[1].note == "usual 2.0%"
    assert not found[1].state
    assert (found[3].value, found[3].unit, found[3].note) == ("1.0", "s", "median 1.0\u00a0s")
    models.Rollup.objects.filter(start__gte=now - 60).update(failed=20)
    found = overview.figures(overview.RANGES[0], fleet, backlog.backlog(fleet))
    assert found[1].state == "failed"


@pytest.mark.parametrize("span", overview.RANGES, ids=lambda span: span.key)
def test_the_chart_has_whole_bars_per_second_over_its_range(span: overview.Range) -> None:
    now = 1_773_325_924.0
    end = int(now // span.step) * span.step
    width = 10 if span.step == 10 else 60
    counted = partial(models.Rollup.objects.create, width=width, by="all")
    counted(start=end - width, succeeded=50, failed=5, retried=10)
    counted(start=end, succeeded=999)
    counted(start=end - span.seconds - width, succeeded=999)
    data = overview.throughput(span, now)
    assert data["t"] == list(range(end - span.seconds, end, span.step))
    assert data["succeeded"][-1] == pytest.approx(50 / span.step, abs=1e-3)
    assert max(data["succeeded"]) == data["succeeded"][-1]


def test_a_young_history_does_not_stand_in_a_corner_of_the_chart() -> None:
    now = 1_773_325_924.0
    end = int(now // 10) * 10
    models.Rollup.objects.create(width=10, by="all", start=end - 20, succeeded=50)
    assert overview.throughput(overview.RANGES[0], now)["t"][0] == end - 300
    models.Rollup.objects.create(width=10, by="all", start=end - 600, succeeded=50)
    assert overview.throughput(overview.RANGES[0], now)["t"][0] == end - 600


def test_failures_are_grouped_by_exception_and_old_ones_left_out() -> None:
    now = time.time()
    for n in range(3):
        task(f"a{n}", state="FAILURE", exception_type="CardTimeout", exception="CardTimeout('no answer')")
    task("b", state="FAILURE", exception_type="ValueError", exception="ValueError(1)")
    task("old", state="FAILURE", exception_type="KeyError", seen_at=now - 5000)
    found, total, more = overview.failures(overview.RANGES[0], now)
    assert [(f.kind, f.message, f.count) for f in found] == [
        ("CardTimeout", "no answer", 3),
        ("ValueError", "1", 1),
    ]
    assert (total, more) == (4, False)


def test_a_task_that_raised_reject_is_called_rejected() -> None:
    task("a", state="FAILURE", exception="reject requeue=False: Acme is locked")
    found, _, _ = overview.failures(overview.RANGES[0])
    assert [(f.kind, f.message) for f in found] == [("Rejected", "Acme is locked")]


def test_a_name_in_bold_evidence_is_text(viewer: Client) -> None:
    queue = "<img src=x>"
    for n in range(60):
        task(f"u{n}", state="PENDING", queue=queue, first_seen_at=time.time())
    html = viewer.get("/").content.decode()
    assert "<b>60</b> waiting" in html
    assert queue not in html


def test_the_first_run_names_the_broker_and_the_command(viewer: Client) -> None:
    told()
    html = viewer.get("/").content.decode()
    assert "No workers yet" in html
    assert "redis://b:1/0" in html
    assert "celery -A proj worker -E" in html
    assert "task_send_sent_event = True" in html
    worker("a@h")
    assert '<section id="overview-empty" hidden>' in viewer.get("/").content.decode()


def test_the_range_stands_in_the_url_and_an_unknown_one_is_the_shortest(viewer: Client) -> None:
    assert 'href="?range=1h" aria-current="true"' in viewer.get("/", {"range": "1h"}).content.decode()
    assert 'href="?range=15m" aria-current="true"' in viewer.get("/", {"range": "<b>"}).content.decode()


REGIONS = ("verdict", "figures", "attention", "fleet", "backlog", "slowest", "failures")


def test_twenty_workers_take_no_more_queries_than_one(
    shared_readings: None, django_assert_max_num_queries: Any
) -> None:
    history()
    for n in range(20):
        worker(f"w{n}@h")
        task(f"u{n}", worker=f"w{n}@h")
    with django_assert_max_num_queries(25):
        for name in REGIONS:
            fragments.named(name).draw(Page("overview"))


def test_regions_share_what_they_read(
    shared_readings: None, monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: Any
) -> None:
    monkeypatch.setattr(fleet_queries, "FRESH", 60.0)
    worker("a@h")
    for name in REGIONS:
        fragments.named(name).draw(Page("overview"))
    for name in ("verdict", "attention", "fleet", "backlog", "slowest"):
        with django_assert_max_num_queries(0):
            fragments.named(name).draw(Page("overview", role="operator"))
    with django_assert_max_num_queries(4):
        fragments.named("figures").draw(Page("overview"))


def test_what_waits_is_counted_in_the_database(django_assert_max_num_queries: Any) -> None:
    now = time.time()
    for n in range(300):
        task(f"u{n}", state="PENDING", queue=f"q{n % 3}", sent_at=now - 10 - n, first_seen_at=now)
    task("later", state="RECEIVED", queue="q0", worker="a@h", eta=now + 900, first_seen_at=now)
    task("odd", state="PENDING", queue="q1", sent_at=-1e300, first_seen_at=now)
    with CaptureQueriesContext(connection) as asked:
        found = waiting.waiting(now)
    assert dict(found.queues) == {"q0": 100, "q1": 101, "q2": 100}
    assert found.oldest["q1"] == pytest.approx(now - 10 - 298)
    assert (dict(found.reserved), found.more) == ({"a@h": 1}, False)
    assert len(asked) == 1
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {asked[0]['sql']}")
            assert str(cursor.fetchall()).count("USING COVERING INDEX task_waiting") == 2


def test_a_region_is_one_for_all_who_cannot_tell_it_apart() -> None:
    parts = {
        name: {fragments.named(name).part(Page("overview", role=role, query=query)) for role in access.ROLES
               for query in ("", "range=1h")}
        for name in ("fleet", "verdict", "attention", "feed-chip", "nav")
    }  # fmt: skip
    assert {name: len(each) for name, each in parts.items()} == {
        **{"fleet": 1, "verdict": 2, "attention": 3, "feed-chip": 1, "nav": 3}
    }


def test_strangers_see_nothing(client: Client) -> None:
    assert client.get(reverse("overview")).status_code == 302
    assert feed_queries.counts().known == 0
