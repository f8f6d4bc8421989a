"""What ending or revoking tasks would hit beside them, by events, message, workers and result backend.

Asked of the broker and the backend for the dialogs alone, when one is opened; a few tasks at most. What could
not be looked at is listed, so that silence never passes for "nothing".
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from dashboard.queries import redelivery
from dashboard.queries.task import acks_late
from dashboard.templatetags.words import plain
from monitor import broker, messages, queues
from monitor.control.capabilities import TAKES_AT_ONCE, pool_kind
from monitor.control.inspecting import has_grown
from monitor.control.revokes.stopping import GROWN, ONCE_IT_RUNS
from monitor.models import Task, Worker
from monitor.records import ENDED, RECEIVED, STARTED
from monitor.redact import DEFAULT

LOOKED = 20  # tasks whose messages and results are looked for
NAMED = 5  # names told; then "and n more"
COUNTED = 500


@dataclass(frozen=True, slots=True)
class Effect:
    """One thing that would happen; ``state`` and ``icon`` are the design's."""

    head: str
    text: str = ""
    state: str = "warn"
    icon: str = "s-warn"


@dataclass(slots=True)
class Radius:
    """All that is known to be hit, and what could not be looked at, each with why."""

    effects: list[Effect] = field(default_factory=list)
    unchecked: list[tuple[str, str]] = field(default_factory=list)
    stamps: dict[str, list[str]] = field(default_factory=dict)  # of the tasks, as they may be shown
    found: list[messages.Message] = field(default_factory=list)


def radius(uuids: Sequence[str], command: str) -> Radius:
    """Of "terminate", "revoke" or "abort"."""
    found = Radius()
    now = time.time()
    tasks = list(
        Task.objects.filter(uuid__in=uuids[:COUNTED]).defer("marks", "traceback", "result", "attempts")
    )
    hosts = {task.worker for task in tasks if task.worker}
    workers = {worker.hostname: worker for worker in Worker.objects.filter(hostname__in=hosts)}
    looked = tasks[:LOOKED]
    kept = _messages(found, looked)
    metas = _metas(found, looked)
    _stamps(found, kept, metas)
    _follows(found, kept, looked)
    _children(found, tasks)
    if command == "terminate":
        _process(found, tasks, workers)
        _again(found, tasks, workers, now)
    if len(tasks) > LOOKED:
        why = f"they are looked at for {LOOKED} tasks at most"
        found.unchecked.append((f"messages and results of {len(tasks) - LOOKED:,} more", why))
    return found


# private, in the order of use


def _broker() -> broker.Broker | None:
    """None where nothing can be sent either."""
    try:
        return broker.current()
    except RuntimeError:
        return None


def _messages(found: Radius, tasks: Sequence[Task]) -> dict[str, messages.Message]:
    names = {task.queue for task in tasks if task.queue}
    current = _broker()
    if current is None or current.transport != "redis":
        found.unchecked.append(("their messages", "only a Redis broker lets a message be read where it lies"))
        return {}
    try:
        if not all(task.queue for task in tasks):
            names |= set(queues.names(current))
        search = messages.find(current, [task.uuid for task in tasks], names)
    except (RedisError, OSError, KombuError) as error:
        found.unchecked.append(("their messages", f"the broker did not answer: {current.explain(error)}"))
        return {}
    if not search.whole:
        found.unchecked.append(("all messages of the broker", "they could not all be read"))
    found.found = search.found
    return {one.uuid: one for one in search.found}


def _metas(found: Radius, tasks: Sequence[Task]) -> Mapping[str, Mapping[str, Any]]:
    current = _broker()
    if current is None or current.results_reason:
        why = current.results_reason.rstrip(".") if current else "no broker is configured"
        found.unchecked.append(("the result backend", why))
        return {}
    try:
        return current.result_metas(task.uuid for task in tasks)
    except (RedisError, OSError) as error:
        found.unchecked.append(("the result backend", f"it did not answer: {current.explain(error)}"))
        return {}


def _stamps(
    found: Radius, kept: Mapping[str, messages.Message], metas: Mapping[str, Mapping[str, Any]]
) -> None:
    for stamps in (*(one.stamps for one in kept.values()), *map(messages.stamps_in, metas.values())):
        for header, values in stamps.items():
            shown = DEFAULT.value({header: values})
            listed = shown.get(header) if isinstance(shown, dict) else None
            if listed == values:
                known = found.stamps.setdefault(header, [])
                known += [value for value in values if value not in known]


