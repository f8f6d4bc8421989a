"""Abort: ABORTED is written into the result backend, where a task of ``celery.contrib.abortable`` looks.

No worker is asked and nothing is stopped: only a task that calls ``is_aborted()`` ends itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from redis.exceptions import RedisError

from monitor import registered
from monitor.broker import current
from monitor.control.asking import Reply, Unreachable
from monitor.control.capabilities import Can
from monitor.control.commands import ABORT, Command, Refused
from monitor.control.inspecting import Seen
from monitor.control.orders import Order
from monitor.control.revokes.stopping import on_solo
from monitor.control.verifying import Finding, Grade
from monitor.models import Task, Worker
from monitor.records import ENDED, LOST, PENDING, RECEIVED, STARTED
from monitor.results import ABORTED

BACKEND = "the result backend"
DAY = 86_400  # seconds that Celery keeps a result unless told otherwise


def can_abort(task: Task, worker: Worker | None) -> Can:
    """Whether there is use in it, as far as Umbel knows: the backend, the state, and the task's own class."""
    if task.state in ENDED and task.state != LOST:
        return Can(False, "This task has already ended")
    if task.state != STARTED:
        return Can(False, "This task is not running: revoke it instead")
    if reason := _why_no_backend():
        return Can(False, f"Abort writes into the result backend. {reason}")
    if is_abortable(worker, task.name) is False:
        return Can(False, f"{task.name} is no AbortableTask on {task.worker}: it would never ask")
    return Can(True)


def _why_no_backend() -> str:
    try:
        return current().results_reason
    except RuntimeError as error:
        return str(error)  # a page may be drawn where nothing can be sent


def is_abortable(worker: Worker | None, name: str) -> bool | None:
    """Whether the task's class asks the backend, by what its worker told; None when it did not tell."""
    details = worker.details if worker and isinstance(worker.details, dict) else {}
    found = registered.attributes(details, name)
    return None if found is None else "is_aborted" in found


def order(command: Command) -> Order:
    """Of tasks that run, and that the backend does not call ended."""
    if reason := current().results_reason:
        raise Refused(f"Abort writes into the result backend. {reason}")
    found = Order(command, [], {}, asked=(BACKEND,))
    rows = {task.uuid: task for task in Task.objects.filter(uuid__in=command.targets)}
    workers = {w.hostname: w for w in Worker.objects.filter(hostname__in={t.worker for t in rows.values()})}
    states = _states(command.targets)
    for uuid in command.targets:
        task = rows.get(uuid)
        if task is None:
            found.skipped[uuid] = f"No task with the id {uuid!r} was ever seen. Check the id."
        elif not (can := can_abort(task, workers.get(task.worker))).allowed:
            perhaps = on_solo(task) if task.state in (PENDING, RECEIVED) else ""
            found.skipped[uuid] = f"{task.name} {uuid}: {can.reason}.{perhaps}"
        elif (state := states.get(uuid, "")) in ENDED:
            found.skipped[uuid] = f"{task.name} {uuid} has ended already: {BACKEND} says {state}."
        elif state == ABORTED:
            found.skipped[uuid] = f"{task.name} {uuid} is aborted already: it stops when it next asks."
        else:
            found.where[uuid] = task.worker
    if not found.where:
        raise Refused(next(iter(found.skipped.values())))
    return found


def write(order: Order) -> list[Reply]:
    """ABORTED under the key of each, where no end is. Raises ``Unreachable``."""
    workers = {w.hostname: w for w in Worker.objects.filter(hostname__in=set(order.where.values()))}
    said: list[str] = []
    done = 0
    for uuid, hostname in order.where.items():
        try:
            state = current().abort(uuid, expires_of(workers.get(hostname)))
        except (RedisError, OSError) as error:
            text = f"The result backend cannot be reached: {current().explain(error)}"
            raise Unreachable(text, sent=bool(done)) from error
        if state == ABORTED:
            done += 1
        else:
            said.append(f"{uuid[:8]} had ended: {state}")
    text = "; ".join([f"ABORTED written for {done}", *said[:5]])
    return [Reply(BACKEND, ABORT, done > 0, text)]


def expires_of(worker: Worker | None) -> int:
    """Seconds that the cluster keeps a result; 0 for ever."""
    details = worker.details if worker and isinstance(worker.details, dict) else {}
    conf = details.get("conf")
    value: Any = conf.get("result_expires", DAY) if isinstance(conf, dict) else DAY
    if value is None:
        return 0
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value)
    span = _SPAN.fullmatch(str(value))
    if span is None:
        return DAY
    days, hours, minutes, seconds = (int(part or 0) for part in span.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


# As Python writes a timedelta.
_SPAN = re.compile(r"(?:(\d+) days?, )?(\d+):(\d\d):(\d\d)")


def aborted(order: Order, sent_at: float, seen: Mapping[str, Seen]) -> list[Finding]:
    """Whether the backend says so, and then whether the task came to its end."""
    uuids = list(order.where)
    try:
        states = _states(uuids)
    except Unreachable as error:
        return [Finding(uuid, Grade.UNKNOWN, str(error)) for uuid in uuids]
    rows = dict(Task.objects.filter(uuid__in=uuids).values_list("uuid", "state"))
    return [_aborted(uuid, rows.get(uuid, ""), states.get(uuid, "")) for uuid in uuids]


def _aborted(uuid: str, row: str, state: str) -> Finding:
    if row in ENDED - {LOST}:
        return Finding(uuid, Grade.SEEN, f"It ended: {row}.")
    if state == ABORTED:
        text = "The result backend holds ABORTED; the task ends when it next asks is_aborted()."
        return Finding(uuid, Grade.HALF, text)
    if state in ENDED:
        return Finding(uuid, Grade.HALF, f"The result backend says {state}; no event of its end has come.")
    said = f"says {state}" if state else "holds nothing of it"
    return Finding(uuid, Grade.NOT, f"The result backend {said}.")


def _states(uuids: Iterable[str]) -> dict[str, str]:
    try:
        return current().result_states(uuids)
    except (RedisError, OSError) as error:
        text = f"The result backend cannot be reached: {current().explain(error)}"
        raise Unreachable(text, sent=False) from error
