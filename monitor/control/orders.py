"""An order: a checked command as messages to workers, with what it left out and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from monitor.control.asking import Question, Reply
from monitor.control.capabilities import capabilities
from monitor.control.commands import REVOKE, SHRINK, Command, Message, Refused
from monitor.models import Worker

# Seconds to wait for the looks that come before a command.
LOOK_TIMEOUT = 2.0


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
    processes: frozenset[int] = frozenset()  # of the pool, before
    replies: list[Reply] = field(default_factory=list)  # once it has been sent
    to: int | None = None  # pool size to reach
    asked: tuple[str, ...] = ()  # who is asked when no worker is
    messages: tuple[Message, ...] = ()  # tasks to send
    create: tuple[str, ...] = ()  # queues that are to be made first

    @property
    def destinations(self) -> list[str]:
        return sorted({*self.asked, *(worker for question in self.questions for worker in question.to or ())})


def to_workers(command: Command, arguments: dict[str, Any] | None = None) -> Order:
    """The same message to each worker named. Raises ``Refused`` when one cannot take it."""
    for name in command.targets:
        able(name, command.name)
    sent = dict(command.arguments) if arguments is None else arguments
    return Order(command, [Question(command.name, sent, command.targets)], dict(command.arguments))


def able(hostname: str, command: str) -> None:
    reason = cannot(hostname, command)
    if reason:
        raise Refused(reason)


def cannot(hostname: str, command: str) -> str:
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


def online_workers() -> list[str]:
    """Every worker that may take a command."""
    rows = Worker.objects.exclude(status="offline").filter(is_beat=False)
    return list(rows.values_list("hostname", flat=True))


def among(asked: Iterable[str], online: list[str]) -> tuple[str, ...]:
    for name in asked:
        if name not in online:
            raise Refused(cannot(name, REVOKE) or f"{name} is not online: it cannot be asked.")
    return tuple(asked)
