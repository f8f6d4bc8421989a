"""The tasks page: filters, counts, paging and what it says when there is nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import Client

from dashboard import access, fragments
from dashboard.fragments import Page
from dashboard.queries import tasks as queries
from dashboard.queries import usual
from monitor.models import Task, TaskType

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    usual.forget()
    yield
    usual.forget()


@pytest.fixture
def viewer(client: Client) -> Client:
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    return client


def task(uuid: str, state: str = "SUCCESS", at: float | None = None, **more: Any) -> Task:
    at = time.time() if at is None else at
    fields = {"name": "shop.add", "worker": "w@h", "queue": "q", "first_seen_at": at, "seen_at": at}
    return Task.objects.create(uuid=uuid, state=state, **(fields | more))


def page(client: Client, query: str = "") -> str:
    answer = client.get(f"/tasks/?{query}")
    assert answer.status_code == 200
    return answer.content.decode()


def test_each_filter_keeps_what_matches_and_drops_the_rest(viewer: Client) -> None:
    task("keep-1", "FAILURE", name="shop.pay", worker="pay@h", queue="money", args="('needle',)")
    task("drop-1", "SUCCESS", name="mail.send", at=time.time() - 7200)
    for query in ("state=FAILURE", "name=shop.pay", "name=shop.*", "name=*pay", "worker=pay%40h",
                  "queue=money", "q=needle", "in=15m", "state=FAILURE&state=RETRY"):  # fmt: skip
        html = page(viewer, query)
        assert 'data-uuid="keep-1"' in html, query
        assert 'data-uuid="drop-1"' not in html, query


def test_a_bad_value_is_named_with_the_way_out_and_left_out(viewer: Client) -> None:
    task("one")
    for query, said in (
        ("state=BROKEN", "“BROKEN” is no state"),
        ("in=9y", "“9y” is no span"),
        ("sort=up", "“up” is no order"),
        ("from=yesterday", "“yesterday” is no time"),
        ("from=2026-03-02T10:00&to=2026-03-01T10:00", "swap them"),
        ("name=" + "x" * 300, "300 characters"),
    ):
        html = page(viewer, query)
        assert said in html, query
        assert 'data-uuid="one"' in html, query


def test_pages_follow_each_other_without_a_gap_or_a_repeat(viewer: Client) -> None:
    now = time.time()
    for n in range(120):
        task(f"t{n:03}", at=now - n // 3)  # three at each moment
    from django.http import QueryDict

    from dashboard.forms.tasks import task_filter

    seen, query = [], ""
    for _ in range(5):
        found = queries.window(task_filter(QueryDict(query)))
        seen += [row.task.uuid for row in found.rows]
        query = found.older
        if not query:
            break
    assert len(seen) == 120
    assert len(set(seen)) == 120
    back = queries.window(task_filter(QueryDict(found.newer)))
    assert [row.task.uuid for row in back.rows] == seen[50:100]


def test_a_count_past_its_bound_says_so(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "COUNTED", 5)
    for n in range(9):
        task(f"t{n}")
    assert "5+" in page(viewer)
    assert queries.state_counts()["SUCCESS"] == 6


def test_stuck_needs_thirty_runs_and_three_times_the_p99(viewer: Client) -> None:
    now = time.time()
    common = {"first_seen_at": now, "last_seen_at": now, "p50": 1.0, "p95": 2.0, "p99": 3.0}
    TaskType.objects.create(name="often", runs=30, **common)
    TaskType.objects.create(name="rare", runs=29, **common)
    task("stuck", "STARTED", name="often", started_at=now - 60)
    task("slow", "STARTED", name="often", started_at=now - 4)
    task("unknown", "STARTED", name="rare", started_at=now - 60)
    html = page(viewer, "stuck=1")
    assert 'data-uuid="stuck"' in html
    assert 'data-uuid="slow"' not in html and 'data-uuid="unknown"' not in html
    rows = [row.task.uuid for row in queries.window(_asked("sort=over")).rows]
    assert rows == ["stuck", "slow", "unknown"]
    assert "Slow" in page(viewer, "state=STARTED")


def _asked(query: str) -> Any:
    from django.http import QueryDict

    from dashboard.forms.tasks import task_filter

    return task_filter(QueryDict(query))


def test_nothing_yet_names_the_fix_and_nothing_matching_names_the_filter_to_drop(viewer: Client) -> None:
    assert "celery -A proj worker -E" in page(viewer)
    task("one")
    html = page(viewer, "q=absent&queue=q")
    assert "No task matches" in html
    assert "Drop the text filter" in html
    assert 'href="?queue=q"' in html


def test_a_page_of_rows_asks_the_database_a_fixed_number_of_times(
    viewer: Client, django_assert_max_num_queries: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is usual is read again after two seconds: on a busy machine between the page and its list.
    monkeypatch.setattr(usual, "FRESH", 600.0)
    for n in range(60):
        task(f"t{n}", name=f"name.{n}", worker=f"w{n}@h")
    with django_assert_max_num_queries(30):
        page(viewer)
    with django_assert_max_num_queries(3):
        fragments.named("task-list").draw(Page("tasks"))


def test_rows_can_be_chosen_only_by_who_may_do_something_with_them(viewer: Client, settings: Any) -> None:
    task("one")
    off = {name: "admin" for name in ("revoke", "terminate", "send_task")}
    for role, read_only, permissions, boxes in (
        ("operator", False, {}, 1),
        ("operator", False, {"revoke": "admin", "bulk": "admin"}, 1),
        ("operator", False, off, 0),
        ("admin", False, off, 1),
        ("viewer", False, {}, 0),
        ("admin", True, {}, 0),
    ):
        settings.UMBEL_PERMISSIONS = permissions
        where = Page("tasks", role=role, read_only=read_only)
        html = fragments.named("task-list").draw(where)
        assert html.count('name="uuid"') - html.count("rowact") == boxes, (role, permissions)
        assert html.count("data-all") == html.count("<kbd>x</kbd>") == boxes
        # As many columns as heads, and a span without ears goes over all of them.
        assert html.count("<col ") + html.count("<col>") == html.count('scope="col"') == 10 + boxes
    settings.UMBEL_PERMISSIONS = {}
    html = page(viewer)
    assert "data-bulk" not in html and 'data-uuid="one"' in html


def test_whoever_may_do_only_some_of_it_sees_the_rest_off_with_the_reason(
    client: Client, settings: Any
) -> None:
    settings.UMBEL_PERMISSIONS = {"terminate": "admin", "bulk": "admin"}
    task("one")
    client.force_login(access.create_user("olga", "operator", "correct horse 9"))
    html = page(client)
    assert html.count('disabled title="Needs the admin role"') == 1 and "data-bulk" in html
    assert html.count("data-everything disabled") == 1


def test_reload_equals_live(viewer: Client) -> None:
    now = time.time() - 5
    for n in range(3):
        task(f"t{n}", at=now)
    html = page(viewer, "state=SUCCESS")
    live = fragments.named("task-states").draw(Page("tasks", query="state=SUCCESS"))
    assert live.strip() in html
    row = fragments.named("task-list").draw(Page("tasks", query="state=SUCCESS"))
    assert [line for line in row.splitlines() if "data-uuid" in line] == [
        line for line in html.splitlines() if "data-uuid" in line
    ]


def test_a_row_offers_what_can_be_asked_for_it_and_a_viewer_nothing(client: Client) -> None:
    for uuid, state in (("waits", "RECEIVED"), ("runs", "STARTED"), ("over", "SUCCESS")):
        Task.objects.create(uuid=uuid, state=state, first_seen_at=1, seen_at=1)
    client.force_login(access.create_user("odile", "operator", "correct horse 9"))
    html = client.get("/tasks/").content.decode()
    # The row's own button posts its own task only, whatever else is selected.
    assert 'form="one" formaction="/tasks/revoke/" name="uuid" value="waits"' in html
    assert 'href="/tasks/terminate/?uuid=runs"' in html and html.count('class="rowact"') == 2
    client.force_login(access.create_user("vito", "viewer", "correct horse 9"))
    assert "rowact" not in client.get("/tasks/").content.decode()


def test_a_row_drawn_before_is_drawn_anew_when_its_task_changes(viewer: Client) -> None:
    one = task("again", "RECEIVED", at=time.time() - 90)
    first = fragments.named("task-list").draw(Page("tasks", role="operator"))
    assert fragments.named("task-list").draw(Page("tasks", role="operator")).count("Reserved") == 1
    assert "1 min ago" in first.replace("\u00a0", " ") and "Revoke" in first
    # Nobody's buttons are another role's.
    assert "Revoke" not in fragments.named("task-list").draw(Page("tasks", role="viewer"))
    Task.objects.filter(pk=one.pk).update(state="FAILURE", seen_at=time.time() - 5, result="late")
    after = fragments.named("task-list").draw(Page("tasks", role="operator"))
    assert "Failed" in after and "Reserved" not in after and "Revoke" not in after
