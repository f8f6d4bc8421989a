"""What workers say about themselves when asked: one worker at a time, redacted before anyone sees it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from monitor.broker import current
from monitor.control.asking import Reply, look
from monitor.records import Inspection
from monitor.redact import DEFAULT
from monitor.registered import parsed

# Limits of what is kept of one reply.
MOST_TASKS = 2_000
MOST_IDS = 5_000
ARGUMENT_LIMIT = 1_024

_TASK_ATTRIBUTES = [
    "soft_time_limit",
    "time_limit",
    "rate_limit",
    "max_retries",
    "acks_late",
    "ignore_result",
    "send_events",
    "is_aborted",  # a method that only an AbortableTask has
]
_SHORT: dict[str, dict[str, Any]] = {
    "ping": {}, "stats": {}, "active": {}, "reserved": {}, "scheduled": {}, "revoked": {},
    "active_queues": {},
}  # fmt: skip
_FULL: dict[str, dict[str, Any]] = {**_SHORT, "registered": {"taskinfoitems": _TASK_ATTRIBUTES}, "conf": {}}
_TASKS_NOW: dict[str, dict[str, Any]] = {
    "active": {"safe": True}, "reserved": {}, "scheduled": {}, "revoked": {}, "stats": {},
}  # fmt: skip


def inspect_worker(hostname: str, timeout: float = 2.0, full: bool = False) -> Inspection | None:
    """Ask one worker for its statistics and tasks (``full``: and its task names and settings).

    None when it did not answer. A command that it left unanswered is None in the inspection. Raises
    ``Unreachable``.
    """
    asked_at = time.time()
    broker = current()
    answers = {r.command: r for r in look(broker, _FULL if full else _SHORT, [hostname], timeout=timeout)}
    if not answers:
        return None
    if set(answers) == {"ping"}:
        # Beat answers ping and nothing else, twice. A worker that fell busy, or a broker that stood still in
        # between, does that once: taken for beat, the worker would not be asked again.
        again = {r.command: r for r in look(broker, _SHORT, [hostname], timeout=timeout)}
        if again.keys() <= {"ping"}:
            return Inspection(hostname, asked_at, is_beat=bool(again))
        answers = again
    return Inspection(
        hostname=hostname,
        asked_at=asked_at,
        stats=_mapping(answers.get("stats")),
        active=_tasks(answers.get("active")),
        reserved=_tasks(answers.get("reserved")),
        scheduled=_tasks(answers.get("scheduled")),
        revoked=_texts(answers.get("revoked")),
        registered=_texts(answers.get("registered")),
        active_queues=_queues(answers.get("active_queues")),
        conf=_mapping(answers.get("conf")),
    )


def discover(timeout: float = 1.5) -> list[tuple[str, bool]]:
    """Every node that answers a ping, and whether it is beat. Takes the whole timeout: for the start only."""
    broker = current()
    found = sorted({r.worker for r in look(broker, {"ping": {}}, None, timeout=timeout)})
    if not found:
        return []
    known = {r.worker for r in look(broker, {"clock": {}}, found, timeout=min(timeout, 1.0))}
    quiet = [name for name in found if name not in known]
    beats = {r.worker for r in look(broker, {"ping": {}}, quiet, timeout=0.5)} if quiet else set()
    return [(name, name in beats) for name in found]


def answering(hostnames: Sequence[str], timeout: float = 1.0) -> set[str]:
    """Those of them that answer a ping: one question, however many they are. Raises ``Unreachable``."""
    return {r.worker for r in look(current(), {"ping": {}}, hostnames, timeout=timeout)}


# Questions beside those for tasks, by command.
Looks = Mapping[str, dict[str, Any]]
LIMITS: Looks = {"registered": {"taskinfoitems": ["rate_limit", "soft_time_limit", "time_limit"]}}
QUEUES: Looks = {"active_queues": {}}


class Seen(Struct):
    """What one worker holds at one moment; not redacted, so for comparing only."""

    tasks: dict[str, str] = {}  # uuid -> active, reserved or scheduled
    pids: dict[str, Any] = {}  # uuid -> the process that runs it
    revoked: set[str] = set()
    processes: set[int] | None = None
    stats: dict[str, Any] = {}
    limits: dict[str, dict[str, str]] = {}  # task name -> rate_limit, soft_time_limit, time_limit as told
    queues: set[str] | None = None  # consumed


def seen_on(hostnames: Iterable[str], timeout: float = 1.0, more: Looks | None = None) -> dict[str, Seen]:
    """What each worker holds, for those that answered; ``more``: LIMITS or QUEUES. Raises ``Unreachable``."""
    found: dict[str, Seen] = {}
    answered: dict[str, set[str]] = {}
    for reply in look(current(), {**_TASKS_NOW, **(more or {})}, list(hostnames), timeout=timeout):
        one = found.setdefault(reply.worker, Seen())
        if reply.ok:
            answered.setdefault(reply.worker, set()).add(reply.command)
            _note(one, reply)
    return {name: one for name, one in found.items() if answered.get(name, set()) >= _WHERE}


_WHERE = {"active", "reserved", "scheduled"}


def _note(one: Seen, reply: Reply) -> None:
    if reply.command in _WHERE and isinstance(reply.value, list):
        for item in reply.value:
            request = item.get("request", item) if isinstance(item, dict) else {}
            uuid = str(request.get("id"))
            one.tasks[uuid] = reply.command
            if reply.command == "active":
                one.pids[uuid] = request.get("worker_pid")
    elif reply.command == "revoked" and isinstance(reply.value, list):
        one.revoked = {str(uuid) for uuid in reply.value}
    elif reply.command == "stats" and isinstance(reply.value, dict):
        one.stats, one.processes = reply.value, processes(reply.value)
    elif reply.command == "registered" and isinstance(reply.value, list):
        one.limits = limits_in(reply.value)
    elif reply.command == "active_queues" and isinstance(reply.value, list):
        one.queues = _names(reply.value)


def holders_of(uuids: Sequence[str], hostnames: Sequence[str], timeout: float = 1.0) -> dict[str, str]:
    """Which worker holds each of these tasks, as far as one answers. Raises ``Unreachable``."""
    found: dict[str, str] = {}
    for reply in look(current(), {"query_task": {"ids": list(uuids)}}, hostnames, timeout=timeout):
        if reply.ok and isinstance(reply.value, dict):
            found.update({str(uuid): reply.worker for uuid in reply.value})
    return found


def held_by(hostname: str, uuids: Sequence[str], timeout: float = 1.0) -> set[str] | None:
    """Which of these tasks the worker holds; None when it did not answer. Raises ``Unreachable``."""
    for reply in look(current(), {"query_task": {"ids": list(uuids)}}, [hostname], timeout=timeout):
        if reply.ok and isinstance(reply.value, dict):
            return {str(uuid) for uuid in reply.value}
    return None


def inputs_of(
    uuids: Sequence[str], hostnames: Sequence[str], timeout: float = 1.0
) -> dict[str, dict[str, Any]]:
    """What workers say of the tasks that they hold, arguments and all; not redacted: never for a page.

    Raises ``Unreachable``.
    """
    found: dict[str, dict[str, Any]] = {}
    for reply in look(current(), {"query_task": {"ids": list(uuids)}}, hostnames, timeout=timeout):
        for uuid, told in reply.value.items() if reply.ok and isinstance(reply.value, dict) else ():
            if isinstance(told, list) and len(told) == 2 and isinstance(told[1], dict):
                found[str(uuid)] = told[1]
    return found


def stats_of(hostname: str, timeout: float = 2.0) -> dict[str, Any] | None:
    """The worker's own statistics, not redacted: for arithmetic only. None when it did not answer."""
    for reply in look(current(), {"stats": {}}, [hostname], timeout=timeout):
        if reply.ok and isinstance(reply.value, dict):
            return reply.value
    return None


