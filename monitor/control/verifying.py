"""Whether a command did what it was for: by looking, never by what the reply said.

A shrink may answer an error and still shrink; a revoke may answer ok and stop nothing. A ``Verdict`` says
what Umbel saw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from monitor.control.commands import AUTOSCALE, ENABLE_EVENTS, GROW, REVOKE, SHRINK, TERMINATE
from monitor.control.inspecting import Seen, pool_size
from monitor.control.orders import Order
from monitor.models import ControlRecord, Task, Worker
from monitor.records import ENDED, LOST, REVOKED, STARTED

Effect = ControlRecord.Effect
# Ends that a worker reports itself, not what Umbel infers.
_REPORTED = ENDED - {LOST}


class Grade(IntEnum):
    """How well the effect on one target is proved."""

    UNKNOWN = -1  # could not look
    NOT = 0
    HALF = 1
    SEEN = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one target."""

    target: str
    grade: Grade
    text: str

    def as_dict(self) -> dict[str, Any]:
        seen = {Grade.SEEN: True, Grade.NOT: False}.get(self.grade)
        return {"target": self.target, "seen": seen, "text": self.text}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The findings of one look; ``final`` when no later look can be better."""

    findings: list[Finding]

    @property
    def final(self) -> bool:
        return all(one.grade is Grade.SEEN for one in self.findings)

    @property
    def effect(self) -> str:
        grades = [one.grade for one in self.findings]
        if grades and min(grades) is Grade.SEEN:
            return Effect.VERIFIED
        if any(grade >= Grade.HALF for grade in grades):
            return Effect.PARTLY
        return Effect.UNVERIFIED if Grade.UNKNOWN in grades or not grades else Effect.NONE


def judge(order: Order, sent_at: float, seen: Mapping[str, Seen]) -> Verdict:
    """One look: what the workers hold now (``seen``, those that answered) and what events have said since."""
    name = order.command.name
    if name == ENABLE_EVENTS:
        return Verdict([_events(worker, sent_at, seen) for worker in order.destinations])
    if name in (GROW, SHRINK, AUTOSCALE):
        (worker,) = order.destinations
        return Verdict([_limits(order, worker, seen) if name == AUTOSCALE else _size(order, worker, seen)])
    targets = [uuid for uuid in order.command.targets if uuid not in order.skipped]
    rows = {task.uuid: task for task in Task.objects.filter(uuid__in=targets)}
    one: Callable[[Order, str, Task | None, float, Mapping[str, Seen]], Finding]
    one = {REVOKE: _revoked, TERMINATE: _terminated}[name]
    return Verdict([one(order, uuid, rows.get(uuid), sent_at, seen) for uuid in targets])


def _terminated(
    order: Order, uuid: str, row: Task | None, sent_at: float, seen: Mapping[str, Seen]
) -> Finding:
    worker = order.where[uuid]
    signal = order.arguments["signal"]
    here = seen.get(worker)
    ended = row is not None and row.state in _REPORTED
    state = row.state if row is not None else ""
    if here is None:
        if ended:
            return Finding(
                uuid, Grade.HALF, f"The event says {state}; {worker} did not answer when Umbel looked."
            )
        return Finding(uuid, Grade.UNKNOWN, f"{worker} did not answer, and no end was seen.")
    again = next((name for name, one in seen.items() if name != worker and uuid in one.tasks), "")
    if again:
        return Finding(
            uuid, Grade.NOT, f"It was delivered again and is {seen[again].tasks[uuid]} on {again}."
        )
    if uuid in here.tasks:
        return Finding(uuid, Grade.NOT, f"Still {here.tasks[uuid]} on {worker}.")
    pid = order.pids.get(uuid)
    if signal == "SIGUSR1":
        return _asked_to_end(uuid, worker, row, sent_at)
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
    return Finding(uuid, Grade.SEEN, f"Gone from {worker}, and its end was seen: {state}.")


def _asked_to_end(uuid: str, worker: str, row: Task | None, sent_at: float) -> Finding:
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


def _revoked(order: Order, uuid: str, row: Task | None, sent_at: float, seen: Mapping[str, Seen]) -> Finding:
    asked = order.destinations
    if row is not None and row.state == REVOKED:
        return Finding(uuid, Grade.SEEN, f"A worker reached it and skipped it: {REVOKED}.")
    runs_on = next((name for name, one in seen.items() if one.tasks.get(uuid) == "active"), "")
    if runs_on or (row is not None and row.state == STARTED):
        where = runs_on or (row.worker if row is not None else "")
        return Finding(uuid, Grade.NOT, f"It had begun on {where}: a revoke does not stop it. Terminate it.")
    if row is not None and row.state in _REPORTED:
        return Finding(uuid, Grade.NOT, f"It ended with {row.state}.")
    holders = [name for name in asked if name in seen and uuid in seen[name].revoked]
    text = (
        f"{_of(len(holders), len(asked))} will skip it; it takes effect when a worker reaches it. "
        "A worker without --statedb forgets it at a restart."
    )
    if len(holders) == len(asked):
        return Finding(uuid, Grade.SEEN, text)
    if holders:
        quiet = ", ".join(name for name in asked if name not in holders)
        return Finding(uuid, Grade.HALF, f"{text} Not noted by: {quiet}.")
    if any(name in seen for name in asked):
        return Finding(uuid, Grade.NOT, "No worker that answered has noted it.")
    return Finding(uuid, Grade.UNKNOWN, "No worker answered when Umbel looked.")


def _size(order: Order, worker: str, seen: Mapping[str, Seen]) -> Finding:
    size = pool_size(seen[worker].stats) if worker in seen else None
    if size is None:
        return Finding(worker, Grade.UNKNOWN, "It did not answer when Umbel counted its pool processes.")
    text = f"{order.before} → {size} pool processes"
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


def _events(worker: str, sent_at: float, seen: Mapping[str, Seen]) -> Finding:
    row = Worker.objects.filter(hostname=worker).first()
    since = Task.objects.filter(worker=worker, seen_at__gt=sent_at).exists()
    if since or (row is not None and row.events_on):
        return Finding(worker, Grade.SEEN, "It sends task events.")
    if worker in seen:
        return Finding(worker, Grade.HALF, "No task event has come yet: it may have had nothing to do.")
    return Finding(worker, Grade.UNKNOWN, "It did not answer, and no task event has come.")


def _of(some: int, all_: int) -> str:
    if all_ == 1:
        return "The worker" if some else "No worker"
    if some == all_:
        return "Both workers" if all_ == 2 else f"All {all_} workers"
    return f"{some} of {all_} workers"
