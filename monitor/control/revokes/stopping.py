"""Revoke and terminate tasks: to whom, what stands from then on, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monitor.control.asking import Question
from monitor.control.capabilities import TAKES_AT_ONCE, pool_kind
from monitor.control.commands import SIGNALS, TERMINATE, UMBEL, Command, Refused
from monitor.control.inspecting import Seen, has_grown, holders_of, seen_on
from monitor.control.orders import Order, among, cannot, online_workers
from monitor.control.verifying import Finding, Grade
from monitor.models import ControlRecord, StandingRevoke, Task, Worker
from monitor.records import ENDED, LOST, REVOKED, STARTED

SEEN = "seen"  # of a task that is known by its events
# Of a reserved task on such a worker: before a revoke in its dialog, after it in its receipt.
GROWN = (
    "Its pool has grown since its start: it may have given it to that already, and then it runs all the "
    "same. Terminate it to be sure."
)
ONCE_IT_RUNS = "Terminate it once it runs."
# Ends that a worker reports itself, not what Umbel infers.
_REPORTED = ENDED - {LOST}


def signal_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a terminate."""
    signal = given.get("signal", "SIGTERM")
    if signal not in SIGNALS:
        raise Refused(
            f"{str(signal)[:40]!r} is not a signal Umbel sends; choose one of {', '.join(SIGNALS)}."
        )
    return {"signal": signal}


