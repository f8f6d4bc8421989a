"""What a restart would make a worker forget: noted when a command took effect, and when it was forgotten.

Limits, sizes, queues and events that are set by command live in the worker's memory alone. Each is one
``Drift`` until it is set back to what the worker starts with; after a restart it is ``forgotten_at`` a
moment, until it is set again or dismissed. ``Start`` keeps how a worker was when Umbel first asked it, so
that what others set is seen as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import Q

from monitor import registered
from monitor.control import commands as names
from monitor.models import ControlRecord, Drift, Start, Worker

SIZE, AUTOSCALE, RATE, TIMES, QUEUE, EVENTS = "size", "autoscale", "rate", "times", "queue", "events"
KINDS: Mapping[str, str] = {
    names.GROW: SIZE,
    names.SHRINK: SIZE,
    names.AUTOSCALE: AUTOSCALE,
    names.RATE_LIMIT: RATE,
    names.TIME_LIMIT: TIMES,
    names.ADD_CONSUMER: QUEUE,
    names.CANCEL_CONSUMER: QUEUE,
    names.ENABLE_EVENTS: EVENTS,
    names.DISABLE_EVENTS: EVENTS,
}
OPPOSITE: Mapping[str, str] = {
    names.ADD_CONSUMER: names.CANCEL_CONSUMER,
    names.CANCEL_CONSUMER: names.ADD_CONSUMER,
    names.ENABLE_EVENTS: names.DISABLE_EVENTS,
    names.DISABLE_EVENTS: names.ENABLE_EVENTS,
}
BOOT_SLACK = 15.0  # seconds by which two readings of when one process began may differ
KEPT = 7 * 86_400.0  # seconds that something forgotten is offered again
MOST_LIMITS = 1_000  # task names with limits that are remembered of a start


def note(record: ControlRecord) -> None:
    """Write down what a completed command left on its workers; what had no effect leaves nothing."""
    kind = KINDS.get(record.command)
    if kind is None or record.sent_at is None:
        return
    for worker in record.targets:
        if took(record, worker):
            _note(record, str(worker), kind)


def took(record: ControlRecord, worker: str) -> bool:
    """Whether a command did what it was for on this worker, as far as was seen or, unseen, answered."""
    if record.effect in (ControlRecord.Effect.NONE, ControlRecord.Effect.REFUSED):
        return False
    sights = [one.get("seen") for one in record.seen if one.get("target") == worker]
    if sights and sights[0] is not None:
        return bool(sights[0])
    if record.effect == ControlRecord.Effect.PARTLY and record.command in (names.GROW, names.SHRINK):
        return True
    said = [one.get("outcome") for one in record.replies if one.get("worker") == worker]
    return "ok" in said


def follow(now: float) -> set[str]:
    """Notice restarts, mark what they made workers forget, and read how each worker started.

    Answers the workers of which something changed.
    """
    online = Worker.objects.filter(status="online", is_beat=False, duplicate=False)
    rows = list(online.values("hostname", "pid", "booted_at", "online_at", "inspected_at"))
    starts = Start.objects.filter(worker__in=[row["hostname"] for row in rows]).defer("was")
    known = {start.worker: start for start in starts}
    changed: set[str] = set()
    for row in rows:
        name = row["hostname"]
        start = known.get(name)
        if start is None:
            start = Start(worker=name, pid=row["pid"], booted_at=row["booted_at"], online_at=row["online_at"])
            start.save()
        elif _restarted(start, row):
            _begin(start, row, now)
            changed.add(name)
        elif start.pid is None or start.booted_at is None:
            _complete(start, row)
        if start.asked_at is None and _asked_since(start, row["inspected_at"]):
            _remember(start)
            changed.add(name)
    for worker, at in Drift.objects.filter(forgotten_at=None).values_list("worker", "at"):
        # A command that was noted after the restart which made it moot.
        began = known[worker].began_at if worker in known else None
        if began is not None and at < began and _forget(worker, began):
            changed.add(worker)
    return changed


def prune(now: float) -> None:
    """What is offered no more, and what is known of workers that are not."""
    Drift.objects.filter(forgotten_at__lt=now - KEPT).delete()
    gone = {"worker__in": Worker.objects.values("hostname")}
    Drift.objects.exclude(**gone).delete()
    Start.objects.exclude(**gone).delete()


def dismiss(worker: str) -> int:
    """No longer offer what this worker has forgotten; how many things."""
    return Drift.objects.filter(worker=worker, forgotten_at__isnull=False).delete()[0]


@dataclass(frozen=True, slots=True)
class Foreign:
    """Something that is not as it was, and that Umbel did not set; ``now`` and ``was`` in words."""

    kind: str
    key: str
    now: str
    was: str


def foreign(worker: Worker, start: Start | None, drifts: list[Drift]) -> list[Foreign]:
    """What somebody else changed since Umbel first asked this start, as far as the worker tells it."""
    if start is None or start.asked_at is None:
        return []
    mine = {(one.kind, one.key): one for one in drifts if one.forgotten_at is None}
    was, now = start.was, state_of(worker)
    found = [*_foreign_size(worker, mine, was, now)]
    for queue in sorted(set(now["queues"]) - set(was["queues"])):
        if (QUEUE, queue) not in mine:
            found.append(Foreign(QUEUE, queue, "consumed", "not consumed"))
    for queue in sorted(set(was["queues"]) - set(now["queues"])):
        if (QUEUE, queue) not in mine:
            found.append(Foreign(QUEUE, queue, "not consumed", "consumed"))
    tasks = {*was["limits"], *now["limits"], *(key for kind, key in mine if kind in (RATE, TIMES))}
    for task in sorted(tasks):
        found += _foreign_limits(task, mine, was["limits"].get(task, {}), now["limits"].get(task, {}))
    return found


def state_of(worker: Worker) -> dict[str, Any]:
    """What commands can change on a worker, as it told it last."""
    details = worker.details if isinstance(worker.details, dict) else {}
    scale = [worker.autoscale_max, worker.autoscale_min] if worker.autoscale_max is not None else None
    limits: dict[str, dict[str, str]] = {}
    listed = details.get("registered")
    for line in listed if isinstance(listed, list) else ():
        if isinstance(line, str) and " [" in line and (parsed := registered.parsed(line)):
            task, attributes = parsed
            held = {key: shown(attributes.get(name)) for key, name in _LIMITS.items()}
            if any(held.values()) and len(limits) < MOST_LIMITS:
                limits[task] = held
    queues = [str(name) for name in worker.queues] if isinstance(worker.queues, list) else []
    return {"size": worker.size, "autoscale": scale, "queues": queues, "limits": limits}


def shown(value: object) -> str:
    """A limit as Umbel writes it, by whichever way it was told; "" for none."""
    text = "" if value is None else str(value).strip().removesuffix(".0")
    return "" if text in ("", "0", "None", "none", "False") else text


_LIMITS = {"rate": "rate_limit", "soft": "soft_time_limit", "hard": "time_limit"}


def _note(record: ControlRecord, worker: str, kind: str) -> None:
    key, value = _key(kind, record), _value(kind, record)
    before = Drift.objects.filter(worker=worker, kind=kind, key=key).first()
    if before is not None and before.at > (record.sent_at or 0.0):
        return  # a later command was looked at sooner
    live = before is not None and before.forgotten_at is None
    if live and before is not None and OPPOSITE.get(record.command) == before.command:
        before.delete()
        return
    configured = before.configured if live and before is not None else _configured(kind, record, worker)
    if configured and configured == words(kind, value):
        Drift.objects.filter(worker=worker, kind=kind, key=key).delete()
        return
    Drift.objects.update_or_create(
        worker=worker,
        kind=kind,
        key=key,
        defaults={
            "value": value,
            "command": record.command,
            "configured": configured[:255],
            "at": record.sent_at or record.at,
            "username": record.username,
            "record_id": record.pk,
            "forgotten_at": None,
        },
    )


def _key(kind: str, record: ControlRecord) -> str:
    if kind in (RATE, TIMES):
        return str(record.arguments.get("task", ""))
    return str(record.arguments.get("queue", "")) if kind == QUEUE else ""


def _value(kind: str, record: ControlRecord) -> dict[str, Any]:
    given = record.arguments
    if kind == SIZE:
        return {"to": given.get("to")}
    if kind == AUTOSCALE:
        return {"max": given.get("max"), "min": given.get("min")}
    if kind == RATE:
        return {"task": given.get("task"), "rate": given.get("rate")}
    if kind == TIMES:
        times = {key: "" if given.get(key) == "none" else given.get(key) for key in ("soft", "hard")}
        return {"task": given.get("task"), **times}
    if kind == QUEUE:
        return {"queue": given.get("queue"), **({"last": True} if given.get("last") else {})}
    return {}


def words(kind: str, value: Mapping[str, Any]) -> str:
    """A value as it is compared with what is configured, and shown."""
    if kind == SIZE:
        return str(value.get("to"))
    if kind == AUTOSCALE:
        return f"{value.get('min')} to {value.get('max')}"
    if kind == RATE:
        return shown(value.get("rate")) or "none"
    if kind == TIMES:
        return ", ".join(f"{key} {shown(value.get(key)) or 'none'}" for key in ("soft", "hard"))
    return ""


def _configured(kind: str, record: ControlRecord, worker: str) -> str:
    """What the worker's next start brings, as far as it is known."""
    if kind in (RATE, TIMES):
        return str(record.arguments.get("before", ""))
    if kind not in (SIZE, AUTOSCALE):
        return ""
    row = Worker.objects.filter(hostname=worker).first()
    start = Start.objects.filter(worker=worker).first()
    was = start.was if start is not None else {}
    if kind == AUTOSCALE:
        scale = was.get("autoscale")
        return f"{scale[1]} to {scale[0]}" if scale else ""
    told = started_with(row) if row is not None else None
    # Green pools tell the size that they have now, not that which they were started with.
    if told is None or (row is not None and row.pool != "prefork"):
        told = was.get("size") or record.arguments.get("before")
    return "" if told is None else str(told)


