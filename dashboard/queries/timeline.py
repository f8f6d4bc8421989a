"""Where the time of one task went, attempt by attempt, and its events as they came."""

from __future__ import annotations

import json
from dataclasses import dataclass

from dashboard.queries.tasks import Row
from dashboard.templatetags.words import short
from monitor.models import Task
from monitor.records import ENDED, LOST, RETRY, STARTED, Attempt, Mark
from monitor.store import task_record


@dataclass(frozen=True)
class Tried:
    """An attempt and its bar."""

    attempt: Attempt
    label: str
    note: str
    seconds: float | None
    spans: list[tuple[float, float, str, str]]
    aria: str
    p95_at: float | None = None
    pace: str = ""


@dataclass(frozen=True)
class Timeline:
    """Where the time went. Times in seconds from ``start``."""

    attempts: list[Tried]
    total: float | None
    queued: float | None
    running: float | None
    retrying: float | None
    axis: list[str]
    begin: float = 0.0  # Unix seconds of its ends
    end: float = 0.0


@dataclass(frozen=True)
class Happened:
    """A mark as a line of the event list."""

    at: float
    offset: float | None
    state: str
    word: str
    text: str
    inferred: bool
    raw: str


def timeline(task: Task, row: Row, now: float) -> Timeline:
    """Waiting, reserved and running, by the senders' clocks."""
    attempts = task_record(task).attempts
    times = [t for t in (task.sent_at, *(a.received_at or a.started_at for a in attempts)) if t is not None]
    start = min(times, default=task.first_seen_at)
    going = task.state not in ENDED
    ends = [a.ended_at or a.started_at or a.received_at or start for a in attempts]
    end = now if going else max([*ends, task.ended_at or start])
    usual = row.usual
    span = end - start
    if task.state == STARTED and usual and task.started_at is not None:
        span = max(span, task.started_at - start + usual.p95 * 1.1)
    span = max(span, 0.001)

    def at(moment: float) -> float:
        return max(0.0, min(100.0, (moment - start) / span * 100))

    tried: list[Tried] = []
    before = task.sent_at if task.sent_at is not None else start
    sums = {"wait": 0.0, "reserved": 0.0, "run": 0.0, "eta": 0.0}
    for k, attempt in enumerate(attempts):
        received = attempt.received_at or attempt.started_at or before
        retrying = k > 0
        begun = attempt.started_at
        last = k == len(attempts) - 1
        stop = attempt.ended_at if attempt.ended_at is not None else (end if last else received)
        pieces = [("eta" if retrying else "wait", before, received)]
        held = begun if begun is not None else (stop if last and going else attempt.ended_at or received)
        # A task held for its ETA waits for its time, not for a slot.
        due = attempt.eta if attempt.eta and attempt.eta > received else None
        if due:
            pieces += [
                ("eta" if retrying else "wait", received, min(due, held)),
                ("reserved", min(due, held), held),
            ]
        else:
            pieces.append(("eta" if retrying else "reserved", received, held))
        if begun is not None:
            pieces.append(("run", begun, stop))
        for kind, a, b in pieces:
            sums[kind] += max(0.0, b - a)
        state = _bar_state(attempt, row if last else None)
        spans = [
            (at(a), at(b) - at(a), "prefetch" if kind == "reserved" else kind, state if kind == "run" else "")
            for kind, a, b in pieces
            if b - a > 0
        ]
        seconds = (stop - begun) if begun is not None else None
        p95 = (
            at(begun + usual.p95)
            if last and usual and begun is not None and attempt.state == STARTED
            else None
        )
        note = attempt.note or _exception_name(attempt.exception) or ""
        tried.append(
            Tried(
                attempt, f"Attempt {k + 1}", note, seconds, spans,
                f"Attempt {k + 1} on {attempt.worker}: {attempt.state.lower()}"
                + (f", ran {seconds:.3g} s" if seconds is not None else ""),
                p95, row.pace if last else "",
            )
        )  # fmt: skip
        before = stop
    if not attempts:
        sums["wait"] = max(0.0, end - start)
    return Timeline(
        tried,
        end - start,
        sums["wait"] + sums["reserved"],
        sums["run"] if any(a.started_at is not None for a in attempts) else None,
        sums["eta"] if len(attempts) > 1 or task.state == RETRY else None,
        [short(span * k / 4) if k else "0" for k in range(5)],
        start,
        start + span,
    )


# Events, as received


def happened(mark: Mark, begun: float, task: Task) -> Happened:
    """One line, and the event as JSON. What a mark shares with the task's row is kept there only."""
    state, word = _KINDS.get(mark.kind, ("sent", mark.kind))
    told = {key: value for key, value in (mark.detail or {}).items() if key not in _OURS}
    told |= {name: getattr(task, name, None) for name in (mark.detail or {}).get("in_row") or ()}
    parts = [f"by {mark.worker}" if mark.kind == "sent" else mark.worker]
    if mark.pid and mark.kind != "sent":
        parts.append(f"pid {mark.pid}")
    for key in ("queue", "retries", "signum", "exception", "note", "state", "reason"):
        value = told.get(key)
        if value not in (None, "", 0, False):
            parts.append(
                f"{key} {value}" if key in ("queue", "retries", "signum", "state") else str(value)[:200]
            )
    raw = json.dumps(
        {"type": f"task-{mark.kind}", "hostname": mark.worker, "pid": mark.pid, "clock": mark.clock,
         "timestamp": mark.at, "received": mark.seen_at, **told},
        indent=1, default=str, ensure_ascii=False,
    )  # fmt: skip
    inferred = mark.kind in ("lost", "settled") or "inspect" in mark.kind
    return Happened(mark.at, mark.at - begun, state, word, ", ".join(filter(None, parts)), inferred, raw)


def _bar_state(attempt: Attempt, row: Row | None) -> str:
    if attempt.state == STARTED:
        return (row.pace if row else "") or "running"
    return {"FAILURE": "failed", "REVOKED": "revoked", LOST: "lost", "REJECTED": "rejected"}.get(
        attempt.state, "running"
    )


def _exception_name(text: str | None) -> str:
    return text.split("(", 1)[0].rpartition(".")[2][:80] if text else ""


# How Umbel keeps a mark, not what the event said.
_OURS = ("in_row", "has")
_KINDS = {
    "sent": ("sent", "sent"),
    "received": ("received", "received"),
    "started": ("running", "started"),
    "succeeded": ("succeeded", "succeeded"),
    "failed": ("failed", "failed"),
    "retried": ("retry", "retried"),
    "revoked": ("revoked", "revoked"),
    "rejected": ("rejected", "rejected"),
    "lost": ("lost", "lost"),
    "settled": ("lost", "settled"),
}
