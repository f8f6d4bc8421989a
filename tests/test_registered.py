"""Limits of tasks as workers list them: what Celery writes, and everything that could come instead."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dashboard.queries import workers as worker_queries
from dashboard.queries.registered import MOST_ROWS, Limits, parsed, registered
from tests.test_workers_page import worker


@pytest.mark.parametrize(
    ("line", "limits"),
    [
        (
            "shop.add [soft_time_limit=30.0 time_limit=60.0 rate_limit=10/m max_retries=3 acks_late=False]",
            Limits("shop.add", "10/m", "30", "60"),
        ),
        ("shop.add [max_retries=3 acks_late=True ignore_result=False]", Limits("shop.add")),
        ("shop.add", Limits("shop.add")),
        ("shop.add [rate_limit=3]", Limits("shop.add", "3")),
        ("shop.add [time_limit=2.5]", Limits("shop.add", hard="2.5")),
        ("shop.add [rate_limit=0 time_limit=None soft_time_limit=0.0]", Limits("shop.add")),
        ("shop add [it] [rate_limit=5/s]", Limits("shop add [it]", "5/s")),
        ("shop.add []", Limits("shop.add")),
        ("shop.add [", Limits("shop.add [")),
        ("shop.add [rate_limit=", Limits("shop.add [rate_limit=")),
        ("shop.add [rate_limit=]", Limits("shop.add")),
        ("shop.add [rate_limit=10 / m time_limit=60]", Limits("shop.add", "10 / m", hard="60")),
        ("shop.add [my_time_limit=9 time_limit=60]", Limits("shop.add", hard="60")),
        (f"shop.add [rate_limit={'9' * 99}]", Limits("shop.add", "9" * 32)),
        ("[rate_limit=3]", Limits("[rate_limit=3]")),
        ("日本語.仕事 [time_limit=1]", Limits("日本語.仕事", hard="1")),
    ],
)
def test_an_entry_is_read(line: str, limits: Limits) -> None:
    assert parsed(line) == limits


@pytest.mark.parametrize("line", ["", "   ", " [rate_limit=3]", None, 7, ["shop.add"], {"name": "shop.add"}])
def test_what_names_no_task_is_left_out(line: Any) -> None:
    assert parsed(line) is None


@pytest.mark.django_db
def test_limited_tasks_come_first_and_the_pool_tells_its_own_times() -> None:
    listed: list[Any] = [f"shop.t{n:03}" for n in range(60)]
    listed += ["shop.z [rate_limit=1/s]", None, 3, "shop.z [rate_limit=1/s]"]
    row = worker("a@h", details={"registered": listed, "stats": {"pool": {"timeouts": [30, 0]}}})
    view = worker_queries.one(row.pk, time.time())
    assert view is not None
    found = registered(view)
    assert found.known and len(found.tasks) == 61 and found.more == 61 - MOST_ROWS
    assert found.rows[0] == Limits("shop.z", "1/s") and found.rows[1].name == "shop.t000"
    assert found.names[-1] == "shop.z"
    assert found.soft and not found.hard


@pytest.mark.django_db
@pytest.mark.parametrize(
    "details",
    [
        {}, [], "x", {"registered": None}, {"registered": "shop.add"}, {"registered": {"shop.add": 1}},
        {"registered": None, "stats": []},
    ],
)  # fmt: skip
def test_without_an_answer_nothing_is_known(details: Any) -> None:
    view = worker_queries.one(worker("a@h", details=details).pk, time.time())
    assert view is not None
    assert not registered(view).known and registered(view).tasks == []


@pytest.mark.django_db
@pytest.mark.parametrize("times", [None, 5, [], [1], ["30", "60"], [True, True], [-1, 1e12], [0, 0]])
def test_odd_times_of_a_pool_are_none(times: Any) -> None:
    row = worker("a@h", details={"registered": ["shop.add"], "stats": {"pool": {"timeouts": times}}})
    view = worker_queries.one(row.pk, time.time())
    assert view is not None
    assert (registered(view).soft, registered(view).hard) == ("", "")