def limits_on(hostname: str, timeout: float = 2.0) -> dict[str, dict[str, str]] | None:
    """Limits by the name of the task; None when the worker did not answer. Raises ``Unreachable``."""
    for reply in look(current(), LIMITS, [hostname], timeout=timeout):
        if reply.ok and isinstance(reply.value, list):
            return limits_in(reply.value)
    return None


def queues_of(hostname: str, timeout: float = 2.0) -> set[str] | None:
    """The queues a worker consumes; None when it did not answer. Raises ``Unreachable``."""
    for reply in look(current(), QUEUES, [hostname], timeout=timeout):
        if reply.ok and isinstance(reply.value, list):
            return _names(reply.value)
    return None


def limits_in(registered: Iterable[Any]) -> dict[str, dict[str, str]]:
    """Attributes by task name, from entries like ``shop.add [rate_limit=10/m time_limit=60.0]``."""
    return dict(found for entry in registered if (found := parsed(entry)))


def pool_size(stats: dict[str, Any] | None) -> int | None:
    """How many pool processes there are. ``max-concurrency`` counts only where there are no processes."""
    pool = (stats or {}).get("pool")
    if not isinstance(pool, dict):
        return None
    found = processes(stats)
    if found is not None:
        return len(found)
    size = pool.get("max-concurrency")
    return size if isinstance(size, int) else None


