"""Regions of acts on many: a line on every page while one is held or sent, their list, and one's page."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from dashboard import access
from dashboard.fragments import Page, Region, register
from dashboard.queries import acts as queries
from monitor.acts.models import ActTarget

ACTS = "acts"


def _now(page: Page) -> Mapping[str, Any]:
    return {"acts": queries.now(), **_may(page)}


def _may(page: Page) -> Mapping[str, bool]:
    return {f"may_{name}": access.may(page, name).allowed for name in ("withdraw", "stop")}


def _list(page: Page) -> Mapping[str, Any]:
    place = number(page)
    entries, more = queries.entries(place)
    return {"entries": entries, "more": more, "place": place}


def _shown(page: Page) -> queries.Shown | None:
    return queries.one(uuid.UUID(str(page.arg("pk"))))


def _head(page: Page) -> Mapping[str, Any]:
    return {"shown": _shown(page), **_may(page)}


def _facts(page: Page) -> Mapping[str, Any]:
    return {"shown": queries.bare(uuid.UUID(str(page.arg("pk"))))}


def _targets(page: Page) -> Mapping[str, Any]:
    shown, outcome = _shown(page), asked(page)
    if shown is None:
        return {"shown": None}
    chips = [
        (name, state, word, shown.counts.get(name, 0), name == outcome)
        for name, (state, word) in queries.OUTCOMES.items()
        if shown.counts.get(name) or name == outcome
    ]
    found = queries.targets(shown.act, outcome, number(page))
    rows = [(row, *queries.OUTCOMES[row.outcome], name, key) for row, name, key in found.rows]
    return {"shown": shown, "chips": chips, "outcome": outcome, "found": found, "rows": rows}


def asked(page: Page) -> str:
    """The outcome that is asked for, "" for all."""
    outcome = page.params.get("outcome", "")
    return outcome if outcome in ActTarget.Outcome.values else ""


def number(page: Page) -> int:
    """Of the page of a list, from 1."""
    given = page.params.get("page", "1")
    return max(1, int(given)) if given.isascii() and given.isdigit() and len(given) < 5 else 1


def _topics(page: Page) -> tuple[str, ...]:
    return (f"act:{page.arg('pk')}",)


register(None, [Region("acts-now", _now, (ACTS,), "acts/_now.html", sees=("role", "read_only"))])
register("acts", [Region("acts", _list, (ACTS,), "acts/_acts.html", every=1.0, held=True)])
register(
    "act",
    [
        Region("act-head", _head, _topics, "acts/_head.html"),
        Region("act-targets", _targets, _topics, "acts/_targets.html", every=0.5),
        Region("act-facts", _facts, _topics, "acts/_facts.html", every=1.0),
    ],
)
