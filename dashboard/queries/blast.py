"""What terminating tasks would hit: which workers and processes, what may run again, what waits for them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from dashboard.queries.task import acks_late, process_of
from dashboard.queries.tasks import Row, rows_of
from monitor.control import capabilities
from monitor.models import Task, Worker
from monitor.records import PENDING, RECEIVED, RETRY, STARTED

MOST = 500


@dataclass(frozen=True)
class Target:
    """A running task, the process it is in, and whether the broker may deliver it again."""

    row: Row
    pid: int | None
    late: bool | None


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

    @property
    def late(self) -> int:
        return sum(1 for t in self.targets if t.late)

    @property
    def unknown(self) -> int:
        return sum(1 for t in self.targets if t.late is None)


def hit(uuids: tuple[str, ...]) -> Hit:
    """Of these tasks, as the history has them now."""
    tasks = {
        t.uuid: t for t in Task.objects.filter(uuid__in=uuids[:MOST]).defer("marks", "traceback", "result")
    }
    hosts = {t.worker for t in tasks.values() if t.worker}
    workers = {w.hostname: w for w in Worker.objects.filter(hostname__in=hosts)}
    spared: list[tuple[str, str]] = []
    running: list[Task] = []
    for uuid in uuids[:MOST]:
        task = tasks.get(uuid)
        why = _why_not(task, workers)
        if task is None or why:
            spared.append((uuid, why))
        else:
            running.append(task)
    targets = [
        Target(row, process_of(row.task, (w := workers.get(row.task.worker))), acks_late(row.task, w))
        for row in rows_of(running, time.time())
    ]
    return Hit(targets, spared, _waiting(running), max(0, len(uuids) - MOST))


def why_not(task: Task, worker: Worker | None) -> str:
    """Why a task cannot be terminated, "" when it can."""
    return _why_not(task, {worker.hostname: worker} if worker else {})


def _why_not(task: Task | None, workers: dict[str, Worker]) -> str:
    if task is None:
        return "not in Umbel's history"
    if task.state in (PENDING, RECEIVED, RETRY):
        return "it is not running; revoke it instead"
    if task.state != STARTED:
        return "it has already ended"
    worker = workers.get(task.worker)
    if worker is None:
        return "" if task.worker else "Umbel does not know which worker runs it"
    can = capabilities(worker).terminate
    return "" if can.allowed else can.reason


def _waiting(tasks: list[Task]) -> int:
    """Unfinished tasks of the same workflows that come after these."""
    uuids = [t.uuid for t in tasks]
    roots = [t.root_id for t in tasks if t.root_id]
    kin = Task.objects.filter(parent_id__in=uuids) | Task.objects.filter(root_id__in=roots)
    return kin.filter(state__in=(PENDING, RECEIVED)).exclude(uuid__in=uuids).values("pk")[:MOST].count()
