"""The page of one task: where the time went, its traceback, its kin, and what is not known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import Client

from dashboard import access, fragments
from dashboard.fragments import Page
from dashboard.queries import usual
from monitor.models import Task, TaskType, Worker

pytestmark = pytest.mark.django_db

TRACE = """Traceback (most recent call last):
  File "/venv/lib/python3.11/site-packages/celery/app/trace.py", line 453, in trace_task
    R = retval = fun(*args, **kwargs)
  File "/srv/shop/pay.py", line 141, in capture
    raise Timeout("no answer")
shop.errors.Timeout: no answer"""


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    usual.forget()
    yield
    usual.forget()


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(access.create_user("otto", "operator", "correct horse 9"))
    return client


def task(uuid: str, state: str = "SUCCESS", **more: Any) -> Task:
    now = time.time()
    fields = {"name": "shop.add", "worker": "w@h", "first_seen_at": now, "seen_at": now}
    return Task.objects.create(uuid=uuid, state=state, **(fields | more))


def worker(pool: str = "prefork", **more: Any) -> Worker:
    return Worker.objects.create(
        hostname="w@h", status="online", pool=pool, size=2, first_seen_at=time.time(), **more
    )


def page(client: Client, uuid: str, status: int = 200) -> str:
    answer = client.get(f"/tasks/{uuid}/")
    assert answer.status_code == status
    return answer.content.decode()


def test_a_task_that_umbel_does_not_know_says_what_is_known_and_the_way_out(operator: Client) -> None:
    html = page(operator, "nobody", 404)
    assert "does not know this task" in html and "task_send_sent_event" in html
    task("child", parent_id="nobody")
    assert "1 task of its workflow is known" in page(operator, "nobody", 404)


def test_every_attempt_has_its_bar_and_a_running_one_draws_to_now(operator: Client) -> None:
    now = time.time()
    attempts = [
        {
            "number": 0,
            "state": "RETRY",
            "received_at": now - 30,
            "started_at": now - 29,
            "ended_at": now - 27,
        },
        {"number": 1, "state": "STARTED", "received_at": now - 26, "started_at": now - 20},
    ]
    task("two", "STARTED", sent_at=now - 31, started_at=now - 20, retries=1, attempts=attempts)
    html = page(operator, "two")
    assert html.count('class="g-row"') == 2
    assert "Attempt 2" in html and "waiting to retry" in html
    assert 'fill="url(#p-retry)"' in html


def test_a_traceback_folds_libraries_and_marks_the_line_that_raises(operator: Client) -> None:
    task("bad", "FAILURE", exception="Timeout('no answer')", exception_type="Timeout", traceback=TRACE)
    html = page(operator, "bad")
    assert "1 frame in libraries, hidden" in html
    assert '<span class="here">    raise Timeout(&quot;no answer&quot;)</span>' in html


def test_buttons_that_cannot_work_are_off_and_say_why(operator: Client, settings: Any) -> None:
    task("runs", "STARTED", started_at=time.time())
    task("done", "SUCCESS")
    task("waits", "RECEIVED")
    here = worker()
    html = page(operator, "runs")
    assert 'hx-get="/tasks/terminate/?uuid=runs"' in html
    assert 'title="A running task cannot be revoked without terminating it"' in html
    assert 'title="This task has already ended"' in page(operator, "done")
    assert 'formaction="/tasks/revoke/"' in page(operator, "waits")
    here.pool = "threads"
    here.save()
    html = page(operator, "runs")
    assert (
        "threads pool cannot stop a running task" in html
        and "tasks/terminate" not in html.split("task-time")[0].split('id="task-head"')[1]
    )
    settings.UMBEL_READ_ONLY = True
    assert 'title="Umbel runs read-only"' in page(operator, "waits")


def test_a_ring_of_parents_and_a_large_family_end(operator: Client) -> None:
    task("a", parent_id="b", root_id="a")
    task("b", parent_id="a", root_id="a")
    Task.objects.bulk_create(
        Task(uuid=f"k{n}", state="SUCCESS", root_id="a", parent_id="a", first_seen_at=1, seen_at=1)
        for n in range(400)
    )
    assert page(operator, "a").count('class="node"') <= 202


def test_it_is_set_against_its_usual_runtime(operator: Client) -> None:
    from monitor import rates

    counts: dict[int, int] = {}
    for n in range(100):
        rates.add(counts, 1 + n / 100)
    TaskType.objects.create(
        name="shop.add", runs=100, first_seen_at=1, last_seen_at=1, p50=1.5, p95=1.9, p99=2.0,
        histogram={str(k): v for k, v in counts.items()},
    )  # fmt: skip
    task("slow", "STARTED", started_at=time.time() - 60)
    html = page(operator, "slow")
    assert "100 runs" in html and "Why Umbel calls this stuck" in html and 'class="dist"' in html


def test_one_page_asks_the_database_a_bounded_number_of_times(
    operator: Client, django_assert_max_num_queries: Callable[[int], Any]
) -> None:
    worker()
    for n in range(50):
        task(f"t{n}", root_id="t0", parent_id="t0" if n else None, name=f"n{n}")
    with django_assert_max_num_queries(46):
        page(operator, "t0")


def test_reload_equals_live(operator: Client) -> None:
    worker()
    task("bad", "FAILURE", exception="E()", traceback=TRACE, marks=[["failed", "w@h", 1, 1, 1e9, 1e9, None]])
    html = page(operator, "bad")
    here = Page("task", (("uuid", "bad"),), role="operator")
    for name in ("task-failure", "task-events", "task-workflow", "task-facts", "task-usual"):
        assert fragments.named(name).draw(here).strip() in html, name
    assert f"task:{'bad'}" in fragments.named("task-time").listens(here)


def test_a_signal_is_told_by_its_name() -> None:
    from dashboard.queries.task import _signal

    assert (_signal("9"), _signal("SIGTERM"), _signal("999")) == ("SIGKILL", "SIGTERM", "999")
