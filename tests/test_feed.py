"""The header's chip, the banner, the feed page, the navigation's figures and search."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from django.test import Client
from django.urls import reverse

from dashboard import access, fragments
from dashboard.fragments import Page
from dashboard.fragments import feed as _registered  # noqa: F401
from dashboard.queries import feed as queries
from dashboard.queries import search
from monitor import models
from monitor.records import Accounting, FeedRecord

pytestmark = pytest.mark.django_db

NOW = 1_773_325_924.0
COUNTS = Accounting(
    received=100,
    applied=90,
    duplicate=4,
    malformed=3,
    ignored=2,
    dropped=1,
    missed=12,
    refused={"not JSON": 3},
)


def told(at: float | None = None, **values: Any) -> None:
    """The engine's word on the feed."""
    at = time.time() if at is None else at
    values = {
        "connected": True,
        "since": at - 60,
        "last_event_at": at,
        "lag": 0.4,
        "accounting": COUNTS,
    } | values
    data = msgspec.to_builtins(FeedRecord(broker="redis://broker:6379/0", transport="redis", **values))
    models.Feed.objects.update_or_create(pk=1, defaults={"at": at, "data": data})


def drawn(name: str, view: str = "feed", role: str = "viewer") -> str:
    return fragments.named(name).draw(Page(view, role=role))


def worker(hostname: str, **values: Any) -> models.Worker:
    defaults = {"status": "online", "first_seen_at": NOW} | values
    return models.Worker.objects.create(hostname=hostname, **defaults)


# The chip


def test_the_chip_says_live_how_far_behind_and_what_was_missed() -> None:
    told()
    chip = drawn("feed-chip").replace("\u00a0", " ")
    assert "Live" in chip and "0.4 s behind" in chip and "12 missed" in chip
    assert 'data-state="succeeded"' in chip


def test_the_chip_turns_amber_when_late() -> None:
    told(lag=9.0)
    assert 'data-state="warn"' in drawn("feed-chip")


def test_before_the_first_word_the_chip_claims_nothing() -> None:
    chip = drawn("feed-chip")
    assert "Starting" in chip and "Live" not in chip
    assert "0" not in chip


def test_connected_without_an_event_is_said() -> None:
    told(last_event_at=None, lag=None)
    assert "no events yet" in drawn("feed-chip")


def test_without_the_broker_the_chip_is_not_live() -> None:
    told(connected=False)
    assert "Not live" in drawn("feed-chip")


def test_a_feed_row_of_another_version_is_not_half_believed() -> None:
    models.Feed.objects.create(pk=1, at=NOW, data={"connected": {"what": 1}})
    assert "Starting" in drawn("feed-chip")


@pytest.mark.parametrize(
    "name",
    ["feed-chip", "feed-pop", "feed-banner", "cluster", "nav", "feed-facts", "feed-missed", "feed-pages"],
)
@pytest.mark.parametrize("known", [False, True])
def test_every_region_is_one_element_with_its_name_as_id(name: str, known: bool) -> None:
    if known:
        told()
        models.Gap.objects.create(started_at=NOW, ended_at=NOW + 12, reason="<img onerror=1>")
        worker("<img src=x onerror=alert(1)>@h", missed=3)
    html = drawn(name).strip()
    assert html.count(f'id="{name}"') == 1
    assert html.startswith("<") and f'id="{name}"' in html[: html.index(">")]
    assert "<img" not in html


# The banner


def banner(**values: Any) -> queries.Banner | None:
    told(NOW, **values)
    return queries.banner(queries.freshness(NOW), NOW)


def test_a_picture_that_can_be_trusted_has_no_banner() -> None:
    assert banner() is None
    told()
    assert "hidden" in drawn("feed-banner")


def test_a_broker_out_of_reach_makes_workers_unknown_not_offline() -> None:
    said = banner(connected=False, error="Connection refused (111)", since=NOW - 30)
    assert said and said.head == "Umbel cannot reach the broker" and said.since == NOW - 30
    assert "Connection refused (111)" in said.text and "unknown, not offline" in said.text


def test_a_silent_engine_is_told_from_a_silent_broker() -> None:
    told(NOW)
    said = queries.banner(queries.freshness(NOW + 60), NOW + 60)
    assert said and "engine is silent" in said.head and said.since == NOW


def test_a_history_that_cannot_be_written_is_said() -> None:
    said = banner(store_error="disk full", store_failures=3, store_pending=1200)
    assert said and "cannot write" in said.head and "1,200" in said.text


def test_more_than_ten_seconds_behind_is_said() -> None:
    assert banner(lag=9.0) is None
    said = banner(lag=42.0)
    assert said and said.head == "42 s behind"


def test_losing_is_said_with_its_start_and_size_for_a_while() -> None:
    models.Gap.objects.create(started_at=NOW - 100, ended_at=NOW - 88, reason="reset")
    said = banner()
    assert said and said.since == NOW - 100 and "12.0 s" in said.text and said.head == "12 events missed"
    told(NOW + 7200)
    assert queries.banner(queries.freshness(NOW + 7200), NOW + 7200) is None


def test_a_connection_that_was_cut_again_and_again_is_one_trouble() -> None:
    for n in range(8):
        start = NOW - 100 + n
        models.Gap.objects.create(started_at=start, ended_at=start + 0.25, reason="reset")
    models.Gap.objects.create(started_at=NOW - 400, ended_at=NOW - 395, reason="reset")
    said = banner()
    assert said and said.since == NOW - 400 and "7.0 s, in 9 spans" in said.text
    newest, before = queries.gaps()
    assert (newest.times, newest.elapsed, newest.started_at) == (8, 2.0, NOW - 100)
    assert (before.times, before.elapsed) == (1, 5.0)
    assert "in 8 cuts" in drawn("feed-missed")