def option_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a revoke: the signal that ends a task which is started all the same, or nothing."""
    return (
        {"if_started": signal_of({"signal": given["if_started"]})["signal"]}
        if given.get("if_started")
        else {}
    )


def revoke(command: Command) -> Order:
    rows, online, found = _known(command)
    if not online:
        raise Refused("No worker is online: nobody would remember a revoke. Revoke when one is.")
    order = Order(command, [], dict(command.arguments))
    for uuid in command.targets:
        row = rows.get(uuid)
        if row is not None and row.state in ENDED and row.state != LOST and not _by_result(row):
            order.skipped[uuid] = f"{_named(row)} has ended already: {row.state}."
        elif row is not None and row.state == STARTED:
            order.skipped[uuid] = (
                f"{_named(row)} runs on {row.worker}: a revoke does not stop it. {_instead(row.worker)}"
            )
        elif row is not None and row.worker:
            order.where[uuid] = row.worker
        elif uuid in found:
            order.where[uuid] = found[uuid]
    left = _left(command, order)
    to = among(command.destinations, online) or tuple(online)
    # Every worker that might take it must know.
    order.questions = [Question("revoke", {"task_id": left, "terminate": False}, to)]
    return order


def stand(order: Order, record: ControlRecord) -> None:
    """Write down what was revoked, in the transaction of its record."""
    if record.username == UMBEL.username and record.user_id is None:
        return
    if_started = str(order.command.arguments.get("if_started", ""))
    standing = [
        StandingRevoke(uuid=uuid, record=record, since=record.at, if_started=if_started)
        for uuid in order.command.targets
        if uuid not in order.skipped
    ]
    # Five hundred of a batch in one statement, while everybody else's writes wait.
    StandingRevoke.objects.bulk_create(
        standing,
        update_conflicts=True,
        unique_fields=["uuid"],
        update_fields=["record", "since", "started_at", "moot_at", "if_started", "ended_at"],
    )


def terminate(command: Command) -> Order:
    rows, _, found = _known(command)
    order = Order(command, [], dict(command.arguments))
    for uuid in command.targets:
        row = rows.get(uuid)
        worker = (row.worker if row is not None else "") or found.get(uuid, "")
        if row is not None and row.state in ENDED and row.state != LOST:
            order.skipped[uuid] = f"{_named(row)} has ended already: {row.state}."
        elif not worker:
            order.skipped[uuid] = f"{uuid} has not reached a worker yet: revoke it instead.{on_solo(row)}"
        else:
            can = cannot(worker, TERMINATE)
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
        elif seen[worker].tasks[uuid] != "active" and (green := _green(worker)):
            # Measured: its greenlet is killed as it begins, and no event tells of that.
            order.skipped[uuid] = (
                f"{uuid} has not begun on {worker}: terminated before that, a {green} worker would list it "
                "as active for ever. Terminate it once it runs."
            )
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


def _green(worker: str) -> str:
    row = Worker.objects.filter(hostname=worker).first()
    kind = pool_kind(row) if row is not None else ""
    return kind if kind in ("gevent", "eventlet") else ""


def on_solo(row: Task | None) -> str:
    """A solo worker at work sends no event, not even of the task that it took: it may run there."""
    if row is None or not row.queue:
        return ""
    solo = Worker.objects.filter(status="online", pool__contains="solo").values_list("hostname", "queues")
    names = [name for name, queues in solo if isinstance(queues, list) and row.queue in queues]
    if not names:
        return ""
    return f" Or it runs on {names[0]}: a solo worker tells of a task only when it has ended."


def _known(command: Command) -> tuple[dict[str, Task], list[str], dict[str, str]]:
    """Rows by uuid, online workers, and the workers of tasks that have no row.

    An id that nobody knows is refused.
    """
    rows = {task.uuid: task for task in Task.objects.filter(uuid__in=command.targets)}
    online = online_workers()
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
            first if many == 1 else f"Nothing to {command.name} in these {many} tasks. The first: {first}",
            order.skipped,
        )
    return left


def _named(row: Task) -> str:
    return f"{row.name} {row.uuid}" if row.name else row.uuid


def revoked(order: Order, sent_at: float, seen: Mapping[str, Seen]) -> list[Finding]:
    """Whether each will be skipped, was, or runs all the same."""
    rows = _rows(order)
    eager = {
        worker.hostname: kind
        for worker in Worker.objects.filter(hostname__in=seen)
        if (kind := pool_kind(worker)) in TAKES_AT_ONCE or has_grown(seen[worker.hostname].stats)
    }
    return [_revoked(order, uuid, rows.get(uuid), seen, eager) for uuid in _acted_on(order)]


def terminated(order: Order, sent_at: float, seen: Mapping[str, Seen]) -> list[Finding]:
    """Whether each is gone, and ended by the signal."""
    rows = _rows(order)
    return [_terminated(order, uuid, rows.get(uuid), seen) for uuid in _acted_on(order)]


def _acted_on(order: Order) -> list[str]:
    return [uuid for uuid in order.command.targets if uuid not in order.skipped]


def _rows(order: Order) -> dict[str, Task]:
    return {task.uuid: task for task in Task.objects.filter(uuid__in=_acted_on(order))}


def _terminated(order: Order, uuid: str, row: Task | None, seen: Mapping[str, Seen]) -> Finding:
    worker = order.where[uuid]
    signal = order.arguments["signal"]
    here = seen.get(worker)
    ended = row is not None and row.state in _REPORTED
    state = row.state if row is not None else ""
    if here is None:
        if ended:
            says = "event" if row is not None and row.known == SEEN else "result"
            return Finding(
                uuid, Grade.HALF, f"The {says} says {state}; {worker} did not answer when Umbel looked."
            )
        return Finding(uuid, Grade.UNKNOWN, f"{worker} did not answer, and no end was seen.")
    again = next((name for name, one in seen.items() if name != worker and uuid in one.tasks), "")
    if again:
        return Finding(
            uuid, Grade.NOT, f"It was delivered again and is {seen[again].tasks[uuid]} on {again}."
        )
    if uuid in here.tasks:
        if here.tasks[uuid] != "active" and uuid in here.revoked:
            text = (
                f"Still {here.tasks[uuid]} on {worker}, which has noted it and ends it when its turn comes."
            )
            return Finding(uuid, Grade.HALF, text)
        return Finding(uuid, Grade.NOT, f"Still {here.tasks[uuid]} on {worker}.")
    pid = order.pids.get(uuid)
    if signal == "SIGUSR1":
        return _asked_to_end(uuid, worker, row)
    if (
        pid is not None
        and here.processes is not None
        and pid in here.processes
        and (state == REVOKED or not ended)
    ):
        # The worker forgets a task that it signalled, whether the signal did anything or not.
        return Finding(
            uuid,
            Grade.NOT,
            f"{worker} calls it revoked, but process {pid} lives on after {signal}: it may still run.",
        )
    if not ended:
        return Finding(uuid, Grade.HALF, f"Gone from {worker}; its end was not seen in an event.")
    if state != REVOKED:
        return Finding(uuid, Grade.HALF, f"It ended with {state}, not by {signal}.")
    if row is not None and row.known != SEEN:
        # Celery writes that for whatever it is told to terminate.
        text = f"Gone from {worker}; its result says {state}, and its end was not seen in an event."
        return Finding(uuid, Grade.HALF, text)
    if pid is not None and here.processes is None:
        text = f"Gone from {worker}, which did not tell whether process {pid} lives; its event says {state}."
        return Finding(uuid, Grade.HALF, text)
    return Finding(uuid, Grade.SEEN, f"Gone from {worker}, and its end was seen: {state}.")


def _asked_to_end(uuid: str, worker: str, row: Task | None) -> Finding:
    """SIGUSR1 raises SoftTimeLimitExceeded in the task, which may clean up and end as it likes."""
    kinds = [mark[0] for mark in (row.marks if row is not None else ()) if mark and mark[0] in _OWN_ENDS]
    if row is not None and (kinds or row.state in ("SUCCESS", "FAILURE")):
        how = row.state if row.state in ("SUCCESS", "FAILURE") else kinds[-1]
        return Finding(uuid, Grade.SEEN, f"It ended, after SIGUSR1: {how}.")
    if row is not None and row.state == REVOKED:
        return Finding(
            uuid,
            Grade.HALF,
            f"{worker} calls it revoked; SIGUSR1 asked it to end, and no event says that it did.",
        )
    return Finding(uuid, Grade.HALF, f"Gone from {worker}; its end was not seen in an event.")


_OWN_ENDS = ("succeeded", "failed", "retried", "rejected")


def _revoked(
    order: Order, uuid: str, row: Task | None, seen: Mapping[str, Seen], eager: Mapping[str, str]
) -> Finding:
    """``eager``: workers that give a task to their pool before a slot is free, with the kind of pool."""
    asked = order.destinations
    if row is not None and row.state == REVOKED and row.known == SEEN:
        return Finding(uuid, Grade.SEEN, f"A worker reached it and skipped it: {REVOKED}.")
    runs_on = next((name for name, one in seen.items() if one.tasks.get(uuid) == "active"), "")
    if runs_on or (row is not None and row.state == STARTED):
        where = runs_on or (row.worker if row is not None else "")
        return Finding(
            uuid, Grade.NOT, f"It had begun on {where}: a revoke does not stop it. {_instead(where)}"
        )
    told = row is not None and row.state == REVOKED
    if row is not None and row.state in _REPORTED and not told:
        return Finding(uuid, Grade.NOT, f"It ended with {row.state}.", settled=True)
    if taken := next((name for name in eager if seen[name].tasks.get(uuid) == "reserved"), ""):
        return _taken(uuid, taken, eager[taken])
    holders = [name for name in asked if name in seen and uuid in seen[name].revoked]
    text = (
        f"{_of(len(holders), len(asked))} will skip it; it takes effect when a worker reaches it. "
        "A worker without --statedb forgets it at a restart."
    )
    if told:
        # Workers write that as soon as they are told.
        text = f"Its result says {REVOKED}; no worker was seen to skip it yet. {text}"
    if len(holders) == len(asked):
        spoke = {reply.worker for reply in order.replies}
        late = [name for name in asked if name not in spoke]
        if late:
            heard = f"{', '.join(late[:5])} heard of it late, and may have begun it before."
            return Finding(uuid, Grade.HALF, f"{text} {heard}")
        return Finding(uuid, Grade.SEEN, text)
    if holders:
        quiet = ", ".join(name for name in asked if name not in holders)
        return Finding(uuid, Grade.HALF, f"{text} Not noted by: {quiet}.")
    if any(name in seen for name in asked):
        return Finding(uuid, Grade.NOT, "No worker that answered has noted it.")
    return Finding(uuid, Grade.UNKNOWN, "No worker answered when Umbel looked.")


def _by_result(row: Task) -> bool:
    """Revoked by the result backend alone: workers write that as soon as they are told, and skip later."""
    return row.state == REVOKED and row.known != SEEN


def _taken(uuid: str, worker: str, kind: str) -> Finding:
    """Of a task that it was too late to revoke, or may have been, although it has not begun."""
    if kind not in TAKES_AT_ONCE:
        return Finding(uuid, Grade.HALF, f"{worker} has noted it, and reserved it before. {GROWN}")
    text = (
        f"{worker} had given it to its pool already: it runs as soon as a slot is free, revoked or not; "
        f"a {kind} pool is not asked again."
    )
    way = ONCE_IT_RUNS
    if kind == "threads":
        way = f"Shut {worker} down before that, and it goes back to its queue, to be discarded there."
    return Finding(uuid, Grade.NOT, f"{text} {way}", settled=True)


def _instead(worker: str) -> str:
    """What stops a task that runs there, if anything does."""
    why = cannot(worker, TERMINATE)
    return f"Nor can it be terminated. {why}" if why else "Terminate it."


def _of(some: int, all_: int) -> str:
    if all_ == 1:
        return "The worker" if some else "No worker"
    if some == all_:
        return "Both workers" if all_ == 2 else f"All {all_} workers"
    return f"{some} of {all_} workers"
