"""From a checked command to an order: which message to which workers, and what it left out and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from monitor.control.asking import Question
from monitor.control.commands import (
    AUTOSCALE,
    ENABLE_EVENTS,
    GROW,
    REVOKE,
    SHRINK,
    TERMINATE,
    Command,
    Refused,
    capabilities,
)
from monitor.control.inspecting import holders_of, pool_size, seen_on, stats_of
from monitor.models import ControlRecord, Task, Worker
from monitor.records import ENDED, LOST, STARTED

# Seconds to wait for the looks that come before a command.
LOOK_TIMEOUT = 2.0
# Seconds after which a shrink that nobody finished no longer counts.
SHRINK_MEMORY = 60.0


@dataclass(slots=True)
class Order:
    """What will be sent, and what verification must know of before."""

    command: Command
    questions: list[Question]
    arguments: dict[str, Any]  # as recorded: the clamped number, the size before and the size to reach
    skipped: dict[str, str] = field(default_factory=dict)  # target -> why it was left out
    where: dict[str, str] = field(default_factory=dict)  # uuid -> worker
    pids: dict[str, int] = field(default_factory=dict)  # uuid -> pool process that runs it
    before: int | None = None  # pool size
    to: int | None = None  # pool size to reach

    @property
    def destinations(self) -> list[str]:
        return sorted({worker for question in self.questions for worker in question.to or ()})


def order_for(command: Command) -> Order:
    """The order, after a look at the database and, where it matters, the workers.

    Raises ``Refused`` and ``Unreachable``.
    """
    if command.name == REVOKE:
        return _revoke(command)
    if command.name == TERMINATE:
        return _terminate(command)
    if command.name == ENABLE_EVENTS:
        for name in command.targets:
            _able(name, command.name)
        return Order(command, [Question("enable_events", {}, command.targets)], {})
    return _pool(command)


def clamp(order: Order, asked_at: float) -> Order:
    """The shrink that surely leaves one process, with shrinks under way counted; in the record's transaction.

    Celery shrinks a pool to none and says ok: the worker then takes tasks and runs none.
    """
    worker = order.command.targets[0]
    list(Worker.objects.select_for_update().filter(hostname=worker).values_list("pk"))
    size = growing_to = order.before or 0
    for record in ControlRecord.objects.filter(command__in=(SHRINK, GROW), at__gt=asked_at - SHRINK_MEMORY):
        under_way = record.completed_at is None or record.completed_at > asked_at
        to = record.arguments.get("to")
        if under_way and record.targets == [worker] and record.sent_at and isinstance(to, int):
            size = min(size, to) if record.command == SHRINK else size
            growing_to = max(growing_to, to) if record.command == GROW else growing_to
    asked = _steps(order, size, growing_to)
    if order.command.name == GROW:
        order.before, order.to, n = size, order.command.arguments.get("to", size + asked), asked
    else:
        n = min(asked, size - 1)
        if n < 1:
            left = "no pool process" if size < 1 else "one pool process"
            raise Refused(f"{worker} has {left} left; without one it would take tasks and run none.")
        order.before, order.to = size, size - n
    order.questions = [Question(order.command.name, {"n": n}, (worker,))]
    order.arguments = {"n": n, "before": order.before, "to": order.to}
    if n != asked:
        order.arguments["asked"] = asked
    return order


def _steps(order: Order, size: int, growing_to: int) -> int:
    """How many processes more or fewer: as asked, or to the size asked for from what it is now.

    The page that asked may be seconds old: a size that lies the other way now is not what was meant.
    """
    given = order.command.arguments
    if "to" not in given:
        return int(given["n"])
    to, worker = int(given["to"]), order.command.targets[0]
    if order.command.name == SHRINK:
        steps, now = size - to, f"has {size} pool processes now"
    else:
        under_way = f", and grows to {growing_to}" if growing_to > size else ""
        steps, now = to - max(size, growing_to), f"has {size} pool processes now{under_way}"
    if steps < 1:
        verb = "shrink" if order.command.name == SHRINK else "grow"
        raise Refused(f"{worker} {now}: it cannot {verb} to {to}. Nothing was sent; look again.")
    return steps


def _pool(command: Command) -> Order:
    (worker,) = command.targets
    _able(worker, command.name)
    stats = stats_of(worker, LOOK_TIMEOUT)
    if stats is None:
        raise Refused(
            f"{worker} did not answer within {LOOK_TIMEOUT:.0f} s, so the size of its pool is unknown; "
            "nothing was sent. Try again when it answers."
        )
    scaled = bool(stats.get("autoscaler"))
    if command.name == AUTOSCALE:
        if not scaled:
            raise Refused(f"{worker} was started without --autoscale.")
        arguments = dict(command.arguments)
        return Order(
            command, [Question("autoscale", arguments, (worker,))], arguments, before=pool_size(stats)
        )
    if scaled:
        raise Refused(f"{worker} scales itself: set its autoscale limits instead.")
    size = pool_size(stats)
    if size is None:
        raise Refused(f"{worker} does not tell the size of its pool, so it cannot be resized safely.")
    return Order(command, [], {}, before=size)


def _revoke(command: Command) -> Order:
    rows, online, found = _known(command)
    if not online:
        raise Refused("No worker is online: nobody would remember a revoke. Revoke when one is.")
    order = Order(command, [], {})
    for uuid in command.targets:
        row = rows.get(uuid)
        if row is not None and row.state in ENDED and row.state != LOST:
            order.skipped[uuid] = f"{_named(row)} has ended already: {row.state}."
        elif row is not None and row.state == STARTED:
            order.skipped[uuid] = (
                f"{_named(row)} runs on {row.worker}: a revoke does not stop it. Terminate it."
            )
        elif row is not None and row.worker:
            order.where[uuid] = row.worker
        elif uuid in found:
            order.where[uuid] = found[uuid]
    left = _left(command, order)
    to = _among(command.destinations, online) or tuple(online)
    # Every worker that might take it must know.
    order.questions = [Question("revoke", {"task_id": left, "terminate": False}, to)]
    return order


def _terminate(command: Command) -> Order:
    rows, _, found = _known(command)
    order = Order(command, [], dict(command.arguments))
    for uuid in command.targets:
        row = rows.get(uuid)
        worker = (row.worker if row is not None else "") or found.get(uuid, "")
        if row is not None and row.state in ENDED and row.state != LOST:
            order.skipped[uuid] = f"{_named(row)} has ended already: {row.state}."
        elif not worker:
            order.skipped[uuid] = f"{uuid} has not reached a worker yet: revoke it instead."
        else:
            can = _can(worker, TERMINATE)
            if can:
                order.skipped[uuid] = can
            else:
                order.where[uuid] = worker
    _left(command, order)
    seen = seen_on(set(order.where.values()))
    for uuid, worker in list(order.where.items()):
        if worker not in seen:
            continue
        if uuid not in seen[worker].tasks:
            order.skipped[uuid] = f"{uuid} is no longer on {worker}: it has ended, or waits elsewhere."
            del order.where[uuid]
        elif isinstance(pid := seen[worker].pids.get(uuid), int) and pid in (seen[worker].processes or ()):
            order.pids[uuid] = pid
    _left(command, order)
    by_worker: dict[str, list[str]] = {}
    for uuid, worker in order.where.items():
        by_worker.setdefault(worker, []).append(uuid)
    # One message a worker, with its own tasks: another worker would note them down as revoked.
    order.questions = [
        Question("revoke", {"task_id": uuids, "terminate": True, **command.arguments}, (worker,))
        for worker, uuids in by_worker.items()
    ]
    return order


def _known(command: Command) -> tuple[dict[str, Task], list[str], dict[str, str]]:
    """Rows by uuid, online workers, and the workers of tasks that have no row.

    An id that nobody knows is refused.
    """
    rows = {task.uuid: task for task in Task.objects.filter(uuid__in=command.targets)}
    online = list(
        Worker.objects.exclude(status="offline").filter(is_beat=False).values_list("hostname", flat=True)
    )
    missing = [uuid for uuid in command.targets if uuid not in rows]
    found: dict[str, str] = {}
    if missing and online:
        found = holders_of(missing, online)
    for uuid in missing:
        if uuid not in found:
            raise Refused(
                f"No task with the id {uuid!r} was ever seen, and no worker that answers holds one. "
                "Check the id."
            )
    return rows, online, found


def _left(command: Command, order: Order) -> list[str]:
    left = [uuid for uuid in command.targets if uuid not in order.skipped]
    if not left:
        first = next(iter(order.skipped.values()))
        many = len(command.targets)
        raise Refused(
            first if many == 1 else f"Nothing to {command.name} in these {many} tasks. The first: {first}"
        )
    return left


def _able(hostname: str, command: str) -> None:
    reason = _can(hostname, command)
    if reason:
        raise Refused(reason)


def _can(hostname: str, command: str) -> str:
    """Why this worker cannot be asked for this; '' when it can."""
    worker = Worker.objects.filter(hostname=hostname).first()
    if worker is None:
        names = Worker.objects.filter(status="online").values_list("hostname", flat=True)[:6]
        others = f" Online: {', '.join(names)}." if names else " No worker is online."
        return f"No worker is called {hostname[:80]!r}.{others}"
    can = capabilities(worker).of(command)
    # How many processes there are is asked of the worker itself, not of the row.
    if command == SHRINK and not can.allowed and capabilities(worker).grow.allowed:
        return ""
    return "" if can.allowed else can.reason


def _among(asked: Iterable[str], online: list[str]) -> tuple[str, ...]:
    for name in asked:
        if name not in online:
            raise Refused(_can(name, REVOKE) or f"{name} is not online: it cannot be asked.")
    return tuple(asked)


def _named(row: Task) -> str:
    return f"{row.name} {row.uuid}" if row.name else row.uuid
