"""Every read of the REST API: tasks and workers as Flower 2.2 shapes them, bounded, out of history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from django.db import connections
from django.db.models import F, QuerySet

from dashboard.queries.asked import SearchError, columns, find, parsed, rows_at
from dashboard.queries.newest import Param
from monitor import control, models
from monitor.records import FAILURE, REJECTED, RETRY, REVOKED, SUCCESS
from monitor.redact import DEFAULT

__all__ = ["Asked", "SearchError", "Tasks", "statuses", "task", "task_types", "tasks", "workers"]

MOST = 10_000  # tasks in one answer; Flower has no such limit, and stands still for minutes
SORTED = 10_000  # newest matches that are put in an order no index keeps
CHILDREN = 10_000  # in one answer
DRIFT = 3600.0  # seconds that a sender's clock may be away from ours
REFRESHED = 40  # workers asked in one request; the engine asks each every few seconds anyway
AT_ONCE = 4

_COLUMNS = (
    *("id", "uuid", "name", "state", "received_at", "sent_at", "started_at", "ended_at", "seen_at", "args"),
    *("kwargs", "eta", "expires", "retries", "worker", "result", "exception", "runtime", "traceback"),
    *("routing_key", "sender", "root_id", "parent_id", "marks"),
)


@dataclass(frozen=True)
class Asked:
    """Which tasks; times are Unix seconds, "" is no filter."""

    limit: int = MOST
    offset: int = 0
    sort: str = ""
    worker: str = ""
    name: str = ""
    state: str = ""
    received_after: float | None = None
    received_before: float | None = None
    search: str = ""

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether a row was received within the times asked for."""
        received = row["received_at"]
        after, before = self.received_after, self.received_before
        if after is None and before is None:
            return True
        return received is not None and (
            (after is None or received > after) and (before is None or received < before)
        )


@dataclass(frozen=True)
class Tasks:
    """By uuid, in order; ``more`` when others match as well; ``partly`` when not all could be searched."""

    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    more: bool = False
    partly: bool = False


def tasks(asked: Asked) -> Tasks:
    """The tasks that match. Raises ``SearchError``."""
    search = parsed(asked.search)
    chosen = columns(search, asked.worker, asked.name, asked.state)
    if asked.limit <= 0 or chosen is None:
        return Tasks()
    column = {"received": "received_at", "started": "started_at"}.get(
        asked.sort.lstrip("-"), asked.sort.lstrip("-")
    )
    end = asked.offset + asked.limit + 1
    partly = False
    if search.text:
        hits = find(search, chosen, _since(asked), asked.holds, SORTED if asked.sort else end)
        partly = hits.partly
        rows = rows_at(hits.places if asked.sort else hits.places[asked.offset : end], _COLUMNS)
        if asked.sort:
            rows = _in_order(rows, column, descending=asked.sort.startswith("-"))[asked.offset : end]
    else:
        found = _matching(asked, chosen)
        if asked.sort:
            newest = found.order_by("-seen_at", "-id").values("pk")[:SORTED]
            place = F(column).desc(nulls_last=True) if asked.sort.startswith("-") else F(column).asc()
            found = models.Task.objects.filter(pk__in=newest).order_by(place, "-id")
        else:
            found = found.order_by("-seen_at", "-id")
        rows = list(found.only(*_COLUMNS)[asked.offset : end])
    shown = rows[: asked.limit]
    children = _children([row.uuid for row in shown])
    listed = {}
    for row in shown:
        one = _task(row, children.get(row.uuid, []))
        worker = one.pop("worker")
        if worker is not None:
            one["worker"] = worker
        listed[row.uuid] = one
    return Tasks(listed, len(rows) > asked.limit, partly)


def task(uuid: str) -> dict[str, Any] | None:
    """One task; None when history does not have it."""
    row = models.Task.objects.filter(uuid=uuid[:255].replace("\0", "")).only(*_COLUMNS).first()
    return None if row is None else _task(row, _children([row.uuid]).get(row.uuid, []))


def task_types() -> list[str]:
    """Names seen, in order."""
    return list(models.TaskType.objects.order_by("name").values_list("name", flat=True))


def statuses() -> dict[str, bool | None]:
    """Whether each worker is there; None when nobody can know, since the broker is silent."""
    rows = models.Worker.objects.filter(is_beat=False).order_by("hostname").values_list("hostname", "status")
    return {hostname: {"online": True, "offline": False}.get(status) for hostname, status in rows}


def workers(name: str = "", refresh: bool = False) -> dict[str, dict[str, Any]]:
    """What workers last answered to inspect, or answer now. Raises ``Unreachable`` when they cannot be asked.

    The lists of tasks come only with one worker named: they are long.
    """
    rows = models.Worker.objects.filter(is_beat=False).order_by("hostname")
    found = list(rows.filter(hostname=name) if name else rows)
    fresh = _asked_now([row for row in found if row.status != "offline"]) if refresh else {}
    shown = {}
    for row in found:
        said = fresh.get(row.hostname)
        details = row.details if isinstance(row.details, dict) else {}
        if said is not None:
            details = {**details, **said}
        elif row.inspected_at is None:
            continue
        shown[str(row.hostname)] = _worker(details, row.inspected_at, with_tasks=bool(name))
    return shown


