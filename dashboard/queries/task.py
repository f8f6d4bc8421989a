"""One task: where its time went, what it was given and gave, its kin, and what can be done about it."""

from __future__ import annotations

import ast
import json
import math
import re
from dataclasses import dataclass, field
from pprint import pformat
from typing import Any

from django.db.models import Q

from dashboard.queries.tasks import Row, row_of
from dashboard.queries.usual import Usual, all_usual
from monitor import control, rates
from monitor.models import Task, TaskType, Worker
from monitor.records import ENDED, LOST, RECEIVED, RETRY, STARTED, SUCCESS, Attempt, Mark
from monitor.store import task_record

MOST_KIN = 200
SHOWN_MARKS = 100


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


@dataclass(frozen=True)
class Frame:
    """Lines of a traceback: folded when they lie in a library."""

    lines: list[str]
    folded: str = ""
    here: bool = False


@dataclass(frozen=True)
class Detail:
    """Everything on the page of one task."""

    task: Task
    row: Row
    time: Timeline
    events: list[Happened]
    more_events: int
    frames: list[Frame]
    args: str
    kwargs: str
    result: str
    worker_pk: int | None
    child_pid: int | None
    acks_late: bool | None
    limits: str
    same_exception: int
    revoke: control.Can
    terminate: control.Can
    why: str = ""


@dataclass(frozen=True)
class Node:
    """A task in the tree of its workflow."""

    task: Task
    row: Row
    here: bool
    children: list[Node] = field(default_factory=list)


@dataclass(frozen=True)
class Flow:
    """The workflow as far as it was seen."""

    roots: list[Node]
    count: int
    failed: int
    more: bool
    unseen_parent: str = ""


@dataclass(frozen=True)
class Distribution:
    """Successful runtimes of the name in bars on a log axis; marks in percent of it."""

    values: list[int]
    band: tuple[int, int]
    usual: Usual | None
    runs: int
    x50: float
    x95: float
    now: float | None
    now_seconds: float | None
    axis: list[str]


def exists(uuid: str) -> bool:
    """Whether history has it."""
    return Task.objects.filter(uuid=uuid).exists()


def title(uuid: str) -> str:
    """Its function's name and the start of its id."""
    name = Task.objects.filter(uuid=uuid).values_list("name", flat=True).first() or "Task"
    return f"{name.rpartition('.')[2][:60]} {uuid[:8]}"


def detail(uuid: str, now: float) -> Detail | None:
    """None when it has left the history."""
    task = Task.objects.filter(uuid=uuid).first()
    if task is None:
        return None
    row = row_of(task, now)
    worker = Worker.objects.filter(hostname=task.worker).first() if task.worker else None
    marks = task_record(task).marks
    begun = min((mark.at for mark in marks), default=task.first_seen_at)
    held = _held(worker, uuid)
    return Detail(
        task=task,
        row=row,
        time=_timeline(task, row, now),
        events=[_happened(mark, begun) for mark in marks[:SHOWN_MARKS]],
        more_events=max(0, len(marks) - SHOWN_MARKS),
        frames=_frames(task.traceback or ""),
        args=_pretty(task.args),
        kwargs=_pretty(task.kwargs),
        result=_pretty(task.result),
        worker_pk=worker.pk if worker else None,
        child_pid=held.get("worker_pid") if isinstance(held.get("worker_pid"), int) else None,
        acks_late=acks_late(worker, task.name),
        limits=_limits(held),
        same_exception=_same(task, now),
        revoke=can_revoke(task, now),
        terminate=can_terminate(task, worker),
        why=_why(task, row, now),
    )


def can_revoke(task: Task, now: float) -> control.Can:
    """A task that waits can be revoked."""
    if task.state == STARTED:
        return control.Can(False, "A running task cannot be revoked without terminating it")
    if task.state in ENDED:
        return control.Can(False, "This task has already ended")
    return control.Can(True)


