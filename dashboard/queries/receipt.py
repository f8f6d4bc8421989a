"""The receipt of a revoke or a terminate: where each task is still found, and how long a revoke holds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dashboard.queries.standing import Standing
from dashboard.templatetags.words import duration_text, plain
from monitor.models import ControlRecord, Worker

EXPIRES = 10_800.0  # seconds that a worker keeps a revoke (CELERY_WORKER_REVOKE_EXPIRES)
MOST_IDS = 50_000  # ids that it keeps (CELERY_WORKER_REVOKES_MAX)
NAMED = 6
_PLACES = {
    "process": ("its process lives", "its process is gone"),
    "active": ("active", "not active"),
    "reserved": ("reserved", "not reserved"),
    "scheduled": ("held for its ETA", "not scheduled"),
    "queue": ("its message waits in a queue", "not in its queue"),
    "unacknowledged": ("its message is not acknowledged", "not among the unacknowledged"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """One place that was looked at; ``seen`` None: it could not be."""

    text: str
    seen: bool | None


@dataclass(slots=True)
class Receipt:
    """Lines about workers: who will skip it, who would forget it and when."""

    lines: list[tuple[str, str, str]] = field(default_factory=list)  # state, icon, text


def places(sight: Mapping[str, Any] | None) -> list[Place]:
    """Of one target, as Umbel last looked."""
    told = sight.get("places") if sight else None
    found: list[Place] = []
    if not isinstance(told, dict):
        return found
    for key, (there, absent) in _PLACES.items():
        if key not in told:
            continue
        if told[key] == "yes":
            name = f": {plain(str(told['name']))}" if key == "queue" and told.get("name") else ""
            found.append(Place(f"{there}{name}", True))
        elif told[key] == "no":
            found.append(Place(absent, False))
        elif told[key] == "part":
            found.append(Place(f"{absent} by {told.get('answered', 'some')} workers", False))
        else:
            found.append(Place(f"{absent.removeprefix('not ')}: not checked", None))
    return found


def receipt(record: ControlRecord, standing: Standing | None, now: float | None = None) -> Receipt:
    """Of a revoke that still stands; empty for all else."""
    found = Receipt()
    if record.command != "revoke" or record.sent_at is None or standing is None or not standing.tasks:
        return found
    now = time.time() if now is None else now
    took = {r["worker"] for r in record.replies if r.get("outcome") == "ok"}
    total = len(record.replies)
    state, icon = ("succeeded", "s-succeeded") if len(took) == total else ("warn", "s-warn")
    found.lines.append((state, icon, f"{len(took)} of {total} workers acknowledged it."))
    told = _told(record, took, standing)
    rows = {w.hostname: w for w in Worker.objects.filter(hostname__in=list(told) + list(record.destinations))}
    _restarted(found, rows, told)
    _forgetful(found, [rows[name] for name in told if name in rows])
    if told:
        left = min(told.values()) + EXPIRES - now
        if left > 0:
            text = f"Workers forget it in {duration_text(left)}, or past {MOST_IDS:,} ids"
        else:
            text = "It is older than the three hours that workers keep one"
        found.lines.append(("sent", "s-scheduled", f"{text}; Umbel sends it again every two hours."))
    return found


def _told(record: ControlRecord, took: set[str], standing: Standing) -> dict[str, float]:
    """By worker, when it was last told."""
    told = dict.fromkeys(sorted(took), record.answered_at or record.sent_at or record.at)
    for worker, at in standing.again:
        told[worker] = max(at, told.get(worker, 0.0))
    return told


def _restarted(found: Receipt, rows: Mapping[str, Worker], told: Mapping[str, float]) -> None:
    since = [
        name
        for name, row in rows.items()
        if row.status == "online" and (row.online_at or 0.0) > told.get(name, 0.0)
    ]
    if since:
        text = f"{_names(since)} came online since it was told, and will be told again."
        found.lines.append(("warn", "s-warn", text))
    gone = [name for name, row in rows.items() if row.status == "offline"]
    if gone:
        text = f"{_names(gone)} {_are(gone)} offline: told again when back."
        found.lines.append(("offline", "s-offline", text))


def _forgetful(found: Receipt, workers: Sequence[Worker]) -> None:
    """Who has no state file by its settings; one given on the command line is not told."""
    without, unknown = [], []
    for worker in workers:
        conf = worker.details.get("conf") if isinstance(worker.details, dict) else None
        if not isinstance(conf, dict):
            unknown.append(worker.hostname)
        elif not conf.get("worker_state_db"):
            without.append(worker.hostname)
    if without:
        text = (
            f"Would run if {_names(without)} restart{'s' if len(without) == 1 else ''}: no worker_state_db "
            "is set (a --statedb on its command line is not told). Umbel tells it again at once."
        )
        found.lines.append(("warn", "s-warn", text))
    if unknown:
        text = (
            f"Whether {_names(unknown)} {'keeps' if len(unknown) == 1 else 'keep'} a state file is not known."
        )
        found.lines.append(("lost", "s-lost", text))


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(plain(name) for name in list(names)[:NAMED])
    return f"{shown} and {len(names) - NAMED} more" if len(names) > NAMED else shown


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