def test_spans_that_overlap_are_counted_once() -> None:
    models.Gap.objects.create(started_at=NOW - 60, ended_at=NOW - 40)
    models.Gap.objects.create(started_at=NOW - 50, ended_at=NOW - 30)
    (one,) = queries.gaps()
    assert (one.started_at, one.ended_at, one.elapsed) == (NOW - 60, NOW - 30, 30.0)


def test_a_loss_under_a_thousandth_is_no_banner() -> None:
    models.Gap.objects.create(started_at=NOW - 100, ended_at=NOW - 88)
    assert banner(accounting=Accounting(received=100_000, applied=100_000, missed=50)) is None


def test_the_worst_comes_first() -> None:
    said = banner(connected=False, lag=60.0, store_error="disk full")
    assert said and said.head == "Umbel cannot reach the broker"


# The feed page


@pytest.fixture
def viewer(client: Client) -> Client:
    client.force_login(access.create_user("viewer", "viewer", "correct horse 9"))
    return client


def test_the_feed_page_shows_the_sum_and_every_part(viewer: Client) -> None:
    told(limits={"live tasks": 7}, worst_drift=-252.0, worst_drift_worker="a@b")
    page = viewer.get(reverse("feed")).content.decode().replace("\u00a0", " ")
    for words in ("The sum is right", "not JSON", "live tasks", "a@b -4 min 12 s", "received = applied"):
        assert words in page


def test_a_sum_that_is_wrong_is_said_to_be_wrong() -> None:
    told(accounting=Accounting(received=10, applied=1))
    assert "The sum is wrong" in drawn("feed-facts")


def test_hostile_words_of_the_broker_are_text(viewer: Client) -> None:
    evil = "<img src=x onerror=alert(1)>"
    told(
        connected=False,
        error=evil,
        worst_drift=1.0,
        worst_drift_worker=evil,
        store_error=evil,
        limits={evil: 1},
    )
    models.Gap.objects.create(started_at=NOW, reason=evil)
    page = viewer.get(reverse("feed")).content.decode()
    assert "<img" not in page and "&lt;img" in page


def test_an_absurd_time_does_not_break_the_page(viewer: Client) -> None:
    told(last_event_at=1e30, since=-1e30, lag=1e12, rate=1e300)
    models.Gap.objects.create(started_at=1e20, ended_at=2e20)
    assert viewer.get(reverse("feed")).status_code == 200


# Navigation


def test_the_navigation_counts_what_runs_and_who_is_away() -> None:
    worker("a@b")
    worker("c@d", status="offline")
    worker("beat@d", is_beat=True)
    models.Task.objects.create(uuid="t1", state="STARTED", first_seen_at=NOW, seen_at=NOW)
    html = drawn("nav", "tasks")
    assert "1/2" in html and "1<span" in html
    assert html.count('aria-current="page"') == 1


def test_only_admins_are_shown_the_users_page() -> None:
    assert "/users/" not in drawn("nav", role="operator")
    assert "/users/" in drawn("nav", role="admin")


def test_the_page_and_a_frame_draw_the_same(viewer: Client) -> None:
    told(NOW)
    page = viewer.get(reverse("feed")).content.decode()
    for name in ("nav", "cluster", "feed-missed"):
        assert drawn(name) in page


# Search


def test_search_finds_a_task_by_the_beginning_of_its_id(viewer: Client) -> None:
    models.Task.objects.create(uuid="df07ee6c-1", name="a.b", state="FAILURE", first_seen_at=NOW, seen_at=NOW)
    page = viewer.get(reverse("search"), {"q": "DF07ee"}).content.decode()
    assert reverse("task", args=["df07ee6c-1"]) in page and "failed" in page
    assert search.hits("df0") == []


def test_search_finds_workers_names_and_queues() -> None:
    found = worker("mail@prod", queues=["mail", "bulk"])
    models.TaskType.objects.create(name="mail.send", runs=1200, first_seen_at=NOW, last_seen_at=NOW)
    hits = {hit.text: hit for hit in search.hits("mail")}
    assert set(hits) == {"mail@prod", "mail.send", "mail"}
    assert hits["mail@prod"].href == reverse("worker", args=[found.pk])
    assert hits["mail.send"].href == "/tasks/?name=mail.send"
    assert hits["mail"].href == "/tasks/?queue=mail"


def test_the_dialog_gets_the_hits_alone(viewer: Client) -> None:
    worker("mail@prod")
    part = viewer.get(reverse("search"), {"q": "mail"}, headers={"HX-Request": "true"}).content.decode()
    assert part.startswith('<ul class="hits" id="hits">') and "<mark>mail</mark>@prod" in part


@pytest.mark.parametrize(
    "q", ["", " ", "%", "_", "\0", "<img onerror=1>", "'; --", "é" * 5000, "\\", "%%%%%"]
)
def test_search_takes_anything(viewer: Client, q: str) -> None:
    worker("<img onerror=1>@h", queues=["<img onerror=1>", 7])
    answer = viewer.get(reverse("search"), {"q": q})
    assert answer.status_code == 200
    assert "<img" not in answer.content.decode()


def test_a_percent_sign_is_no_wildcard() -> None:
    worker("mail@prod")
    assert search.hits("m%l") == []