def can_terminate(task: Task, worker: Worker | None) -> control.Can:
    """A task that runs can be terminated, if the pool it runs in can do that."""
    if task.state in ENDED:
        return control.Can(False, "This task has already ended")
    if task.state != STARTED:
        return control.Can(False, "This task is not running: revoke it instead")
    if worker is None:
        return control.Can(False, f"Umbel does not know the worker {task.worker[:80]}")
    return control.capabilities(worker).terminate


def acks_late(worker: Worker | None, name: str) -> bool | None:
    """Whether the task's message is acknowledged only after it ran; None when that is not known."""
    details = worker.details if worker and isinstance(worker.details, dict) else {}
    for line in details.get("registered") or []:
        if isinstance(line, str) and line.split(" ", 1)[0] == name and "acks_late=" in line:
            return "acks_late=True" in line
    conf = details.get("conf")
    value = conf.get("task_acks_late") if isinstance(conf, dict) else None
    return value if isinstance(value, bool) else None


def workflow(uuid: str, now: float) -> Flow | None:
    """The tasks of the same root as a tree by parent; later steps of a chain appear once they are sent."""
    task = Task.objects.filter(uuid=uuid).first()
    if task is None:
        return None
    root = task.root_id or task.parent_id or task.uuid
    related = Q(root_id=root) | Q(uuid=root) | Q(parent_id=uuid) | Q(uuid=uuid)
    kin = list(Task.objects.filter(related).order_by("first_seen_at", "id").distinct()[: MOST_KIN + 1])
    shown = {one.uuid: one for one in kin[:MOST_KIN]} | {task.uuid: task}
    children: dict[str, list[Task]] = {}
    for one in shown.values():
        parent = one.parent_id if one.parent_id in shown and one.parent_id != one.uuid else ""
        children.setdefault(parent or "", []).append(one)
    placed: set[str] = set()

    def node(one: Task, depth: int) -> Node:
        placed.add(one.uuid)
        below = [child for child in children.get(one.uuid, []) if child.uuid not in placed]
        return Node(
            one, row_of(one, now), one.uuid == uuid, [node(c, depth + 1) for c in below] if depth < 30 else []
        )

    roots = [node(one, 0) for one in children.get("", []) if one.uuid not in placed]
    # Parents that name each other in a ring have no root: show them flat.
    roots += [
        Node(one, row_of(one, now), one.uuid == uuid) for one in shown.values() if one.uuid not in placed
    ]
    failed = sum(1 for one in shown.values() if one.state == "FAILURE")
    unseen = task.parent_id if task.parent_id and task.parent_id not in shown else ""
    return Flow(roots, len(shown), failed, len(kin) > MOST_KIN, unseen or "")


def distribution(uuid: str, now: float) -> Distribution | None:
    """Against its usual runtime: None before the name ever succeeded."""
    task = Task.objects.filter(uuid=uuid).first()
    kind = TaskType.objects.filter(name=task.name).first() if task and task.name else None
    if task is None or kind is None or not kind.histogram:
        return None
    counts = {int(key): int(count) for key, count in kind.histogram.items()}
    ran = row_of(task, now).ran
    low, high = min(counts), max(counts)
    if ran:
        low, high = min(low, rates.bucket(ran)), max(high, rates.bucket(ran))
    low, high = low - 1, high + 2
    bars = min(44, high - low)
    values = [0] * bars

    def place(seconds: float) -> float:
        return max(0.0, min(99.9, (rates.bucket(seconds) + 0.5 - low) / (high - low) * 100))

    for key, count in counts.items():
        values[min(bars - 1, int((key - low) / (high - low) * bars))] += count
    p50, p95 = kind.p50 or 0.0, kind.p95 or 0.0
    p05 = rates.quantile(counts, 0.05) or 0.0
    axis = [_brief(rates.value(round(low + (high - low) * k / 4))) for k in range(5)]
    return Distribution(
        values,
        (int(place(p05) / 100 * bars), int(place(p95) / 100 * bars)),
        all_usual().get(task.name),
        kind.runs,
        place(p50),
        place(p95),
        place(ran) if ran else None,
        ran,
        axis,
    )


# Where the time went


def _timeline(task: Task, row: Row, now: float) -> Timeline:
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
        [_brief(span * k / 4) if k else "0" for k in range(5)],
    )


