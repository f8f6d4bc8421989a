"""One task: what it was given and gave, how it ended, and what can be done about it."""

from __future__ import annotations

import ast
import signal
from dataclasses import dataclass
from pprint import pformat
from typing import Any

from dashboard.queries.tasks import Row, how_known, row_of
from dashboard.queries.timeline import Happened, Timeline, happened, timeline
from dashboard.queries.traceback import Frame, frames
from dashboard.templatetags.words import short
from monitor import control
from monitor.models import Task, Worker
from monitor.records import ENDED, LOST, RECEIVED, REJECTED, STARTED, SUCCESS
from monitor.store import task_record

SHOWN_MARKS = 100


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
    cause: str  # what is said to have ended it
    told: str  # in its own words
    revoke: control.Can
    terminate: control.Can
    abort: control.Can
    why: str = ""


def name(uuid: str) -> str | None:
    """Its name, "" while that is not known; None when history does not have it."""
    return Task.objects.filter(uuid=uuid).values_list("name", flat=True).first()


def title(name: str, uuid: str) -> str:
    """Its function's name and the start of its id."""
    return f"{(name or 'Task').rpartition('.')[2][:60]} {uuid[:8]}"


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
        time=timeline(task, row, now),
        events=[happened(mark, begun, task) for mark in marks[:SHOWN_MARKS]],
        more_events=max(0, len(marks) - SHOWN_MARKS),
        frames=frames(task.traceback or ""),
        args=_pretty(task.args),
        kwargs=_pretty(task.kwargs),
        result=_pretty(task.result),
        worker_pk=worker.pk if worker else None,
        child_pid=held.get("worker_pid") if isinstance(held.get("worker_pid"), int) else None,
        acks_late=acks_late(worker, task.name),
        limits=_limits(held),
        same_exception=_same(task, now),
        cause=_cause(task),
        told=_told(task),
        revoke=can_revoke(task, now),
        terminate=can_terminate(task, worker),
        abort=control.can_abort(task, worker),
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


# What it was given, and what came of it


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


def _cause(task: Task) -> str:
    return "Rejected" if task.state == REJECTED else task.exception_type or "Exception"


def _told(task: Task) -> str:
    """Celery shows ``Reject("locked", requeue=False)`` as "reject requeue=False: locked"."""
    text = task.exception or ""
    if task.state != REJECTED or not text.startswith("reject requeue="):
        return text
    head, _, reason = text.partition(":")
    again = "put back into the queue" if head.endswith("True") else "not put back into the queue"
    return f"{reason.strip() or 'No reason was given'}; {again}"


def _why(task: Task, row: Row, now: float) -> str:
    tries = f"after {task.retries + 1} attempts" if task.retries else ""
    if task.state == STARTED and row.ran is not None and row.usual and row.pace:
        return f"longer than its usual {short(row.usual.p50)} to {short(row.usual.p95)}"
    if task.state == LOST:
        return task.note
    if how := how_known(task):
        return how
    if task.state == RECEIVED and task.eta and task.eta > now:
        return f"held by {task.worker} until its time" if task.worker else "held until its time"
    if task.state == "REVOKED":
        how = "terminated" if task.terminated else "expired" if task.expired else "before it ran"
        return f"{how}{f' with {_signal(task.signum)}' if task.signum else ''}"
    if task.state == REJECTED and task.exception:
        return _told(task)[:160]
    if task.state == SUCCESS and not tries:
        return ""
    return tries


def _signal(signum: str) -> str:
    """Workers send the number or the name of a signal; people read names."""
    try:
        return signal.Signals(int(signum)).name
    except ValueError:
        return signum
