"""Regions of the overview."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from dashboard import access
from dashboard.fragments import Page, Region, register
from dashboard.queries import attention as attention_queries
from dashboard.queries import backlog as backlog_queries
from dashboard.queries import feed as feed_queries
from dashboard.queries import overview as queries
from dashboard.queries import workers as worker_queries
from monitor.deltas import FEED, RATES, TASKS, WORKERS

CLOCK = "clock"


def _items(fleet: worker_queries.Fleet) -> list[attention_queries.Item]:
    queues = backlog_queries.backlog(fleet).queues
    return attention_queries.attention(fleet, queues, feed_queries.freshness(fleet.now))


def _verdict(page: Page) -> Mapping[str, Any]:
    fleet = worker_queries.fleet()
    span = queries.chosen(page.params.get("range"))
    return {
        "verdict": attention_queries.verdict(_items(fleet), fleet),
        "ranges": queries.RANGES,
        "span": span,
    }


def _attention(page: Page) -> Mapping[str, Any]:
    items = _items(worker_queries.fleet())
    most = attention_queries.MOST
    return {
        "items": items[:most],
        "count": len(items),
        "more": max(0, len(items) - most),
        "may": access.can_control(page),
    }


def _figures(page: Page) -> Mapping[str, Any]:
    fleet = worker_queries.fleet()
    span = queries.chosen(page.params.get("range"))
    return {"figures": queries.figures(span, fleet, backlog_queries.backlog(fleet))}


def _throughput(page: Page) -> Mapping[str, Any]:
    return queries.throughput(queries.chosen(page.params.get("range")))


def _fleet(page: Page) -> Mapping[str, Any]:
    return {"fleet": worker_queries.fleet()}


def _backlog(page: Page) -> Mapping[str, Any]:
    return {"backlog": backlog_queries.backlog(worker_queries.fleet())}


def _slowest(page: Page) -> Mapping[str, Any]:
    running = worker_queries.fleet().running
    running.sort(key=lambda task: (-(task.times or 0.0), -task.elapsed, task.uuid))
    return {"tasks": running[:7], "now": time.time()}


def _failures(page: Page) -> Mapping[str, Any]:
    span = queries.chosen(page.params.get("range"))
    found, total, more = queries.failures(span)
    return {"failures": found, "total": total, "more": more, "span": span}


def _empty(page: Page) -> Mapping[str, Any]:
    fresh = feed_queries.freshness()
    fleet = worker_queries.fleet()
    empty = not fleet.workers and not fleet.beats and not queries.total_tasks_seen()
    return {"empty": empty, "fresh": fresh}


register(
    "overview",
    [
        Region("overview-empty", _empty, (WORKERS, FEED, TASKS), "overview/_empty.html", every=1.0),
        Region(
            "verdict", _verdict, (WORKERS, FEED, TASKS, RATES, CLOCK), "overview/_verdict.html", every=1.0
        ),
        Region("figures", _figures, (WORKERS, TASKS, RATES, CLOCK), "overview/_figures.html", every=1.0),
        Region("throughput", _throughput, (RATES, CLOCK), every=2.0, data=True),
        Region(
            "attention",
            _attention,
            (WORKERS, FEED, TASKS, RATES, CLOCK),
            "overview/_attention.html",
            every=1.0,
        ),
        Region("fleet", _fleet, (WORKERS, TASKS, CLOCK), "overview/_fleet.html", every=0.5),
        Region("backlog", _backlog, (TASKS, WORKERS, CLOCK), "overview/_backlog.html", every=1.0),
        Region("slowest", _slowest, (TASKS, CLOCK), "overview/_slowest.html", every=1.0),
        Region("failures", _failures, (TASKS, CLOCK), "overview/_failures.html", every=1.0),
    ],
)
