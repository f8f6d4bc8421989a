"""Regions of the audit log and of one control record."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from dashboard import access
from dashboard.fragments import Context, Page, Region, register
from dashboard.queries import acts, gaps, lately, receipt, standing
from dashboard.queries import audit as queries
from monitor.deltas import CONTROLS, GAPS
from monitor.models import Worker

MOST_TOGETHER = 100  # commands on one page
# What a span without ears means for this list: commands are recorded by Umbel, effects are heard.
ONLY_EFFECTS = "Every command is here; its effect may not have been seen."


def asked(page: Page) -> queries.Asked:
    """The filters as they stand in the URL; what is not known is left out."""
    params = page.params

    def text(name: str, most: int) -> str:
        return params.get(name, "").replace("\x00", "").strip()[:most]

    effects = tuple(e for e in dict.fromkeys(params.getlist("effect")) if e in queries.EFFECTS)
    what = params.get("what", "")
    return queries.Asked(
        effects,
        text("who", 150),
        what if what in queries.VERBS or what in queries.OWN else "",
        text("target", 255),
        text("q", 200),
    )


def number(page: Page) -> int:
    """Of the page of the log, from 1."""
    given = page.params.get("page", "1")
    return max(1, int(given)) if given.isascii() and given.isdigit() and len(given) < 5 else 1


def _log(page: Page) -> Mapping[str, Any]:
    filters = asked(page)
    entries = queries.entries(filters, number(page))
    blind = gaps.among([entry.record.at for entry in entries.rows], newest=entries.page == 1)
    rows = [(blind.get(place, []), entry) for place, entry in enumerate(entries.rows)]
    shown = {"entries": entries, "rows": rows, "last": blind.get(len(rows), []), "only_effects": ONLY_EFFECTS}
    return {"asked": filters, **shown, **_links(page, entries.page)}


def _links(page: Page, place: int) -> dict[str, str]:
    links = {}
    for name, to in (("older", place + 1), ("newer", place - 1)):
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
    spared = record.skipped or {}
    targets = [
        (
            str(target),
            tasks.get(target, ""),
            (sight := sights.get(str(target))),
            (str(spared.get(target, "")), receipt.places(sight)),
        )
        for target in record.targets[:500]
    ]
    hosts = [str(host) for host in (*record.destinations, *([] if entry.on_tasks else record.targets))]
    # An effect is looked for until the command is completed.
    ends = record.completed_at or time.time()
    blind = gaps.between(record.sent_at, ends) if record.sent_at else []
    shown = {"entry": entry, "record": record, "targets": targets, "workers": queries.workers_of(hosts)}
    act = record.targets[0] if entry.on_act and record.targets else None
    stands = standing.of_record(record.pk)
    held = {
        "standing": stands,
        "stamp": standing.stamp_of(record.pk),
        "receipt": receipt.receipt(record, stands),
    }
    more = {"act": acts.of_record(record.pk), "act_of": act, "now": time.time()}
    return {**shown, **held, **more, "blind": blind}


def listed(page: Page) -> list[queries.Shown]:
    """The commands that are named in the URL."""
    keys = []
    for text in page.params.getlist("id")[:MOST_TOGETHER]:
        with suppress(ValueError):
            keys.append(uuid.UUID(text))
    return queries.records(keys)


def _together(page: Page) -> Mapping[str, Any]:
    left = page.params.get("left", "")
    more = int(left) if left.isascii() and left.isdigit() and len(left) < 4 else 0
    return {"entries": listed(page), "left": more}


def _topics(page: Page) -> tuple[str, ...]:
    return (f"control:{page.arg('pk')}", GAPS)


def _others(page: Page) -> Mapping[str, Any]:
    """For toasts: who may not act is not told, and who acted is left out by the browser."""
    return {"acts": lately.others() if access.can_control(page) else []}


def _on_task(page: Page) -> Mapping[str, Any]:
    return {"id": "task-lately", "acts": lately.on(page.arg("uuid"))}


def _on_worker(page: Page) -> Mapping[str, Any]:
    name = Worker.objects.filter(pk=page.arg("pk")).values_list("hostname", flat=True).first()
    return {"id": "worker-lately", "acts": lately.on(name) if name else []}


def _lately(name: str, context: Context) -> Region:
    return Region(name, context, (CONTROLS,), "audit/_lately.html", every=1.0, sees=("view", "kwargs"))


# One drawing for all of a role, whoever acted.
_OTHERS = Region("others", _others, (CONTROLS,), "audit/_others.html", every=0.5, sees=("role", "read_only"))
register(None, [_OTHERS])
register("task", [_lately("task-lately", _on_task)])
register("worker", [_lately("worker-lately", _on_worker)])
register("audit", [Region("audit-log", _log, (CONTROLS, GAPS), "audit/_log.html", every=1.0, held=True)])
register(
    "control-records",
    [Region("records", _together, (CONTROLS,), "audit/_together.html", every=0.5, sees=("query",))],
)
register("control-record", [Region("record", _record, _topics, "audit/_record.html")])
