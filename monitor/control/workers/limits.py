"""Rate and time limits of a task name on a worker."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from monitor.control.asking import Question
from monitor.control.capabilities import pool_kind
from monitor.control.commands import RATE_LIMIT, Command, Refused
from monitor.control.inspecting import Seen, limits_on
from monitor.control.orders import LOOK_TIMEOUT, Order, able
from monitor.control.verifying import Finding, Grade
from monitor.models import Worker

LONGEST = 366 * 86_400.0  # seconds
_RATE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,3})?(/[smh])?", re.ASCII)
_NONE = ("", "0", "None")


def rate_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a rate limit: "10/m" and so on. Celery takes "NaN" and fails on "10/x"."""
    task, rate = _task(given), str(given.get("rate", "")).strip()
    if not _RATE.fullmatch(rate):
        raise Refused(
            f"{rate[:40]!r} is not a rate: give a number a second, minute or hour, "
            "such as 10/s, 100/m or 5/h; 0 for no limit."
        )
    return {"task": task, "rate": "0" if float(rate.partition("/")[0]) == 0 else rate}


def times_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a time limit; one that is left out stays as it is."""
    times = {key: _seconds(given[key], key) for key in ("soft", "hard") if given.get(key) is not None}
    if not times:
        raise Refused("Neither the soft nor the hard time limit was given.")
    _in_order(times.get("soft"), times.get("hard"))
    return {"task": _task(given), **{key: "" if value is None else value for key, value in times.items()}}


def order(command: Command) -> Order:
    """After a look at what the worker has: both time limits must be sent, or Celery forgets the other."""
    (worker,) = command.targets
    able(worker, command.name)
    known = limits_on(worker, LOOK_TIMEOUT)
    if known is None:
        raise Refused(f"{worker} did not answer within {LOOK_TIMEOUT:.0f} s; nothing was sent.")
    task = command.arguments["task"]
    if task not in known:
        near = get_close_matches(task, known, 3)
        raise Refused(
            f"{worker} has no task {task[:80]!r}."
            + (f" It has {', '.join(near)}." if near else " Its page lists those it has.")
        )
    if command.name == RATE_LIMIT:
        sent = {"task_name": task, "rate_limit": command.arguments["rate"]}
        return Order(
            command,
            [Question("rate_limit", sent, (worker,))],
            {**command.arguments, "before": _shown(known[task].get("rate_limit"))},
        )
    before = {key: _limit(known[task].get(name)) for key, name in _TIMES.items()}
    times = {key: command.arguments.get(key, before[key]) or None for key in _TIMES}
    _in_order(times["soft"], times["hard"])
    recorded = {key: "none" if value is None else value for key, value in times.items()}
    was = ", ".join(f"{key} {'none' if value is None else f'{value:g}'}" for key, value in before.items())
    return Order(
        command,
        [Question("time_limit", {"task_name": task, **times}, (worker,))],
        {"task": task, **recorded, "before": was},
    )


def set_as_asked(order: Order, sent_at: float, seen: Mapping[str, Seen]) -> list[Finding]:
    """What the worker says its limits are now; of time limits that is not what it enforces yet."""
    (worker,) = order.destinations
    if worker not in seen:
        return [Finding(worker, Grade.UNKNOWN, "It did not answer when Umbel looked at its limits.")]
    now = seen[worker].limits.get(order.arguments["task"])
    if now is None:
        return [Finding(worker, Grade.UNKNOWN, "It did not list that task when Umbel looked.")]
    if order.command.name == RATE_LIMIT:
        shown, asked = _shown(now.get("rate_limit")), order.arguments["rate"]
        text = f"rate limit {order.arguments['before']} → {shown}"
        same = shown == _shown(asked)
        return [Finding(worker, Grade.SEEN if same else Grade.NOT, text)]
    times = {key: _limit(now.get(name)) for key, name in _TIMES.items()}
    sent = order.questions[0].arguments
    text = ", ".join(f"{key} {'none' if value is None else f'{value:g} s'}" for key, value in times.items())
    if any(times[key] != sent[key] for key in _TIMES):
        return [Finding(worker, Grade.NOT, f"It says {text}")]
    # No later look can tell more: whether it is enforced shows only on a task that runs that long.
    return [Finding(worker, Grade.HALF, f"It says {text}, and {_enforced(worker)}", settled=True)]


def _enforced(worker: str) -> str:
    """What this pool makes of time limits; Celery says yes to them on every pool."""
    row = Worker.objects.filter(hostname=worker).first()
    kind = pool_kind(row) if row is not None else ""
    if kind in ("threads", "solo"):
        return f"never enforces them: a {kind} pool cannot end a task that runs too long"
    later = (
        "once it has connected to the broker anew or restarted its pool; a restart of the worker forgets it"
    )
    if kind in ("gevent", "eventlet"):
        return f"enforces the hard one alone (a {kind} pool knows no soft limit), {later}"
    return f"enforces that {later}"


_TIMES = {"soft": "soft_time_limit", "hard": "time_limit"}


def _task(given: Mapping[str, Any]) -> str:
    task = str(given.get("task", "")).strip()
    if not task or len(task) > 255 or not task.isprintable():
        raise Refused(f"{task[:60]!r} is not the name of a task.")
    return task


def _seconds(value: Any, which: str) -> float | None:
    """None: no limit."""
    text = str(value).strip()
    if text in _NONE:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST:
        raise Refused(
            f"{text[:40]!r} is not a {which} time limit: give seconds, more than 0 and at most a year, "
            "or 0 for no limit."
        )
    return seconds


def _in_order(soft: Any, hard: Any) -> None:
    if soft and hard and soft >= hard:
        raise Refused(
            f"The soft limit ({soft:g} s) must be under the hard one ({hard:g} s): "
            "it lets the task clean up first."
        )


def _limit(told: str | None) -> float | None:
    try:
        return None if told is None or told in _NONE else float(told)
    except ValueError:
        return None


def _shown(rate: str | None) -> str:
    return "none" if rate is None or rate in _NONE else rate