def _follows(found: Radius, kept: Mapping[str, messages.Message], tasks: Sequence[Task]) -> None:
    """What hangs on the message alone: the rest of the chain, the chord, callbacks."""
    read = [one for one in kept.values() if one.hangs]
    bodies = sorted({one.chord for one in read if one.chord})
    if bodies:
        text = "Celery runs it only when every member of the group has succeeded; it is failed instead."
        found.effects.append(Effect(f"The chord’s body {_names(bodies)} will never run.", text))
    steps = [name for one in read for name in one.chain]
    if steps:
        many = (
            "The next step of the chain is" if len(steps) == 1 else f"{len(steps)} later steps of chains are"
        )
        found.effects.append(Effect(f"{many} never sent:", f"{_names(steps)}."))
    callbacks = [name for one in read for name in one.callbacks]
    if callbacks:
        found.effects.append(Effect("Its callbacks are not called:", f"{_names(callbacks)}."))
    errbacks = [name for one in read for name in one.errbacks]
    if errbacks:
        text = f"{_names(errbacks)}: Celery calls none for a revoked task."
        found.effects.append(Effect("Its error callbacks are not called either:", text))
    unread = [task for task in tasks if task.uuid not in kept or not kept[task.uuid].hangs]
    if unread:
        whose = "its chain, chord and callbacks" if len(tasks) == 1 else "chains, chords and callbacks"
        ran = any(task.state == STARTED and task.uuid not in kept for task in unread)
        why = (
            "its message was acknowledged when it began, and they stand in that alone"
            if ran and len(unread) == 1
            else "their messages were not found, or are no JSON"
        )
        found.unchecked.append((whose, why))


def _children(found: Radius, tasks: Sequence[Task]) -> None:
    uuids = [task.uuid for task in tasks]
    rows = Task.objects.filter(parent_id__in=uuids).exclude(state__in=ENDED)
    states = list(rows.values_list("state", flat=True)[:COUNTED])
    if not states:
        return
    running = sum(state == STARTED for state in states)
    many = "1 task that it sent goes on" if len(states) == 1 else f"{len(states)} tasks sent by them go on"
    text = f"{running} run and {len(states) - running} wait, by their events. They are not touched."
    found.effects.append(Effect(f"{many}.", text, "sent", "s-sent"))


def _process(found: Radius, tasks: Sequence[Task], workers: Mapping[str, Worker]) -> None:
    """What else is in the pool processes that end."""
    fair, green = [], []
    for hostname in sorted({task.worker for task in tasks if task.worker})[:NAMED]:
        worker = workers.get(hostname)
        kind = pool_kind(worker) if worker else ""
        name = plain(hostname)
        if kind in ("gevent", "eventlet"):
            green.append(name)
        elif kind == "prefork" and worker is not None:
            strategy = _strategy(worker)
            if strategy == "fair":
                fair.append(name)
            elif strategy:
                text = (
                    f"{name} hands out ahead ({plain(strategy)}); what has not begun goes to another process."
                )
                found.effects.append(Effect("Other tasks may wait in the same process.", text))
            else:
                found.unchecked.append(
                    (f"what else is in that process of {name}", "it has not told how it hands tasks out")
                )
        elif worker is None or not kind:
            found.unchecked.append((f"what else is in that process of {name}", "its pool is not known"))
    if green:
        greenlets = "this one’s greenlet is" if len(tasks) == 1 else "these tasks’ greenlets are"
        text = f"All tasks of {_names(green)} share one process; only {greenlets} killed."
        found.effects.append(Effect("No process ends.", text, "sent", "s-sent"))
    if fair:
        where = "the process" if len(tasks) == 1 else "these processes"
        gives = "gives" if len(fair) == 1 else "give"
        text = f"{_names(fair)} {gives} a pool process one task at a time (fair)."
        found.effects.append(Effect(f"Nothing else is in {where}.", text, "sent", "s-sent"))


def _strategy(worker: Worker) -> str:
    details = worker.details if isinstance(worker.details, dict) else {}
    stats = details.get("stats")
    pool = stats.get("pool") if isinstance(stats, dict) else None
    writes = pool.get("writes") if isinstance(pool, dict) else None
    return str(writes.get("strategy") or "") if isinstance(writes, dict) else ""


