"""What one worker answered to inspect, in rows that its page can show: held tasks, settings, statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dashboard.queries.workers import WorkerView, span
from dashboard.templatetags.words import duration_text, number
from monitor import models
from monitor.control import Capabilities, capabilities
from monitor.records import RECEIVED
from monitor.redact import HIDDEN, WITHHELD

MOST_ROWS = 50
MOST_SETTINGS = 300
MOST_REVOKED = 100


@dataclass(frozen=True, slots=True)
class Held:
    """A task that this worker holds: reserved for a slot, or scheduled for its ETA."""

    uuid: str
    name: str
    args: str
    since: float | None = None  # seconds
    eta: float | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the configuration; ``look`` is the class of its value."""

    name: str
    value: str
    look: str  # st, nu or hid


def reserved(view: WorkerView) -> tuple[list[Held], int]:
    """Received and not yet started, by events; and how many in all."""
    tasks = models.Task.objects.filter(state=RECEIVED, worker=view.row.hostname)
    rows = tasks.order_by("-seen_at").values_list("uuid", "name", "args", "kwargs", "received_at", "eta")
    drift = view.row.drift or 0.0
    found = [
        Held(uuid, name, _call(args, kwargs), span(None if at is None else at - drift, view.now), eta)
        for uuid, name, args, kwargs, at, eta in rows[: MOST_ROWS * 4]
        if eta is None or eta <= view.now
    ]
    found.sort(key=lambda held: -(held.since or 0.0))
    return found[:MOST_ROWS], max(len(found), 0)


def scheduled(view: WorkerView) -> tuple[list[Held], int]:
    """Held for their ETA: by events, and what the worker itself listed last."""
    held: dict[str, Held] = {}
    for item in _listed(view, "scheduled"):
        request = item.get("request")
        if isinstance(request, dict) and isinstance(request.get("id"), str):
            eta = moment(item.get("eta"))
            if eta is None or eta > view.now:
                call = _call(request.get("args"), request.get("kwargs"))
                held[request["id"]] = Held(request["id"], str(request.get("name", "")), call, eta=eta)
    tasks = models.Task.objects.filter(state=RECEIVED, worker=view.row.hostname, eta__gt=view.now)
    for uuid, name, args, kwargs, eta in tasks.order_by("-seen_at").values_list(
        "uuid", "name", "args", "kwargs", "eta"
    )[: MOST_ROWS * 4]:
        held[uuid] = Held(uuid, name, _call(args, kwargs), eta=eta)
    gone = models.Task.objects.filter(uuid__in=list(held)[:500]).exclude(
        state__in=(RECEIVED, "PENDING", "RETRY")
    )
    for uuid in gone.values_list("uuid", flat=True):
        held.pop(uuid, None)
    found = sorted(held.values(), key=lambda one: (one.eta is None, one.eta or 0.0, one.uuid))
    return found[:MOST_ROWS], len(found)


def revoked(view: WorkerView) -> tuple[list[str], int]:
    """Ids that this worker will not run, as it last listed them."""
    listed = _details(view).get("revoked")
    ids = [str(one) for one in listed] if isinstance(listed, list) else []
    return ids[:MOST_REVOKED], len(ids)


def pids(view: WorkerView) -> dict[str, int]:
    """The pool process of each running task, as the worker last listed them."""
    found = {}
    for item in _listed(view, "active"):
        pid = item.get("worker_pid")
        if isinstance(pid, int) and isinstance(item.get("id"), str):
            found[item["id"]] = pid
    return found


def settings(view: WorkerView) -> tuple[list[Setting], int]:
    """The configuration as redacted before it was stored, and how many values are hidden."""
    conf = _details(view).get("conf")
    if not isinstance(conf, dict):
        return [], 0
    rows = []
    for name in sorted(conf, key=str)[:MOST_SETTINGS]:
        value = conf[name]
        text = repr(value)
        secret = HIDDEN in text or WITHHELD in text or "********" in text
        number_like = value is None or isinstance(value, bool | int | float)
        rows.append(Setting(str(name), text[:500], "hid" if secret else "nu" if number_like else "st"))
    return rows, sum(row.look == "hid" for row in rows)


def statistics(view: WorkerView) -> list[tuple[str, str]]:
    """Names and values; only what is known."""
    row, stats = view.row, _mapping(_details(view).get("stats"))
    usage, broker = _mapping(stats.get("rusage")), _mapping(stats.get("broker"))
    found: list[tuple[str, str]] = [("Prefetch count", number(row.prefetch))]
    if view.loads and not view.offline:
        found.append(("Load, 1 / 5 / 15 min", " / ".join(f"{x:.2f}" for x in view.loads[:3])))
    memory = _float(usage.get("maxrss"))
    if memory:
        # Linux counts kilobytes.
        found.append(("Memory, main process peak", f"{memory / 1024:,.0f}\u00a0MB"))
    user, system = _float(usage.get("utime")), _float(usage.get("stime"))
    if user is not None and system is not None:
        found.append(("CPU time, user / system", f"{duration_text(user)} / {duration_text(system)}"))
    if broker.get("transport"):
        found.append(("Broker connection", str(broker["transport"])[:60]))
    registered = _details(view).get("registered")
    if isinstance(registered, list):
        found.append(("Registered tasks", number(len(registered))))
    if row.drift is not None and math.isfinite(row.drift):
        found.append(("Clock drift", f"{round(row.drift, 2) + 0.0:+,.2f}\u00a0s"))
    found.append(("Heartbeat every", duration_text(row.freq)))
    found.append(("Events missed", number(row.missed)))
    return found


def can(view: WorkerView) -> Capabilities:
    """What may be asked of it."""
    return capabilities(view.row)


def why_not(view: WorkerView, command: str) -> str:
    """Why it cannot be asked for this, in a sentence; "" when it can."""
    found = can(view).of(command)
    return "" if found.allowed else found.reason


def started_with(view: WorkerView) -> int | None:
    """The concurrency it was started with: Celery never changes this number on prefork."""
    pool = _mapping(_mapping(_details(view).get("stats")).get("pool"))
    size = pool.get("max-concurrency")
    return size if isinstance(size, int) and not isinstance(size, bool) else None


def moment(raw: Any) -> float | None:
    """Unix seconds of an ISO text; None when it is none."""
    if isinstance(raw, bool) or not isinstance(raw, str | int | float):
        return None
    try:
        if isinstance(raw, str):
            at = datetime.fromisoformat(raw)
            return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        return float(raw)
    except (ValueError, OverflowError, OSError):
        return None


def _call(args: Any, kwargs: Any) -> str:
    parts = [str(part) for part in (args, kwargs) if part not in (None, "", "()", "[]", "{}", "[hidden]")]
    return " ".join(parts)[:200]


def _details(view: WorkerView) -> Mapping[str, Any]:
    return _mapping(view.row.details)


def _listed(view: WorkerView, command: str) -> list[dict[str, Any]]:
    listed = _details(view).get(command)
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
