"""The pool of a worker: its size, its autoscale limits, and its restart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monitor.control.asking import Question
from monitor.control.commands import AUTOSCALE, GROW, SHRINK, Command, Refused, whole_number
from monitor.control.inspecting import Seen, pool_size, processes, stats_of
from monitor.control.orders import LOOK_TIMEOUT, Order, able, to_workers
from monitor.control.verifying import Finding, Grade, answered
from monitor.models import ControlRecord, Worker

MOST_PROCESSES = 500
# Seconds after which a shrink that nobody finished no longer counts.
SHRINK_MEMORY = 60.0


def steps_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a grow or a shrink."""
    if "to" in given:
        return {"to": whole_number(given["to"], "The pool size", 1, MOST_PROCESSES)}
    return {"n": whole_number(given.get("n", 1), "n", 1, MOST_PROCESSES)}


def limits_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an autoscale."""
    most = whole_number(given.get("max"), "max", 1, MOST_PROCESSES)
    least = whole_number(given.get("min"), "min", 1, MOST_PROCESSES)
    if least > most:
        raise Refused(f"The least ({least}) cannot be over the most ({most}).")
    return {"max": most, "min": least}


def resize(command: Command) -> Order:
    (worker,) = command.targets
    able(worker, command.name)
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
    return Order(command, [], {}, before=size, processes=frozenset(processes(stats) or ()))


def restart(command: Command) -> Order:
    """The pool's processes are looked at before, to see that others took their place."""
    able(command.targets[0], command.name)
    stats = stats_of(command.targets[0], LOOK_TIMEOUT)
    if stats is None:
        raise Refused(f"{command.targets[0]} did not answer within {LOOK_TIMEOUT:.0f} s; nothing was sent.")
    order = to_workers(command, {"reload": False})
    # A solo worker names itself.
    order.processes = frozenset((processes(stats) or set()) - {stats.get("pid")})
    return order


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
            # A greenlet is no process.
            left = "no pool process" if size < 1 else "one pool process" if order.processes else "one slot"
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


def sized(order: Order, sent_at: float, seen: Mapping[str, Seen]) -> list[Finding]:
    """Whether the pool has the size that was asked for: counted, since max-concurrency never changes."""
    (worker,) = order.destinations
    return [_limits(order, worker, seen) if order.command.name == AUTOSCALE else _size(order, worker, seen)]


def restarted(order: Order, sent_at: float, seen: Mapping[str, Seen]) -> list[Finding]:
    """Whether other processes do the work now. A busy one goes when its task has ended."""
    (worker,) = order.destinations
    if worker not in seen:
        return [Finding(worker, Grade.UNKNOWN, "It did not answer when Umbel looked at its pool processes.")]
    now = seen[worker].processes or set()
    if not order.processes:
        text = "It told no pool process before, so the old cannot be told from the new."
        return [Finding(worker, Grade.HALF if answered(order, worker) else Grade.NOT, text)]
    old, count = now & order.processes, len(order.processes)
    if not now:
        return [Finding(worker, Grade.NOT, "It has no pool process now: grow it by one.")]
    if not old:
        return [
            Finding(worker, Grade.SEEN, f"{count} old pool processes are gone, {len(now)} new ones work.")
        ]
    text = f"{len(old)} of {count} old pool processes are still there: each goes when it next takes a task"
    return [Finding(worker, Grade.HALF if len(old) < count else Grade.NOT, text)]


def _size(order: Order, worker: str, seen: Mapping[str, Seen]) -> Finding:
    size = pool_size(seen[worker].stats) if worker in seen else None
    if size is None:
        return Finding(worker, Grade.UNKNOWN, "It did not answer when Umbel counted its pool processes.")
    text = f"{order.before} → {size} {'slots' if seen[worker].processes is None else 'pool processes'}"
    if size == order.to:
        return Finding(worker, Grade.SEEN, text)
    before, to = order.before or 0, order.to or 0
    moved = (size - before) * (to - before) > 0
    return Finding(worker, Grade.HALF if moved else Grade.NOT, f"{text}, not {to}")


def _limits(order: Order, worker: str, seen: Mapping[str, Seen]) -> Finding:
    scaler = seen[worker].stats.get("autoscaler") if worker in seen else None
    if not isinstance(scaler, dict):
        return Finding(worker, Grade.UNKNOWN, "It did not answer when Umbel looked at its autoscaler.")
    now = {"max": scaler.get("max"), "min": scaler.get("min")}
    right = now == order.command.arguments
    text = f"autoscale from {now['min']} to {now['max']}, {scaler.get('current')} now"
    return Finding(worker, Grade.SEEN if right else Grade.NOT, text)