# Tasks


def _since(asked: Asked) -> float | None:
    return None if asked.received_after is None else asked.received_after - DRIFT


def _matching(asked: Asked, chosen: Mapping[str, Sequence[Param]]) -> QuerySet[models.Task]:
    found = models.Task.objects.filter(**{f"{column}__in": values for column, values in chosen.items()})
    if asked.received_after is not None:
        found = found.filter(received_at__gt=asked.received_after, seen_at__gt=_since(asked))
    if asked.received_before is not None:
        found = found.filter(received_at__lt=asked.received_before)
    return found


def _in_order(rows: list[models.Task], column: str, *, descending: bool) -> list[models.Task]:
    """Values that are not known come last, or first, as in SQL above."""
    rows = sorted(rows, key=lambda row: -row.pk)
    known = [row for row in rows if getattr(row, column) is not None]
    unknown = [row for row in rows if getattr(row, column) is None]
    known.sort(key=lambda row: getattr(row, column), reverse=descending)
    return known + unknown if descending else unknown + known


_ENDS = {"succeeded": SUCCESS, "failed": FAILURE, "retried": RETRY, "revoked": REVOKED, "rejected": REJECTED}


def _task(row: models.Task, children: Sequence[str]) -> dict[str, Any]:
    """Flower's fields in Flower's order. What events did not say is None."""
    at: dict[str, float] = {}
    clock, last = None, None
    for kind, _worker, _pid, tick, when, *_ in row.marks:
        at[kind] = max(when, at.get(kind, when))
        if tick:
            clock = max(tick, clock or 0)
        last = max(when, last or when)
    for kind, state in _ENDS.items():
        if row.state == state and row.ended_at is not None:
            at.setdefault(kind, row.ended_at)
    # A retry names itself as its parent; that is no kinship.
    parent = row.parent_id if row.parent_id != row.uuid else None
    return {
        "uuid": row.uuid,
        "name": row.name or None,
        "state": row.state,
        "received": row.received_at,
        "sent": row.sent_at,
        "started": row.started_at,
        "rejected": at.get("rejected"),
        "succeeded": at.get("succeeded"),
        "failed": at.get("failed"),
        "retried": at.get("retried"),
        "revoked": at.get("revoked"),
        "args": row.args,
        "kwargs": row.kwargs,
        "eta": _moment(row.eta),
        "expires": _moment(row.expires),
        "retries": row.retries,
        "worker": row.worker or None,
        "result": row.result,
        "exception": row.exception,
        "timestamp": row.seen_at if last is None else last,
        "runtime": row.runtime,
        "traceback": row.traceback,
        "exchange": None,  # Umbel keeps the routing key and the queue
        "routing_key": row.routing_key or None,
        "clock": clock,
        "client": row.sender or None,
        "root": row.root_id,
        "root_id": row.root_id,
        "parent": parent,
        "parent_id": parent,
        "children": list(children),
    }


def _moment(at: float | None) -> str | None:
    """As Celery writes an ETA."""
    try:
        return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None


def _children(uuids: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    left = CHILDREN
    for start in range(0, len(uuids), 500):
        if left <= 0:
            break
        rows = models.Task.objects.filter(parent_id__in=uuids[start : start + 500]).order_by("id")
        pairs = list(rows.values_list("parent_id", "uuid")[:left])
        left -= len(pairs)
        for parent, uuid in pairs:
            if parent != uuid:
                found.setdefault(str(parent), []).append(uuid)
    return found


# Workers


def _worker(details: dict[str, Any], inspected_at: float | None, with_tasks: bool) -> dict[str, Any]:
    registered = details.get("registered")
    shown: dict[str, Any] = {
        "stats": details.get("stats") or {},
        "timestamp": details.get("asked_at", inspected_at),
        # Umbel asks for their limits as well, which stand behind the name.
        "registered": sorted({str(line).split(" ", 1)[0] for line in registered or ()}),
        "active_queues": details.get("active_queues") or [],
        "conf": details.get("conf") or {},
    }
    if with_tasks:
        shown |= {key: details.get(key) or [] for key in ("active", "reserved", "scheduled", "revoked")}
    return shown


def _asked_now(rows: Sequence[models.Worker]) -> dict[str, dict[str, Any]]:
    """What the workers answer now, redacted, by hostname. Raises ``Unreachable``."""
    names = [str(row.hostname) for row in rows[:REFRESHED]]
    with ThreadPoolExecutor(min(AT_ONCE, max(1, len(names))), "api-inspect") as threads:
        answers = list(threads.map(_ask, names))
    return {name: said for name, said in zip(names, answers, strict=True) if said is not None}


def _ask(hostname: str) -> dict[str, Any] | None:
    try:
        said = control.inspect_worker(hostname, 1.5, True)
    finally:
        connections.close_all()
    if said is None or said.is_beat:
        return None
    parts: Iterable[str] = (
        *("conf", "registered", "active_queues", "stats"),
        *("active", "reserved", "scheduled", "revoked"),
    )
    found = {part: getattr(said, part) for part in parts}
    shown = {part: DEFAULT.value(value) for part, value in found.items() if value is not None}
    return {**shown, "asked_at": said.asked_at}
