"""What can be asked of a worker, by its pool and its settings; and if not, why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from monitor.control import commands as names


@dataclass(frozen=True, slots=True)
class Can:
    """Whether something can be done, and if not, why, in a sentence."""

    allowed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What can be asked of one worker, by the name of the command."""

    by_name: Mapping[str, Can]

    def of(self, command: str) -> Can:
        return self.by_name[command]

    @property
    def terminate(self) -> Can:
        return self.by_name[names.TERMINATE]

    @property
    def grow(self) -> Can:
        return self.by_name[names.GROW]

    @property
    def shrink(self) -> Can:
        return self.by_name[names.SHRINK]

    @property
    def autoscale(self) -> Can:
        return self.by_name[names.AUTOSCALE]


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
# What every worker that is there takes, whatever its pool.
_ANY_POOL = (
    *(
        names.REVOKE,
        names.REVOKE_STAMPED,
        names.RATE_LIMIT,
        names.TIME_LIMIT,
        names.ADD_CONSUMER,
        names.CANCEL_CONSUMER,
    ),
    *(names.ENABLE_EVENTS, names.DISABLE_EVENTS, names.PING, names.SHUTDOWN),
)
_BY_POOL = (names.TERMINATE, names.GROW, names.SHRINK, names.AUTOSCALE, names.RESTART_POOL)
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
    # The details of many workers are not read for what their rows say already.
    text = str(worker.pool or _pool_details(worker).get("implementation") or "").lower()
    return next((kind for kind, mark in _KINDS if mark in text), "")


# A pool by a part of its name or class path; threads says "celery.concurrency.thread:TaskPool".
_KINDS = (
    ("prefork", "prefork"),
    ("threads", "thread"),
    ("solo", "solo"),
    ("gevent", "gevent"),
    ("eventlet", "eventlet"),
)


# A worker looks whether a task is revoked when it gives it to its pool. Prefork does that when a process is
# free, solo when it begins the task; these at once, so that what they have reserved runs all the same.
# (Prefork gives one task too early, too, for each process that it grew by while tasks waited: kombu's
# semaphore counts that growth twice until the pool has been idle.)
TAKES_AT_ONCE = frozenset({"threads", "gevent", "eventlet"})


def capabilities(worker: WorkerLike) -> Capabilities:
    """What can be asked of this worker: by its pool, its autoscaler, and whether it is there at all."""
    name = worker.hostname
    if worker.is_beat:
        nothing = _all(Can(False, f"{name} is celery beat: it answers ping and takes no commands."))
        return Capabilities({**nothing, names.PING: _YES})
    if worker.status == "offline":
        why = f" ({worker.reason})" if worker.reason else ""
        return Capabilities(_all(Can(False, f"{name} is offline{why}: it cannot be asked.")))
    kind = pool_kind(worker)
    stats = worker.details.get("stats") if isinstance(worker.details, dict) else None
    scaled = worker.autoscale_max is not None or bool(isinstance(stats, dict) and stats.get("autoscaler"))
    found = dict.fromkeys(_ANY_POOL, _YES)
    if not kind:
        unknown = Can(False, f"The pool of {name} is not known yet: it has not answered inspect.")
        return Capabilities(found | dict.fromkeys(_BY_POOL, unknown))
    if kind in _RESIZES and scaled:
        resize = Can(False, f"{name} scales itself: set its autoscale limits instead.")
    else:
        resize = _YES if kind in _RESIZES else Can(False, _CANNOT_RESIZE[kind])
    return Capabilities(
        found
        | {
            names.TERMINATE: _YES if kind in _TERMINATES else Can(False, _CANNOT_TERMINATE[kind]),
            names.GROW: resize,
            names.SHRINK: _shrink(worker, resize),
            names.AUTOSCALE: _YES if scaled else Can(False, f"{name} was started without --autoscale."),
            names.RESTART_POOL: _restart(worker, kind),
        }
    )


def _shrink(worker: WorkerLike, resize: Can) -> Can:
    if resize.allowed and worker.size is not None and worker.size <= 1:
        left = "no pool process" if worker.size < 1 else "one pool process"
        return Can(False, f"{worker.hostname} has {left} left; without one it would take tasks and run none.")
    return resize


def _restart(worker: WorkerLike, kind: str) -> Can:
    if kind != "prefork":
        why = f"A {kind} pool has no processes of its own: Celery would say yes and restart nothing."
        return Can(False, f"{why} Restart {worker.hostname} itself.")
    details = worker.details if isinstance(worker.details, dict) else {}
    conf = details.get("conf")
    if not isinstance(conf, dict):
        return Can(
            False, f"Whether {worker.hostname} may restart its pool is not known yet: ask it again soon."
        )
    if conf.get("worker_pool_restarts"):
        return _YES
    return Can(False, f"{worker.hostname} was started without worker_pool_restarts = True.")


def _all(can: Can) -> dict[str, Can]:
    return dict.fromkeys((*_ANY_POOL, *_BY_POOL), can)


def _pool_details(worker: WorkerLike) -> dict[str, Any]:
    details = worker.details if isinstance(worker.details, dict) else {}
    stats = details.get("stats")
    pool = stats.get("pool") if isinstance(stats, dict) else None
    return pool if isinstance(pool, dict) else {}