def started_with(worker: Worker) -> int | None:
    """The concurrency a prefork worker was started with: Celery never changes this number."""
    details = worker.details if isinstance(worker.details, dict) else {}
    stats = details.get("stats")
    pool = stats.get("pool") if isinstance(stats, dict) else None
    size = pool.get("max-concurrency") if isinstance(pool, dict) else None
    return size if isinstance(size, int) and not isinstance(size, bool) else None


def _restarted(start: Start, row: Mapping[str, Any]) -> bool:
    if start.pid is not None and row["pid"] is not None and start.pid != row["pid"]:
        return True
    # The same pid in a new container.
    if start.booted_at is None or row["booted_at"] is None:
        return False
    return bool(row["booted_at"] > start.booted_at + BOOT_SLACK)


def _begin(start: Start, row: Mapping[str, Any], now: float) -> None:
    """Another process: what was set on the one before is gone."""
    if start.pid == row["pid"]:
        began = row["booted_at"]
    else:
        back = row["online_at"]
        began = back if back is not None and back != start.online_at else now
    # When the new process began is told by its first answer, which may be on its way.
    booted = row["booted_at"] if start.pid == row["pid"] else None
    start.pid, start.online_at, start.booted_at = row["pid"], row["online_at"], booted
    start.began_at, start.asked_at, start.was = began, None, {}
    start.save()
    _forget(start.worker, began)


