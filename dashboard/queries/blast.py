"""What terminating or revoking tasks would hit: which workers and processes, and what waits for them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from django.db.models import Q

from dashboard.queries.task import can_revoke, can_terminate
from dashboard.queries.tasks import Row, rows_of
from monitor.models import NOT_ROOT, Task, Worker
from monitor.records import PENDING, RECEIVED

MOST = 500


@dataclass(frozen=True)
class Target:
    """A task, and the process it is in."""

    row: Row
    pid: int | None


@dataclass(frozen=True)
class Hit:
    """Targets, and the ones that cannot be hit, each with why."""

    targets: list[Target]
    spared: list[tuple[str, str]]
    waiting: int  # tasks that wait in the same workflows
    many: int  # over the limit

    @property
    def workers(self) -> list[str]:
        return sorted({t.row.task.worker for t in self.targets if t.row.task.worker})


def hit(uuids: tuple[str, ...]) -> Hit:
    """Of these tasks, as the history has them now."""
    tasks, workers = known(uuids)
    spared: list[tuple[str, str]] = []
    running: list[Task] = []
    for uuid in uuids[:MOST]:
        task = tasks.get(uuid)
        why = _why_not(task, workers)
        if task is None or why:
            spared.append((uuid, why))
        else:
            running.append(task)
    targets = [_target(row, workers.get(row.task.worker)) for row in rows_of(running, time.time())]
    return Hit(targets, spared, _waiting(running), max(0, len(uuids) - MOST))


def known(uuids: tuple[str, ...]) -> tuple[dict[str, Task], dict[str, Worker]]:
    """Those of history, by id, and their workers, by name."""
    tasks = {
        t.uuid: t for t in Task.objects.filter(uuid__in=uuids[:MOST]).defer("marks", "traceback", "result")
    }
    hosts = {t.worker for t in tasks.values() if t.worker}
    return tasks, {w.hostname: w for w in Worker.objects.filter(hostname__in=hosts)}


def waiting(uuids: tuple[str, ...]) -> Hit:
    """Of these tasks, those that a revoke reaches."""
    now = time.time()
    tasks, _ = known(uuids)
    spared: list[tuple[str, str]] = []
    left: list[Task] = []
    for uuid in uuids[:MOST]:
        task = tasks.get(uuid)
        can = can_revoke(task, now) if task is not None else None
        if task is not None and can is not None and can.allowed:
            left.append(task)
        else:
            spared.append((uuid, can.reason if can is not None else "not in Umbel's history"))
    targets = [Target(row, None) for row in rows_of(left, now)]
    return Hit(targets, spared, _waiting(left), max(0, len(uuids) - MOST))


def _target(row: Row, worker: Worker | None) -> Target:
    details = worker.details if worker and isinstance(worker.details, dict) else {}
    active = [one for one in details.get("active") or [] if isinstance(one, dict)]
    pid = next((one.get("worker_pid") for one in active if one.get("id") == row.task.uuid), None)
    return Target(row, pid if isinstance(pid, int) else None)


def _why_not(task: Task | None, workers: dict[str, Worker]) -> str:
    if task is None:
        return "not in Umbel's history"
    return can_terminate(task, workers.get(task.worker)).reason


def _waiting(tasks: list[Task]) -> int:
    """Unfinished tasks of the same workflows that come after these."""
    uuids = [t.uuid for t in tasks]
    roots = [t.root_id for t in tasks if t.root_id]
    # Each by its own index; the one of roots leaves out who is its own.
    related = (Q(parent_id__in=uuids), NOT_ROOT & Q(root_id__in=roots), Q(uuid__in=roots))
    found: set[str] = set()
    for kin in related:
        waiting = Task.objects.filter(kin, state__in=(PENDING, RECEIVED)).exclude(uuid__in=uuids)
        found |= set(waiting.values_list("uuid", flat=True)[:MOST])
    return min(len(found), MOST)
