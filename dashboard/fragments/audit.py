"""Regions of the audit log and of one control record."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

from dashboard.fragments import Page, Region, register
from dashboard.queries import audit as queries
from dashboard.queries import gaps, standing
from monitor.deltas import CONTROLS, GAPS

# What a span without ears means for this list: commands are recorded by Umbel, effects are heard.
ONLY_EFFECTS = "Every command is here; its effect may not have been seen."


def asked(page: Page) -> dict[str, Any]:
    """The filters as they stand in the URL; what is not known is left out."""
    params = page.params
    number = params.get("page", "1")
    return {
        "effects": [e for e in dict.fromkeys(params.getlist("effect")) if e in queries.EFFECTS],
        "who": params.get("who", "").replace("\x00", "")[:150],
        "q": params.get("q", "").replace("\x00", "").strip()[:200],
        "page": max(1, int(number)) if number.isascii() and number.isdigit() and len(number) < 5 else 1,
    }


def _log(page: Page) -> Mapping[str, Any]:
    filters = asked(page)
    entries = queries.entries(**filters)
    blind = gaps.among([entry.record.at for entry in entries.rows], newest=entries.page == 1)
    rows = [(blind.get(place, []), entry) for place, entry in enumerate(entries.rows)]
    shown = {"entries": entries, "rows": rows, "last": blind.get(len(rows), []), "only_effects": ONLY_EFFECTS}
    return {"asked": filters, **shown, **_links(page, filters["page"])}


def _links(page: Page, number: int) -> dict[str, str]:
    links = {}
    for name, to in (("older", number + 1), ("newer", number - 1)):
        params = page.params.copy()
        params["page"] = str(to)
        links[name] = params.urlencode()
    return links


def _record(page: Page) -> Mapping[str, Any]:
    entry = queries.record(uuid.UUID(str(page.arg("pk"))))
    if entry is None:
        return {"entry": None}
    record = entry.record
    tasks = queries.names_of(record.targets) if entry.on_tasks else {}
    sights = {str(one.get("target")): one for one in record.seen if isinstance(one, dict)}
    targets = [
        (str(target), tasks.get(target, ""), sights.get(str(target))) for target in record.targets[:500]
    ]
    hosts = [str(host) for host in (*record.destinations, *([] if entry.on_tasks else record.targets))]
    # An effect is looked for until the command is completed.
    ends = record.completed_at or time.time()
    blind = gaps.between(record.sent_at, ends) if record.sent_at else []
    shown = {"entry": entry, "record": record, "targets": targets, "workers": queries.workers_of(hosts)}
    return {**shown, "blind": blind, "standing": standing.of_record(record.pk)}


def _topics(page: Page) -> tuple[str, ...]:
    return (f"control:{page.arg('pk')}", GAPS)


register("audit", [Region("audit-log", _log, (CONTROLS, GAPS), "audit/_log.html", every=1.0, held=True)])
register("control-record", [Region("record", _record, _topics, "audit/_record.html")])
