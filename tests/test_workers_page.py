"""The list of workers: slots, figures, filters in the URL, beat apart, and hostile names."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from dashboard import access, fragments
from dashboard.fragments import Page
from dashboard.queries import workers as queries
from monitor import models

pytestmark = pytest.mark.django_db

EVIL = "<img src=x onerror=alert(1)>\"'/../@host"


@pytest.fixture
def viewer(client: Client) -> Client:
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    return client


def worker(hostname: str, **values: Any) -> models.Worker:
    now = time.time()
    defaults = {"status": "online", "pool": "prefork", "size": 4, "first_seen_at": now, "heartbeat_at": now}
    return models.Worker.objects.create(hostname=hostname, **defaults | values)


def task(uuid: str, **values: Any) -> models.Task:
    now = time.time()
    defaults = {"name": "shop.tasks.pay", "state": "STARTED", "started_at": now - 1, "first_seen_at": now}
    return models.Task.objects.create(uuid=uuid, **defaults | {"seen_at": now} | values)


def history(name: str = "shop.tasks.pay", **values: Any) -> None:
    now = time.time()
    defaults = {"runs": 100, "p50": 1.0, "p95": 10.0, "p99": 20.0, "first_seen_at": now, "last_seen_at": now}
    models.TaskType.objects.create(name=name, **defaults | values)
    from dashboard.queries import usual

    getattr(usual, "forget", lambda: None)()


def test_slots_fill_and_say_slow_and_stuck() -> None:
    history()
    worker("a@h")
    now = time.time()
    for uuid, seconds in (("u1", 5), ("u2", 15), ("u3", 90)):
        task(uuid, worker="a@h", started_at=now - seconds)
    (view,) = queries.fleet(now).workers
    assert [slot.state for slot in view.slots] == ["stuck", "slow", "running", "idle"]
    assert view.slots[2].fill == pytest.approx(0.5, abs=0.01)
    assert (view.busy, view.stuck, view.full) == (3, 1, False)


def test_a_worker_whose_clock_is_ahead_does_not_run_its_tasks_for_less_time() -> None:
    worker("a@h", drift=60.0)
    now = time.time()
    task("u1", worker="a@h", started_at=now + 60 - 5)
    (view,) = queries.fleet(now).workers
    assert view.slots[0].task is not None
    assert view.slots[0].task.elapsed == pytest.approx(5, abs=0.1)


def test_an_offline_worker_shows_its_last_slots_as_lost_and_no_rate() -> None:
    now = time.time()
    worker("a@h", status="offline", reason="silent since", heartbeat_at=now - 250, offline_at=now - 240)
    task("u1", worker="a@h", state="LOST", ended_at=now - 240)
    task("old", worker="a@h", state="LOST", ended_at=now - 9000, seen_at=now - 9000)
    (view,) = queries.fleet(now).workers
    assert [slot.state for slot in view.slots] == ["lost", "idle", "idle", "idle"]
    assert (view.busy, view.lost, view.rate, view.up) == (0, 1, 0.0, None)


def test_lost_tasks_are_not_looked_for_among_all_that_the_worker_ran() -> None:
    worker("a@h", status="offline", heartbeat_at=time.time() - 250)
    with CaptureQueriesContext(connection) as asked:
        queries.fleet()
    (sql,) = [query["sql"] for query in asked.captured_queries if "'LOST'" in query["sql"]]
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
            plan = str(cursor.fetchall())
        assert "task_state (state=? AND seen_at>?)" in plan
        assert "task_worker" not in plan
        assert "task_seen" not in plan


def test_a_worker_gone_for_more_than_a_day_is_not_listed() -> None:
    long_ago = time.time() - 90000
    worker("a@h", status="offline", offline_at=long_ago, heartbeat_at=long_ago)
    assert not queries.fleet().workers


def test_beat_is_shown_apart_and_not_counted(viewer: Client) -> None:
    worker("w@h")
    worker("beat@h", is_beat=True)
    html = viewer.get(reverse("workers")).content.decode()
    assert "1 worker, 1 online" in html
    assert "is celery beat" in html


def test_the_filter_and_the_sort_stand_in_the_url(viewer: Client) -> None:
    worker("mail@h", queues=["mail"], load=[0.5])
    worker("pay@h", queues=["pay"], load=[2.5])
    worker("gone@h", status="offline", offline_at=time.time())
    html = viewer.get(reverse("workers"), {"q": "PAY"}).content.decode()
    assert "pay</b>" in html
    assert "mail</b>" not in html
    html = viewer.get(reverse("workers"), {"status": "offline"}).content.decode()
    assert "gone</b>" in html
    assert "pay</b>" not in html
    html = viewer.get(reverse("workers"), {"sort": "-load"}).content.decode()
    assert html.index("pay</b>") < html.index("mail</b>")
    assert 'aria-sort="descending"' in html
    assert viewer.get(reverse("workers"), {"sort": "x", "status": "y"}).status_code == 200


def test_nothing_yet_and_nothing_that_matches_are_told_apart(viewer: Client) -> None:
    html = viewer.get(reverse("workers")).content.decode()
    assert "No workers yet" in html
    assert "celery -A proj worker -E" in html
    worker("a@h")
    assert "No worker matches" in viewer.get(reverse("workers"), {"q": "zzz"}).content.decode()


def test_events_off_has_a_button_for_operators_only() -> None:
    row = worker("a@h", events_on=False)
    path = reverse("worker-enable-events", args=[row.pk])
    region = fragments.named("workers")
    assert path in region.draw(Page("workers", role="operator"))
    assert path not in region.draw(Page("workers", role="viewer"))
    assert "events off" in region.draw(Page("workers", role="viewer"))
    assert path not in region.draw(Page("workers", role="operator", read_only=True))


def test_workers_can_be_chosen_only_by_who_may_do_something_with_them(viewer: Client, settings: Any) -> None:
    worker("a@h")
    region, box = fragments.named("workers"), 'name="worker"'
    assert box in region.draw(Page("workers", role="operator"))
    assert box not in region.draw(Page("workers", role="viewer"))
    assert box not in region.draw(Page("workers", role="admin", read_only=True))
    html = viewer.get(reverse("workers")).content.decode()
    assert box not in html and "data-bulk" not in html
    settings.UMBEL_PERMISSIONS = {"bulk": "admin"}
    assert box not in region.draw(Page("workers", role="operator"))
    assert box in region.draw(Page("workers", role="admin"))


def test_when_the_feed_is_down_workers_are_unknown_and_not_offline(viewer: Client) -> None:
    worker("a@h", status="unknown", reason="broker unreachable")
    html = viewer.get(reverse("workers")).content.decode()
    assert ">unknown<" in html
    assert "1 worker, 0 online" in html


@pytest.mark.parametrize("name", [EVIL, "x" * 255, "a/b@c", '"quoted"@h'])
def test_hostile_names_do_no_harm(viewer: Client, name: str) -> None:
    row = worker(name, pool=name, queues=[name], reason=name)
    for path in (reverse("workers"), reverse("worker", args=[row.pk]), reverse("overview")):
        answer = viewer.get(path)
        assert answer.status_code == 200
        assert "<img" not in answer.content.decode()


def test_reload_equals_live(viewer: Client) -> None:
    worker("a@h", heartbeat_at=time.time() - 7200, booted_at=time.time() - 90000.5)
    html = viewer.get(reverse("workers")).content.decode()
    drawn = fragments.named("workers").draw(Page("workers", role="viewer")).strip()
    assert drawn in html


def test_twenty_workers_take_no_more_queries_than_one(django_assert_max_num_queries: Any) -> None:
    history()
    for n in range(20):
        worker(f"w{n}@h")
        task(f"u{n}", worker=f"w{n}@h")
    with django_assert_max_num_queries(8):
        fragments.named("workers").draw(Page("workers"))