def _complete(start: Start, row: Mapping[str, Any]) -> None:
    start.pid = start.pid or row["pid"]
    if start.booted_at is None and _asked_since(start, row["inspected_at"]):
        start.booted_at = row["booted_at"]
    start.save(update_fields=["pid", "booted_at"])


def _asked_since(start: Start, inspected_at: float | None) -> bool:
    # A moment more: an answer of the process before may have been on its way.
    return inspected_at is not None and (start.began_at is None or inspected_at > start.began_at + 0.5)


def _remember(start: Start) -> None:
    """How it is now, the first time that all of it is told; what has come back by itself is not missed."""
    row = Worker.objects.filter(hostname=start.worker).first()
    details = row.details if row is not None and isinstance(row.details, dict) else {}
    if row is None or not isinstance(details.get("registered"), list) or row.size is None:
        return
    start.asked_at, start.was = row.inspected_at, state_of(row)
    start.booted_at = row.booted_at
    start.save()
    back = [
        one.pk
        for one in Drift.objects.filter(worker=start.worker, forgotten_at__isnull=False)
        if holds(one, start.was)
    ]
    Drift.objects.filter(pk__in=back).delete()


def holds(drift: Drift, state: Mapping[str, Any]) -> bool:
    """Whether a worker in this state has what was set."""
    if drift.kind == SIZE:
        return bool(state["size"] == drift.value.get("to"))
    if drift.kind == AUTOSCALE:
        return bool(state["autoscale"] == [drift.value.get("max"), drift.value.get("min")])
    if drift.kind == QUEUE:
        return (drift.key in state["queues"]) is (drift.command == names.ADD_CONSUMER)
    if drift.kind in (RATE, TIMES):
        held = state["limits"].get(drift.key, {})
        keys = ("rate",) if drift.kind == RATE else ("soft", "hard")
        return all(held.get(key, "") == shown(drift.value.get(key)) for key in keys)
    return False


def _forget(worker: str, at: float) -> int:
    lost = Drift.objects.filter(Q(worker=worker) & Q(forgotten_at=None) & Q(at__lt=at))
    return lost.update(forgotten_at=at)


def _foreign_size(
    worker: Worker, mine: Mapping[tuple[str, str], Drift], was: Mapping[str, Any], now: Mapping[str, Any]
) -> list[Foreign]:
    if now["autoscale"] is not None or was["autoscale"] is not None:
        own = mine.get((AUTOSCALE, ""))
        wanted = [own.value.get("max"), own.value.get("min")] if own else was["autoscale"]
        if now["autoscale"] == wanted:
            return []
        return [Foreign(AUTOSCALE, "", _scale(now["autoscale"]), _scale(wanted))]
    own = mine.get((SIZE, ""))
    begun = started_with(worker) if worker.pool == "prefork" else None
    wanted = own.value.get("to") if own else begun if begun is not None else was["size"]
    if now["size"] in (None, wanted) or wanted is None:
        return []
    return [Foreign(SIZE, "", str(now["size"]), str(wanted))]


def _foreign_limits(
    task: str, mine: Mapping[tuple[str, str], Drift], was: Mapping[str, str], now: Mapping[str, str]
) -> list[Foreign]:
    found = []
    for kind, keys in ((RATE, ("rate",)), (TIMES, ("soft", "hard"))):
        own = mine.get((kind, task))
        wanted = {key: shown(own.value.get(key)) if own else was.get(key, "") for key in keys}
        if any(now.get(key, "") != wanted[key] for key in keys):
            found.append(Foreign(kind, task, words(kind, now), words(kind, wanted)))
    return found


def _scale(limits: Any) -> str:
    return f"{limits[1]} to {limits[0]}" if limits else "off"
