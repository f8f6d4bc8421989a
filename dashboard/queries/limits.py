"""The time limits of a running task: how long until each passes, and by whose word it is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dashboard.templatetags.words import clock
from monitor import registered

SOFT, HARD = "soft", "hard"
# Which limits a pool of Celery's keeps; of other pools nothing is said.
KEPT_BY = {
    "prefork": (SOFT, HARD),
    "gevent": (HARD,),
    "eventlet": (),
    "threads": (),
    "solo": (),
}


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit; ``left`` is in seconds, below zero when it has passed."""

    kind: str  # soft or hard
    seconds: float
    left: float
    at: float  # when it passes, our clock
    source: str

    @property
    def passed(self) -> bool:
        return self.left <= 0

    @property
    def clock(self) -> str:
        """When it passes, as a clock shows it."""
        return clock(self.at)


@dataclass(frozen=True, slots=True)
class Limits:
    """What is known; ``notes`` are sentences on what is not, and on what a limit is worth here."""

    found: list[Limit]
    notes: list[str]


def limits(
    details: Mapping[str, Any],
    pool: str,
    name: str,
    *,
    held: Mapping[str, Any],
    started_at: float | None,
    now: float,
) -> Limits:
    """``held`` is the task in the worker's list of active ones, ``started_at`` by our clock.

    What was given with the call goes before what is set on the task, and that before what the worker has.
    """
    told = registered.attributes(details, name)
    ours, worker_known = _of_worker(details)
    call = _of_call(held)
    found: list[Limit] = []
    for kind in (SOFT, HARD):
        on_task = registered.seconds((told or {}).get("soft_time_limit" if kind == SOFT else "time_limit"))
        for value, source in (
            (call.get(kind), "given with this call"),
            (on_task, "set on the task, as its worker told"),
            (ours.get(kind), "set for every task of its worker"),
        ):
            if value is not None:
                if started_at is not None:
                    at = started_at + value
                    found.append(Limit(kind, value, at - now, at, source))
                break
    return Limits(found, _notes(found, pool, told is not None and worker_known, bool(call)))


def held_as(details: Mapping[str, Any], uuid: str) -> Mapping[str, Any]:
    """The task as its worker listed it among the active ones; nothing when it did not."""
    listed = details.get("active")
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, dict) and item.get("id") == uuid:
            return item
    return {}


def _of_call(held: Mapping[str, Any]) -> dict[str, float]:
    """Celery itself does not list them; where one does, they come as in the message: hard, soft."""
    given = held.get("timelimit") or held.get("time_limit")
    if not isinstance(given, list | tuple) or len(given) != 2:
        return {}
    pairs = zip((HARD, SOFT), map(registered.seconds, given), strict=True)
    return {kind: value for kind, value in pairs if value is not None}


def _of_worker(details: Mapping[str, Any]) -> tuple[dict[str, float], bool]:
    """What holds for all of its tasks, and whether it said so: a prefork pool tells what it was made with."""
    stats = details.get("stats")
    pool = stats.get("pool") if isinstance(stats, dict) else None
    timeouts = pool.get("timeouts") if isinstance(pool, dict) else None
    if isinstance(timeouts, list | tuple) and len(timeouts) == 2:
        pairs = zip((SOFT, HARD), map(registered.seconds, timeouts), strict=True)
        return {kind: value for kind, value in pairs if value is not None}, True
    conf = details.get("conf")
    if not isinstance(conf, dict):
        return {}, False
    settings = {SOFT: "task_soft_time_limit", HARD: "task_time_limit"}
    values = {kind: registered.seconds(conf.get(key)) for kind, key in settings.items()}
    return {kind: value for kind, value in values.items() if value is not None}, True


def _notes(found: list[Limit], pool: str, is_known: bool, by_call: bool) -> list[str]:
    notes = []
    kept = KEPT_BY.get(pool)
    idle = [limit.kind for limit in found if kept is not None and limit.kind not in kept]
    if idle:
        which = "time limits" if len(idle) == len(found) else f"{idle[0]} time limits"
        notes.append(f"A {pool} pool does not enforce {which}: nothing will happen when it passes.")
    elif any(limit.passed for limit in found):
        notes.append(
            "A limit set by command does not hold before its worker restarts; a task may catch the soft one."
        )
    hard = any(limit.kind == HARD for limit in found)
    if is_known and not hard and not by_call:
        notes.append(
            "No hard time limit is set on it or on its worker; one given with the call is told by nobody."
        )
    elif not is_known and not found:
        notes.append("Its time limits are not known: its worker has not told them.")
    elif not by_call and found:
        notes.append("A limit given with the call itself would go first; workers do not tell it.")
    return notes