def _bar_state(attempt: Attempt, row: Row | None) -> str:
    if attempt.state == STARTED:
        return (row.pace if row else "") or "running"
    return {"FAILURE": "failed", "REVOKED": "revoked", LOST: "lost", "REJECTED": "rejected"}.get(
        attempt.state, "running"
    )


# Events, as received

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


def _happened(mark: Mark, begun: float) -> Happened:
    state, word = _KINDS.get(mark.kind, ("sent", mark.kind))
    told = mark.detail or {}
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


# What it was given, and what came of it

_LIBRARY = re.compile(r'^\s*File ".*?(site-packages|dist-packages|lib/python\d|/celery/|/kombu/|/billiard/)')


def _frames(text: str) -> list[Frame]:
    """Frames in libraries are folded; the line that raised, the last of our own code, is marked."""
    blocks: list[tuple[bool, list[str]]] = []
    for line in text.splitlines()[:400]:
        if line.lstrip().startswith('File "'):
            blocks.append((bool(_LIBRARY.match(line)), [line]))
        elif blocks and line.startswith("    ") and not line.startswith("Traceback"):
            blocks[-1][1].append(line)
        else:
            blocks.append((False, [line]))
    ours = [
        k
        for k, (library, lines) in enumerate(blocks)
        if not library and lines[0].lstrip().startswith('File "')
    ]
    frames: list[Frame] = []
    run: list[str] = []
    count = 0
    for k, (library, lines) in enumerate(blocks):
        if library:
            run += lines
            count += 1
            continue
        if run:
            frames.append(Frame(run, f"{count} frame{'s' if count > 1 else ''} in libraries, hidden"))
            run, count = [], 0
        frames.append(Frame(lines, here=bool(ours) and k == ours[-1]))
    if run:
        frames.append(Frame(run, f"{count} frame{'s' if count > 1 else ''} in libraries, hidden"))
    return frames


def _pretty(text: str | None) -> str:
    """A repr on several lines, when it is one that can be read; otherwise as it came."""
    if not text or len(text) < 60:
        return text or ""
    try:
        return pformat(ast.literal_eval(text), width=90, sort_dicts=False)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text


def _held(worker: Worker | None, uuid: str) -> dict[str, Any]:
    details = worker.details if worker and isinstance(worker.details, dict) else {}
    for item in details.get("active") or []:
        if isinstance(item, dict) and item.get("id") == uuid:
            return item
    return {}


def _limits(held: dict[str, Any]) -> str:
    limits = held.get("timelimit") or held.get("time_limit")
    if isinstance(limits, list | tuple) and len(limits) == 2 and any(limits):
        hard, soft = limits
        return ", ".join(f"{word} {value} s" for word, value in (("soft", soft), ("hard", hard)) if value)
    return ""


def _same(task: Task, now: float) -> int:
    if not task.exception_type:
        return 0
    rows = Task.objects.filter(state=task.state, seen_at__gte=now - 3600, exception_type=task.exception_type)
    return rows.order_by()[:1000].count()


def _why(task: Task, row: Row, now: float) -> str:
    tries = f"after {task.retries + 1} attempts" if task.retries else ""
    if task.state == STARTED and row.ran is not None and row.usual and row.pace:
        return f"longer than its usual {_brief(row.usual.p50)} to {_brief(row.usual.p95)}"
    if task.state == LOST or (task.note and task.known != "seen"):
        return task.note
    if task.state == RECEIVED and task.eta and task.eta > now:
        return f"held by {task.worker} until its time" if task.worker else "held until its time"
    if task.state == "REVOKED":
        how = "terminated" if task.terminated else "expired" if task.expired else "before it ran"
        return f"{how}{f' with {task.signum}' if task.signum else ''}"
    if task.state == SUCCESS and not tries:
        return ""
    return tries


def _exception_name(text: str | None) -> str:
    return text.split("(", 1)[0].rpartition(".")[2][:80] if text else ""


def _brief(seconds: float) -> str:
    if seconds < 0.0095:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 0.995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        digits = max(0, 1 - int(math.log10(max(seconds, 1))))
        return f"{seconds:.{digits}f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
