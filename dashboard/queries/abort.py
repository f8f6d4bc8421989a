"""What an abort would reach: running tasks whose class asks the result backend, and what it would not."""

from __future__ import annotations

import time
from dataclasses import dataclass

from dashboard.queries.blast import MOST, known
from dashboard.queries.tasks import Row, rows_of
from monitor.control.revokes.aborting import can_abort, is_abortable
from monitor.models import Task


@dataclass(frozen=True)
class Hit:
    """Tasks that may be aborted, and why others may not. ``unsure``: how many may never ask."""

    targets: list[Row]
    spared: list[tuple[str, str]]
    unsure: int


def hit(uuids: tuple[str, ...]) -> Hit:
    """Of these tasks, as the history has them now."""
    tasks, workers = known(uuids)
    spared: list[tuple[str, str]] = []
    left: list[Task] = []
    unsure = 0
    for uuid in uuids[:MOST]:
        task = tasks.get(uuid)
        if task is None:
            spared.append((uuid, "not in Umbel's history"))
            continue
        worker = workers.get(task.worker)
        can = can_abort(task, worker)
        if not can.allowed:
            spared.append((uuid, can.reason))
            continue
        unsure += is_abortable(worker, task.name) is None
        left.append(task)
    return Hit(rows_of(left, time.time()), spared, unsure)
