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
from dashboard.queries import gaps
from dashboard.queries import overview as queries
from dashboard.queries import workers as worker_queries
from monitor.deltas import FEED, RATES, TASKS, WORKERS

CLOCK = "clock"


def _verdict(page: Page) -> Mapping[str, Any]:
    span = queries.chosen(page.params.get("range"))
    return {
        "verdict": attention_queries.verdict(attention_queries.current(), worker_queries.current()),
        "ranges": queries.RANGES,
        "span": span,
    }


def _attention(page: Page) -> Mapping[str, Any]:
    items = attention_queries.current()
    most = attention_queries.MOST
    return {
        "items": items[:most],
        "count": len(items),
        "more": max(0, len(items) - most),
        "may": access.may(page, "enable_events").allowed,
    }


def _figures(page: Page) -> Mapping[str, Any]:
    span = queries.chosen(page.params.get("range"))
    found = queries.figures(span, worker_queries.current(), backlog_queries.current())
    return {"figures": found, "blind": _blind(span)}


def _blind(span: queries.Range) -> list[gaps.Blind]:
    now = time.time()
    return gaps.between(now - span.seconds, now, now)


def _blind_note(page: Page) -> Mapping[str, Any]:
    return {"id": "throughput-blind", "blind": _blind(queries.chosen(page.params.get("range")))}


def _throughput(page: Page) -> Mapping[str, Any]:
    return chart(queries.chosen(page.params.get("range")))


def chart(span: queries.Range) -> dict[str, Any]:
    """The bars, and the spans without ears that they cross: ``"blind": [[from, to or null] …]``."""
    data = queries.throughput(span)
    if data["t"]:
        end = data["t"][-1] + span.step
        data["blind"] = [[g.started_at, g.ended_at] for g in gaps.between(data["t"][0], end)]
    return data


def _fleet(page: Page) -> Mapping[str, Any]:
    return {"fleet": worker_queries.current()}


def _backlog(page: Page) -> Mapping[str, Any]:
    return {"backlog": backlog_queries.current(), "may": access.can_control(page)}


def _slowest(page: Page) -> Mapping[str, Any]:
    running = worker_queries.current().running
    running.sort(key=lambda task: (-(task.times or 0.0), -task.elapsed, task.uuid))
    return {"tasks": running[:7], "now": time.time()}


def _failures(page: Page) -> Mapping[str, Any]:
    span = queries.chosen(page.params.get("range"))
    found, total, more = queries.failures(span)
    return {"failures": found, "total": total, "more": more, "span": span, "blind": _blind(span)}


def _empty(page: Page) -> Mapping[str, Any]:
    return {"empty": queries.nothing_seen(), "fresh": feed_queries.freshness()}


RANGE, MAY = ("query",), ("role", "read_only")
EVER = (WORKERS, TASKS, CLOCK)
register(
    "overview",
    [
        Region("overview-empty", _empty, (WORKERS, FEED, TASKS), "overview/_empty.html", every=1.0, sees=()),
        Region("verdict", _verdict, (*EVER, FEED), "overview/_verdict.html", every=1.0, sees=RANGE),
        Region("figures", _figures, EVER, "overview/_figures.html", every=1.0, sees=RANGE),
        Region("throughput", _throughput, (RATES, CLOCK), every=2.0, data=True, sees=RANGE),
        Region("throughput-blind", _blind_note, (*EVER, FEED), "feed/_blind.html", every=1.0, sees=RANGE),
        Region("attention", _attention, (*EVER, FEED), "overview/_attention.html", every=1.0, sees=MAY),
        Region("fleet", _fleet, EVER, "overview/_fleet.html", every=0.5, sees=()),
        Region(
            "backlog",
            _backlog,
            EVER,
            "overview/_backlog.html",
            every=1.0,
            sees=("role", "read_only"),
        ),
        Region("slowest", _slowest, EVER, "overview/_slowest.html", every=1.0, sees=()),
        Region("failures", _failures, (TASKS, CLOCK), "overview/_failures.html", every=1.0, sees=RANGE),
    ],
)
