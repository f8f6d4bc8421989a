"""The live regions of the tasks page and of the page of one task."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from dashboard import access
from dashboard.forms.tasks import RANGE_WORDS, SORTS, Filters
from dashboard.fragments import Page, Region, register
from dashboard.queries import feed as feed_queries
from dashboard.queries import task as task_queries
from dashboard.queries import tasks as queries
from monitor.deltas import CONTROLS, RATES, TASKS, WORKERS

CLOCK = "clock"


def _views(page: Page) -> Mapping[str, Any]:
    now = time.time()
    filters = Filters.of(page.params)
    counts = queries.paces(now)
    views = [
        ("All tasks", "", None),
        ("Running", "state=STARTED", counts["running"]),
        ("Stuck", "pace=stuck&sort=usual", counts["stuck"]),
        ("Slow", "pace=slow&sort=usual", counts["slow"]),
        ("Waiting", "state=PENDING&state=RECEIVED&state=RETRY", None),
        ("Failed", "state=FAILURE", None),
    ]
    here = "&".join(sorted(filters.url().lstrip("?").split("&")))
    return {
        "views": [
            {"label": label, "query": query, "count": count, "here": "&".join(sorted(query.split("&"))) == here}
            for label, query, count in views
        ]
    }


def _chips(page: Page) -> Mapping[str, Any]:
    return {"chips": queries.chips(Filters.of(page.params), time.time())}


def _matches(page: Page) -> Mapping[str, Any]:
    now = time.time()
    filters = Filters.of(page.params)
    state = filters.states[0] if len(filters.states) == 1 else ("STARTED" if filters.pace else "")
    return {
        "filters": filters,
        "range_words": RANGE_WORDS[filters.range],
        "matches": queries.matches(filters, now),
        "state": state,
        "binned": queries.BINNED,
    }


def _rows(page: Page) -> Mapping[str, Any]:
    now = time.time()
    filters = Filters.of(page.params)
    listing = queries.listing(filters, now)
    fresh = feed_queries.freshness()
    return {
        "filters": filters,
        "listing": listing,
        "older": filters.url(before=listing.older) if listing.older else "",
        "newest": filters.with_().url() if filters.before else "",
        "sort_word": SORTS[filters.sort],
        "by_run": filters.with_(sort="ran").url(),
        "by_usual": filters.with_(sort="usual").url(),
        "by_event": filters.with_(sort="").url(),
        "without": queries.without(filters, now) if not listing.rows and filters.any else [],
        "fresh": fresh,
        "silent_for": now - (fresh.feed.last_event_at or fresh.feed.started_at or now),
        "sampled_at": queries.SORTED,
    }


def _task(page: Page) -> Mapping[str, Any]:
    return {"d": task_queries.detail(page.arg("uuid"), time.time()), "may": access.can_control(page)}


def _topics(page: Page) -> tuple[str, ...]:
    return (f"task:{page.arg('uuid')}", CLOCK)


def _head_topics(page: Page) -> tuple[str, ...]:
    return (f"task:{page.arg('uuid')}", WORKERS, CONTROLS)


def _around_topics(page: Page) -> tuple[str, ...]:
    return (f"task:{page.arg('uuid')}", RATES)


def _workflow(page: Page) -> Mapping[str, Any]:
    return {"flow": task_queries.workflow(page.arg("uuid"), time.time())}


def _usual(page: Page) -> Mapping[str, Any]:
    return {"dist": task_queries.distribution(page.arg("uuid"), time.time())}


register(
    "tasks",
    [
        Region("task-views", _views, (TASKS,), "tasks/_views.html", every=2.0),
        Region("task-chips", _chips, (TASKS,), "tasks/_chips.html", every=1.0),
        Region("task-matches", _matches, (TASKS,), "tasks/_matches.html", every=2.0),
        # Twice a second, not once: an event must show within a second, and the engine takes a quarter of one.
        Region("task-rows", _rows, (TASKS,), "tasks/_rows.html", every=0.4, held=True),
    ],
)
register(
    "task",
    [
        Region("task-head", _task, _head_topics, "tasks/_head.html", every=0.25),
        Region("task-time", _task, _topics, "tasks/_time.html", every=0.5),
        Region("task-failure", _task, _around_topics, "tasks/_failure.html", every=0.5),
        Region("task-events", _task, _around_topics, "tasks/_events.html", every=0.25),
        Region("task-usual", _usual, _topics, "tasks/_usual.html", every=1.0),
        Region("task-workflow", _workflow, (TASKS,), "tasks/_workflow.html", every=1.0),
        Region("task-facts", _task, _head_topics, "tasks/_facts.html", every=0.5),
    ],
)
