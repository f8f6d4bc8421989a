"""What a restart would make a worker forget, what one did, and the line of configuration that keeps it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from dashboard.queries.workers import WorkerView
from dashboard.templatetags.words import clock, duration_text, plain
from monitor import models
from monitor.control.commands import ADD_CONSUMER, CANCEL_CONSUMER, ENABLE_EVENTS, GROW, SHRINK, Command
from monitor.control.workers import drifting
from monitor.control.workers.drifting import AUTOSCALE, EVENTS, QUEUE, RATE, SIZE, TIMES
from monitor.models import Drift, Start

MOST_ROWS = 60
LIMITS_SETTLE, REST_SETTLE = 150.0, 15.0  # seconds until a worker has told what a command changed


@dataclass(frozen=True, slots=True)
class Line:
    """One thing: what it is, who set it and when ("" and None: not Umbel), and what would keep it."""

    what: str
    by: str
    at: float | None
    was: str  # with what the worker starts; "" when not known
    keep: str
    record: Any = None
    limits: tuple[str, dict[str, Any]] | None = None  # the task and its annotations, where it is a limit


@dataclass(frozen=True, slots=True)
class DriftView:
    """All of one worker. ``unknown``: sentences on what cannot be told."""

    lines: list[Line]
    forgotten: list[Line]
    forgotten_at: float | None
    offer: str  # what the button of the forgotten says
    unknown: list[str]
    more: int


def drift(view: WorkerView) -> DriftView:
    """As it is known now."""
    found = list(Drift.objects.filter(worker=view.hostname).order_by("at", "pk"))
    start = Start.objects.filter(worker=view.hostname).first()
    mine = [one for one in found if one.forgotten_at is None]
    lost = [one for one in found if one.forgotten_at is not None]
    queues = _wanted_queues(view, mine)
    lines = [_line(one, queues) for one in mine]
    lines += _foreign(view, start, mine, queues)
    lines += _revokes(view)
    forgotten_at = max((one.forgotten_at or 0.0 for one in lost), default=None)
    return DriftView(
        _limits_kept(lines[:MOST_ROWS]),
        _limits_kept([_line(one, _wanted_queues(view, lost)) for one in lost[:MOST_ROWS]]),
        forgotten_at,
        offer(lost),
        _unknown(view, start),
        max(0, len(lines) - MOST_ROWS),
    )


def offer(lost: list[Drift]) -> str:
    """What setting it all again is called."""
    if len(lost) == 1 and lost[0].kind == SIZE:
        verb = "Grow" if lost[0].command == GROW else "Shrink"
        return f"{verb} to {lost[0].value.get('to')} again"
    return "Set it again" if len(lost) == 1 else f"Set all {len(lost)} again"


def commands(view: WorkerView, reason: str) -> list[Command]:
    """What sends again all that this worker has forgotten; sizes go the way that leads there from now."""
    found = []
    for one in Drift.objects.filter(worker=view.hostname, forgotten_at__isnull=False).order_by("at", "pk"):
        name, value = one.command, dict(one.value)
        if one.kind == SIZE and view.size is not None and isinstance(value.get("to"), int):
            if value["to"] == view.size:
                continue
            name = GROW if value["to"] > view.size else SHRINK
        if one.kind == TIMES:
            # None in the row is a limit that Celery did not tell.
            value = {key: "" if given is None else given for key, given in value.items()}
        why = f"Set again after the restart at {clock(one.forgotten_at)} UTC. {reason}".strip()
        found.append(Command(name, (view.hostname,), value, reason=why))
    return found


@dataclass(frozen=True, slots=True)
class Returned:
    """A worker that came back without what was set on it."""

    hostname: str
    pk: int
    at: float
    title: str
    text: str
    offer: str


def returned() -> list[Returned]:
    """Online workers that have forgotten something, for the overview."""
    lost: dict[str, list[Drift]] = {}
    for one in Drift.objects.filter(forgotten_at__isnull=False).order_by("worker", "at", "pk")[:500]:
        lost.setdefault(one.worker, []).append(one)
    rows = models.Worker.objects.filter(hostname__in=list(lost), status="online")
    found = []
    for row in rows.values("hostname", "pk", "size", "inspected_at"):
        rest = lost[row["hostname"]]
        at = max(one.forgotten_at or 0.0 for one in rest)
        if row["inspected_at"] is None or row["inspected_at"] <= at:
            continue  # it has not told yet how it came back
        title, text = came_back(row["hostname"], row["size"], rest)
        found.append(Returned(row["hostname"], row["pk"], at, title, text, offer(rest)))
    return found


def came_back(hostname: str, size: int | None, lost: list[Drift]) -> tuple[str, str]:
    """The title and the sentence."""
    name = plain(hostname)
    wanted = next((one for one in lost if one.kind == SIZE), None)
    rest = [one for one in lost if one is not wanted]
    title = f"{name} forgot {len(lost)} settings at its restart"
    if wanted is not None and size is not None:
        title = f"{name} came back with {size}"
        text = f"{wanted.value.get('to')} was wanted by {plain(wanted.username)} at {clock(wanted.at)} UTC."
        if rest:
            text += f" It forgot {len(rest)} more: {_named(rest)}."
        return title, text
    if len(lost) == 1:
        title = f"{name} forgot {_what(lost[0])} at its restart"
    return title, f"Set by {_people(lost)}: {_named(lost)}."


def _named(lost: Iterable[Drift]) -> str:
    names = [_what(one) for one in lost]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _people(lost: Iterable[Drift]) -> str:
    return " and ".join(list(dict.fromkeys(plain(one.username) for one in lost))[:3])


def _what(one: Drift) -> str:
    value = drifting.words(one.kind, one.value)
    return _words(one.kind, one.key, value, one.command)


def _words(kind: str, key: str, value: str, command: str = "") -> str:
    task = plain(key)
    return {
        SIZE: f"pool size {value}",
        AUTOSCALE: f"autoscale {value}",
        RATE: f"rate limit {value} of {task}",
        TIMES: f"time limits of {task}: {value}",
        QUEUE: f"queue {task} {'added' if command == ADD_CONSUMER else 'stopped'}",
        EVENTS: f"events {'enabled' if command == ENABLE_EVENTS else 'stopped'}",
    }.get(kind, kind)


def _line(one: Drift, queues: list[str]) -> Line:
    what = _what(one)
    keep = _keep(one.kind, one.value, queues, one.command)
    limits = _limits(one.kind, one.key, one.value)
    return Line(what[0].upper() + what[1:], one.username, one.at, one.configured, keep, one.record_id, limits)


def _keep(kind: str, value: Any, queues: list[str], command: str) -> str:
    """The line of configuration, or the option of ``celery worker``; limits have one together."""
    if kind == SIZE:
        return f"worker_concurrency = {value.get('to')}   # or celery worker -c {value.get('to')}"
    if kind == AUTOSCALE:
        return f"celery worker --autoscale={value.get('max')},{value.get('min')}"
    if kind == QUEUE:
        return f"celery worker -Q {','.join(plain(name) for name in queues)}" if queues else ""
    if kind in (RATE, TIMES):
        return ""
    return "celery worker -E" if command == ENABLE_EVENTS else "worker_send_task_events = False   # and no -E"


def _limits(kind: str, task: str, value: Any) -> tuple[str, dict[str, Any]] | None:
    """The task and its annotations; None where it is no limit."""
    if value is None:
        return None
    if kind == RATE:
        return task, {"rate_limit": drifting.shown(value.get("rate")) or None}
    if kind == TIMES:
        soft, hard = (_seconds(drifting.shown(value.get(name))) for name in ("soft", "hard"))
        return task, {"soft_time_limit": soft, "time_limit": hard}
    return None


def _limits_kept(lines: list[Line]) -> list[Line]:
    """One line of configuration for all limits, at the last of them: a second would undo the first."""
    tasks: dict[str, dict[str, Any]] = {}
    last = None
    for number, line in enumerate(lines):
        if line.limits is not None:
            task, limits = line.limits
            # What a person set comes first, before what somebody else changed since.
            known = tasks.setdefault(task, {})
            for name, value in limits.items():
                known.setdefault(name, value)
            last = number
    if last is not None:
        inner = ", ".join(
            f"{json.dumps(plain(task), ensure_ascii=False)}: {_dict(tasks[task])}" for task in tasks
        )
        lines[last] = replace(lines[last], keep=f"task_annotations = {{{inner}}}")
    return lines


def _dict(limits: dict[str, Any]) -> str:
    # As Python writes it: JSON's null is None there.
    return "{" + ", ".join(f"{json.dumps(name)}: {_literal(value)}" for name, value in limits.items()) + "}"


def _literal(value: Any) -> str:
    return "None" if value is None else json.dumps(value)


def _seconds(text: str) -> float | int | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() else number


def _wanted_queues(view: WorkerView, found: list[Drift]) -> list[str]:
    """The queues with which it would have to start."""
    names = set(view.queues)
    for one in found:
        if one.kind == QUEUE:
            (names.discard if one.command == CANCEL_CONSUMER else names.add)(one.key)
    return sorted(names)


def _foreign(view: WorkerView, start: Start | None, mine: list[Drift], queues: list[str]) -> list[Line]:
    """What somebody else changed; of what a command of Umbel has just touched nothing is said yet."""
    asked = view.row.inspected_at or 0.0
    since = min(asked - REST_SETTLE, view.now - LIMITS_SETTLE)
    touched: dict[str, float] = {}
    recent = models.ControlRecord.objects.filter(at__gt=since, command__in=list(drifting.KINDS))
    for record in recent.order_by("at"):
        if view.hostname in record.targets and record.sent_at is not None:
            touched[drifting.KINDS[record.command]] = record.sent_at
    lines = []
    for one in drifting.foreign(view.row, start, mine):
        settle = view.now - LIMITS_SETTLE if one.kind in (RATE, TIMES) else asked - REST_SETTLE
        if touched.get(one.kind, 0.0) > settle:
            continue
        value = _value_of(one)
        command = ADD_CONSUMER if one.now == "consumed" else CANCEL_CONSUMER
        what = _words(one.kind, one.key, one.now, command)
        keep = _keep(one.kind, value, queues, command) if value is not None else ""
        limits = _limits(one.kind, one.key, value)
        lines.append(Line(what[0].upper() + what[1:], "", None, one.was, keep, None, limits))
    return lines


def _value_of(one: drifting.Foreign) -> dict[str, Any] | None:
    if one.kind == SIZE:
        return {"to": one.now}
    if one.kind == AUTOSCALE:
        least, _, most = one.now.partition(" to ")
        return {"min": least, "max": most} if most else None
    if one.kind == RATE:
        return {"rate": one.now}
    if one.kind == TIMES:
        pairs = (part.split(" ", 1) for part in one.now.split(", "))
        return {key: value for key, value in pairs}
    return {}


def _revokes(view: WorkerView) -> list[Line]:
    """Revoked ids that it holds in memory, unless it keeps them in a file."""
    details = view.row.details if isinstance(view.row.details, dict) else {}
    held, conf = details.get("revoked"), details.get("conf")
    if not isinstance(held, list) or not held or view.offline:
        return []
    if isinstance(conf, dict) and conf.get("worker_state_db"):
        return []
    ids = "1 revoked id" if len(held) == 1 else f"{len(held):,} revoked ids"
    standing = models.StandingRevoke.objects.filter(moot_at=None).count()
    again = f"; Umbel sends {standing:,} of its own again" if standing else ""
    return [Line(f"{ids} in memory{again}", "", None, "", "celery worker --statedb=/var/lib/celery/%n.state")]


def _unknown(view: WorkerView, start: Start | None) -> list[str]:
    """What Umbel cannot say."""
    if start is None or start.asked_at is None:
        return ["How it started is not known yet: it shows when this worker has told its tasks and queues."]
    booted = start.booted_at
    late = start.asked_at - booted if booted is not None else None
    told = []
    if late is not None and late > 120:
        told.append(
            f"Umbel first asked this worker {duration_text(late)} after it started: what others changed "
            "before that is not known."
        )
    told.append(
        "Options of the command line are not told by a worker: whether it has -E or --statedb is not known, "
        "nor who else sent it a command."
    )
    return told