def _again(found: Radius, tasks: Sequence[Task], workers: Mapping[str, Worker], now: float) -> None:
    """Whether the broker would hand any of them out once more."""
    current = _broker()
    transport = current.transport if current else ""
    late = [task for task in tasks if acks_late(workers.get(task.worker), task.name)]
    unknown = [task for task in tasks if acks_late(workers.get(task.worker), task.name) is None]
    back = []
    for task in late:
        worker = workers.get(task.worker)
        ahead = redelivery.forecast(
            task, worker.details if worker else None, now, transport=transport, late=True
        )
        if ahead is not None and ahead.passed:
            back.append(task)
    if back:
        text = "Past the broker’s visibility timeout a message may be out again already."
        found.effects.append(Effect(f"{len(back)} may run again.", text, "retry", "s-retry"))
    if late and len(late) > len(back):
        text = (
            "Acknowledged late, but the worker acknowledges a task as it ends it: the broker keeps no copy."
        )
        found.effects.append(Effect(f"{len(late) - len(back)} will not run again.", text, "sent", "s-sent"))
    if unknown:
        who = "its" if len(unknown) == 1 else "their"
        found.unchecked.append(
            (f"whether {who} acks_late is set", "the worker has not told of the task name")
        )


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(plain(name) or "one without a name" for name in names[:NAMED])
    return f"{shown} and {len(names) - NAMED} more" if len(names) > NAMED else shown


def waits(uuids: Sequence[str], found: Radius) -> list[Effect]:
    """Where tasks that would be revoked are now."""
    held = _held(uuids)
    reserved = len(held) - sum(_taken(held).values())
    queued = sum(one.where == "queue" for one in found.found)
    effects = []
    if queued:
        text = "Its message stays in the queue; the worker that reaches it discards it, unrun."
        effects.append(
            Effect(f"{queued} wait{'s' if queued == 1 else ''} in a queue.", text, "sent", "s-sent")
        )
    if reserved:
        text = "It is discarded when its turn comes, an ETA’s too."
        many = "1 is reserved by a worker." if reserved == 1 else f"{reserved} are reserved by workers."
        effects.append(Effect(many, text, "received", "s-received"))
    return effects + too_late(uuids)


def too_late(uuids: Sequence[str]) -> list[Effect]:
    """Of tasks that would be revoked: what is reserved, and runs or may run all the same."""
    effects = []
    for kind, count in sorted(_taken(_held(uuids)).items()):
        if kind == _GROWN:
            those = "1 is reserved by a worker" if count == 1 else f"{count} are reserved by workers"
            effects.append(Effect(f"{those}, and may run.", GROWN))
            continue
        those = f"1 is with a {kind} pool already" if count == 1 else f"{count} are with {kind} pools already"
        way = (
            "Shut the worker down before that, and it goes back to its queue, to be discarded there."
            if kind == "threads"
            else ONCE_IT_RUNS
        )
        text = "Such a pool runs what its worker has reserved as soon as a slot is free, revoked or not."
        effects.append(Effect(f"{those}.", f"{text} {way}"))
    return effects


_GROWN = "grown"  # in place of a kind of pool


def _held(uuids: Sequence[str]) -> list[tuple[str, float | None]]:
    """Worker and ETA of those that are reserved."""
    rows = Task.objects.filter(uuid__in=uuids[:COUNTED], state=RECEIVED)
    return list(rows.values_list("worker", "eta"))


def _taken(held: Sequence[tuple[str, float | None]]) -> Mapping[str, int]:
    """How many of these reserved tasks a revoke does not reach any more, or may not, by kind of pool."""
    now = time.time()
    rows = Worker.objects.filter(hostname__in={worker for worker, _ in held})
    kinds = {row.hostname: kind for row in rows if (kind := _takes(row))}
    return Counter(kinds[worker] for worker, eta in held if worker in kinds and (eta or 0.0) <= now)


def _takes(worker: Worker) -> str:
    """The kind of pool that takes tasks before a slot is free; "" for one that does not."""
    kind = pool_kind(worker)
    if kind in TAKES_AT_ONCE:
        return kind
    details = worker.details if isinstance(worker.details, dict) else {}
    return _GROWN if has_grown(details.get("stats")) else ""