def processes(stats: Any) -> set[int] | None:
    """The pids of the pool's processes; None when this pool has none to tell."""
    pool = stats.get("pool") if isinstance(stats, dict) else None
    listed = pool.get("processes") if isinstance(pool, dict) else None
    return {pid for pid in listed if isinstance(pid, int)} if isinstance(listed, list) else None


def has_grown(stats: Any) -> bool:
    """Whether there are more pool processes than the worker was started with (``max-concurrency`` stays)."""
    pool = stats.get("pool") if isinstance(stats, dict) else None
    first = pool.get("max-concurrency") if isinstance(pool, dict) else None
    return isinstance(first, int) and len(processes(stats) or ()) > first


def _names(queues: Iterable[Any]) -> set[str]:
    return {str(queue["name"]) for queue in queues if isinstance(queue, dict) and "name" in queue}


def _mapping(reply: Reply | None) -> dict[str, Any] | None:
    if reply is None or not reply.ok or not isinstance(reply.value, dict):
        return None
    clean = DEFAULT.value(reply.value)
    if isinstance(clean, dict) and isinstance(reply.value.get("total"), dict):
        # Counts by task name: "shop.reset_password" is a name here, not a secret's key.
        counts = list(reply.value["total"].items())[:MOST_TASKS]
        clean["total"] = {DEFAULT.text(str(name)): n for name, n in counts if isinstance(n, int)}
    return clean if isinstance(clean, dict) else None


def _texts(reply: Reply | None) -> list[str] | None:
    if reply is None or not reply.ok or not isinstance(reply.value, list):
        return None
    return [DEFAULT.text(str(item)) for item in reply.value[:MOST_IDS]]


def _queues(reply: Reply | None) -> list[dict[str, Any]] | None:
    if reply is None or not reply.ok or not isinstance(reply.value, list):
        return None
    return [item for item in DEFAULT.value(reply.value[:MOST_TASKS]) if isinstance(item, dict)]


def _tasks(reply: Reply | None) -> list[dict[str, Any]] | None:
    if reply is None or not reply.ok or not isinstance(reply.value, list):
        return None
    return [_task(item) for item in reply.value[:MOST_TASKS] if isinstance(item, dict)]


def _task(item: dict[str, Any]) -> dict[str, Any]:
    """One request of active, reserved or scheduled. Its arguments come unabridged: hidden and cut here."""
    if isinstance(item.get("request"), dict):
        return {
            **DEFAULT.value({k: v for k, v in item.items() if k != "request"}),
            "request": _task(item["request"]),
        }
    clean: dict[str, Any] = DEFAULT.value({k: v for k, v in item.items() if k not in ("args", "kwargs")})
    for field in ("args", "kwargs"):
        if field in item:
            value = DEFAULT.value(item[field])
            clean[field] = DEFAULT.text(value if isinstance(value, str) else repr(value))[:ARGUMENT_LIMIT]
    return clean
