"""Regions of the frame around every page (chip, banner, navigation) and of the feed page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dashboard.fragments import Page, Region, register
from dashboard.fragments.overview import CLOCK
from dashboard.queries import feed as queries
from monitor.deltas import FEED, TASKS, WORKERS


def _fresh(page: Page) -> Mapping[str, Any]:
    return {"fresh": queries.freshness()}


def _banner(page: Page) -> Mapping[str, Any]:
    fresh = queries.freshness()
    return {"fresh": fresh, "banner": queries.banner(fresh)}


def _nav(page: Page) -> Mapping[str, Any]:
    return {"counts": queries.counts(), "resource": RESOURCES.get(page.view, "")}


# The navigation entry that a page belongs to.
RESOURCES = {
    **{"overview": "overview", "tasks": "tasks", "task": "tasks", "workers": "workers", "worker": "workers"},
    **{"audit": "audit", "control-record": "audit", "feed": "feed", "users": "users", "user-add": "users"},
    **{"user-change": "users", "acts": "audit", "act": "audit", "search": "", "settings": "settings"},
    **{"tasks-run": "tasks", "tasks-run-failed": "tasks"},
    "note": "",
}


def _facts(page: Page) -> Mapping[str, Any]:
    fresh = queries.freshness()
    return {
        "fresh": fresh,
        "feed": fresh.feed,
        "accounting": fresh.feed.accounting,
        "refused": _refused(fresh),
    }


def _refused(fresh: queries.Freshness) -> list[tuple[str, int]]:
    return sorted(fresh.feed.accounting.refused.items(), key=lambda item: (-item[1], item[0]))


def _load(page: Page) -> Mapping[str, Any]:
    return {"feed": queries.freshness().feed}


def _pages(page: Page) -> Mapping[str, Any]:
    # The hub draws through this package.
    from dashboard.queries import live

    return {"pages": live.pages()}


def _missed(page: Page) -> Mapping[str, Any]:
    return {"workers": queries.missing_workers(), "gaps": queries.gaps(), "fresh": queries.freshness()}


register(
    None,
    [
        Region("feed-chip", _fresh, (FEED,), "feed/_chip.html", every=0.5, sees=()),
        Region("feed-pop", _fresh, (FEED,), "feed/_pop.html", every=2.0, sees=()),
        Region("feed-banner", _banner, (FEED,), "feed/_banner.html", every=0.5, sees=()),
        Region("cluster", _fresh, (FEED,), "feed/_cluster.html", every=5.0, sees=()),
        Region("nav", _nav, (TASKS, WORKERS), "_nav.html", every=1.0, sees=("view", "role")),
    ],
)
register(
    "feed",
    [
        Region("feed-facts", _facts, (FEED,), "feed/_facts.html", every=0.5, sees=()),
        Region("feed-load", _load, (FEED,), "feed/_load.html", every=0.5, sees=()),
        Region("feed-pages", _pages, (CLOCK,), "feed/_pages.html", every=1.0, sees=()),
        Region("feed-missed", _missed, (FEED, WORKERS), "feed/_missed.html", every=1.0, sees=()),
    ],
)
