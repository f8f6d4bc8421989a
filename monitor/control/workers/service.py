"""The worker itself: its events, whether it answers, and its shutdown."""

from __future__ import annotations

from collections.abc import Mapping

from monitor.control.commands import DISABLE_EVENTS
from monitor.control.inspecting import Seen
from monitor.control.orders import Order
from monitor.control.verifying import Finding, Grade, answered
from monitor.models import Task, Worker
from monitor.records import STARTED

# Seconds after which an event cannot have been on its way when events were turned off.
ON_ITS_WAY = 1.0


def events(order: Order, sent_at: float, seen: Mapping[str, Seen]) -> list[Finding]:
    """Whether task events come, or come no more."""
    one = _silenced if order.command.name == DISABLE_EVENTS else _sending
    return [one(worker, sent_at, seen) for worker in order.destinations]


def answers(order: Order, sent_at: float, seen: Mapping[str, Seen]) -> list[Finding]:
    """Whether each said "pong"."""
    return [
        Finding(worker, Grade.SEEN, "It answered.")
        if answered(order, worker)
        # No later look can tell more: it was asked once.
        else Finding(
            worker, Grade.NOT, "It did not answer: it may be gone, or a solo worker at work.", settled=True
        )
        for worker in order.destinations
    ]


def stopped(order: Order, sent_at: float, seen: Mapping[str, Seen]) -> list[Finding]:
    """Whether each has gone. It says "offline" at once, and ends when its last task has."""
    return [_stopped(worker, sent_at, seen) for worker in order.destinations]


def _stopped(worker: str, sent_at: float, seen: Mapping[str, Seen]) -> Finding:
    row = Worker.objects.filter(hostname=worker).first()
    left = Task.objects.filter(worker=worker, state=STARTED).count()
    still = f"{left} {'task was' if left == 1 else 'tasks were'} still running there by its events"
    said = row is not None and row.offline_at is not None and row.offline_at >= sent_at - ON_ITS_WAY
    if worker in seen:
        return Finding(worker, Grade.NOT, "It still answers.")
    if not said and (row is None or row.status != "offline"):
        return Finding(worker, Grade.HALF, "It answers no more, and has not said that it is offline.")
    if left:
        return Finding(worker, Grade.HALF, f"It is stopping: {still}.")
    return Finding(worker, Grade.SEEN, "It said that it is offline, answers no more, and no task runs there.")


def _sending(worker: str, sent_at: float, seen: Mapping[str, Seen]) -> Finding:
    row = Worker.objects.filter(hostname=worker).first()
    since = Task.objects.filter(worker=worker, seen_at__gt=sent_at).exists()
    if since or (row is not None and row.events_on):
        return Finding(worker, Grade.SEEN, "It sends task events.")
    if worker in seen:
        return Finding(worker, Grade.HALF, "No task event has come yet: it may have had nothing to do.")
    return Finding(worker, Grade.UNKNOWN, "It did not answer, and no task event has come.")


def _silenced(worker: str, sent_at: float, seen: Mapping[str, Seen]) -> Finding:
    row = Worker.objects.filter(hostname=worker).first()
    if Task.objects.filter(worker=worker, seen_at__gt=sent_at + ON_ITS_WAY).exists():
        return Finding(
            worker, Grade.NOT, "Task events still come: it was started with -E, which this cannot undo."
        )
    if row is not None and row.events_on is False:
        return Finding(worker, Grade.SEEN, "It works and sends no task event.")
    if worker in seen:
        return Finding(worker, Grade.HALF, "No task event has come since: it may have had nothing to do.")
    return Finding(worker, Grade.UNKNOWN, "It did not answer, and no task event has come since.")
