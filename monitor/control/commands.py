"""Control commands as values: who asks for what, what a pool can do, and why a command is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Protocol

SIGNALS = ("SIGTERM", "SIGKILL", "SIGUSR1", "SIGINT", "SIGQUIT")
REVOKE, TERMINATE = "revoke", "terminate"
GROW, SHRINK, AUTOSCALE = "pool_grow", "pool_shrink", "autoscale"
ENABLE_EVENTS = "enable_events"
TASK_COMMANDS = (REVOKE, TERMINATE)
POOL_COMMANDS = (GROW, SHRINK, AUTOSCALE)
COMMANDS = (*TASK_COMMANDS, *POOL_COMMANDS, ENABLE_EVENTS)

# Roles that may control; ``dashboard.access`` says who has them.
MAY_CONTROL = ("operator", "admin")
# Ids in one message: 5,000 block a worker for 2.5 s, and it remembers 50,000 in all.
MOST_IDS = 500
MOST_PROCESSES = 500
UUID = re.compile(r"[\w.:@+-]{1,155}")


class Refused(Exception):
    """A command that was not sent. Its text is a sentence with the value in it and a way out."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks."""

    user_id: int | None
    username: str
    role: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """What is asked.

    ``targets`` are task uuids (revoke, terminate) or worker hostnames (the others). ``arguments``: terminate
    ``{"signal": "SIGTERM"}``; pool_grow and pool_shrink ``{"n": 2}``, or ``{"to": 6}`` for the size to reach
    from whatever it is when it is sent; autoscale ``{"max": 8, "min": 2}``.
    ``destinations`` may be left empty: Umbel knows whom to ask.
    """

    name: str
    targets: tuple[str, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    destinations: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Can:
    """Whether something can be done, and if not, why, in a sentence."""

    allowed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What can be asked of one worker."""

    terminate: Can
    grow: Can
    shrink: Can
    autoscale: Can
    revoke: Can
    enable_events: Can

    def of(self, command: str) -> Can:
        """By the name of the command."""
        return {
            REVOKE: self.revoke,
            TERMINATE: self.terminate,
            GROW: self.grow,
            SHRINK: self.shrink,
            AUTOSCALE: self.autoscale,
            ENABLE_EVENTS: self.enable_events,
        }[command]


class WorkerLike(Protocol):
    """``records.WorkerRecord`` and ``models.Worker`` both are."""

    hostname: Any
    status: Any
    reason: Any
    pool: Any
    size: Any
    autoscale_max: Any
    is_beat: Any
    details: Any


_YES = Can(True)
# Pools whose tasks can be stopped from outside, and pools that change their size.
_TERMINATES = frozenset({"prefork", "gevent", "eventlet"})
_RESIZES = frozenset({"prefork", "gevent", "eventlet"})
_CANNOT_TERMINATE = {
    "threads": "A threads pool cannot stop a running task: Python threads cannot be ended from outside.",
    "solo": "A solo pool runs the task in the worker itself: it hears no command until the task ends.",
}
_CANNOT_RESIZE = {
    "threads": "A threads pool keeps its size; restart the worker with another --concurrency.",
    "solo": "A solo pool is always one; start the worker with --pool=prefork to have more.",
}


def pool_kind(worker: WorkerLike) -> str:
    """prefork, threads, solo, gevent or eventlet; '' when it is not known."""
    told = _pool_details(worker).get("implementation")
    text = str(worker.pool or told or "").lower()
    return next((kind for kind, mark in _KINDS if mark in text), "")


# A pool by a part of its name or class path; threads says "celery.concurrency.thread:TaskPool".
_KINDS = (
    ("prefork", "prefork"),
    ("threads", "thread"),
    ("solo", "solo"),
    ("gevent", "gevent"),
    ("eventlet", "eventlet"),
)


def capabilities(worker: WorkerLike) -> Capabilities:
    """What can be asked of this worker: by its pool, its autoscaler, and whether it is there at all."""
    name = worker.hostname
    if worker.is_beat:
        return _none(f"{name} is celery beat: it answers ping and takes no commands.")
    if worker.status == "offline":
        why = f" ({worker.reason})" if worker.reason else ""
        return _none(f"{name} is offline{why}: it cannot be asked.")
    kind = pool_kind(worker)
    stats = worker.details.get("stats") if isinstance(worker.details, dict) else None
    scaled = worker.autoscale_max is not None or bool(isinstance(stats, dict) and stats.get("autoscaler"))
    if not kind:
        unknown = Can(False, f"The pool of {name} is not known yet: it has not answered inspect.")
        return Capabilities(unknown, unknown, unknown, unknown, _YES, _YES)
    if kind in _RESIZES and scaled:
        resize = Can(False, f"{name} scales itself: set its autoscale limits instead.")
    else:
        resize = _YES if kind in _RESIZES else Can(False, _CANNOT_RESIZE[kind])
    return Capabilities(
        terminate=_YES if kind in _TERMINATES else Can(False, _CANNOT_TERMINATE[kind]),
        grow=resize,
        shrink=_shrink(worker, resize),
        autoscale=_YES if scaled else Can(False, f"{name} was started without --autoscale."),
        revoke=_YES,
        enable_events=_YES,
    )


def checked(command: Command, actor: Actor) -> Command:
    """The command with its arguments checked as far as no worker need be known; raises ``Refused``."""
    if actor.role not in MAY_CONTROL:
        raise Refused(f"{actor.username or 'You'} cannot control workers: that needs the operator role.")
    if command.name not in COMMANDS:
        raise Refused(f"{command.name!r} is not a command Umbel sends; it sends {', '.join(COMMANDS)}.")
    targets = tuple(dict.fromkeys(command.targets))
    if not targets:
        raise Refused("Nothing was selected, so nothing was sent.")
    if len(targets) > MOST_IDS:
        raise Refused(
            f"{len(targets):,} are too many at once: a worker stalls over {MOST_IDS}. Select fewer."
        )
    if command.name in TASK_COMMANDS:
        for uuid in targets:
            if not isinstance(uuid, str) or not UUID.fullmatch(uuid):
                raise Refused(f"{str(uuid)[:60]!r} is not a task id.")
    elif len(targets) > 1 and command.name != ENABLE_EVENTS:
        raise Refused(f"{command.name} is for one worker at a time; {len(targets)} were named.")
    return Command(
        command.name, targets, _arguments(command), tuple(command.destinations), command.reason[:500]
    )


def _arguments(command: Command) -> dict[str, Any]:
    given = command.arguments
    if command.name == TERMINATE:
        signal = given.get("signal", "SIGTERM")
        if signal not in SIGNALS:
            raise Refused(
                f"{str(signal)[:40]!r} is not a signal Umbel sends; choose one of {', '.join(SIGNALS)}."
            )
        return {"signal": signal}
    if command.name in (GROW, SHRINK):
        if "to" in given:
            return {"to": _number(given["to"], "The pool size", 1)}
        return {"n": _number(given.get("n", 1), "n", 1)}
    if command.name == AUTOSCALE:
        most, least = _number(given.get("max"), "max", 1), _number(given.get("min"), "min", 1)
        if least > most:
            raise Refused(f"The least ({least}) cannot be over the most ({most}).")
        return {"max": most, "min": least}
    return {}


def _number(value: Any, name: str, least: int) -> int:
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise Refused(f"{name} must be a whole number; {text[:40]!r} is not.")
    if not least <= int(text) <= MOST_PROCESSES:
        raise Refused(f"{name} must be from {least} to {MOST_PROCESSES}; {int(text)} is not.")
    return int(text)


def _shrink(worker: WorkerLike, resize: Can) -> Can:
    if resize.allowed and worker.size is not None and worker.size <= 1:
        left = "no pool process" if worker.size < 1 else "one pool process"
        return Can(False, f"{worker.hostname} has {left} left; without one it would take tasks and run none.")
    return resize


def _none(reason: str) -> Capabilities:
    no = Can(False, reason)
    return Capabilities(no, no, no, no, no, no)


def _pool_details(worker: WorkerLike) -> dict[str, Any]:
    details = worker.details if isinstance(worker.details, dict) else {}
    stats = details.get("stats")
    pool = stats.get("pool") if isinstance(stats, dict) else None
    return pool if isinstance(pool, dict) else {}
