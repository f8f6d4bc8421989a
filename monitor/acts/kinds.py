"""What can be done to many at once: for each command what it is for, what counts as changed, and how its
effect on one target is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monitor.acts import steps
from monitor.acts.models import ActTarget, BulkAct
from monitor.acts.steps import Step, as_it_is, itself
from monitor.control import Actor
from monitor.control import commands as names
from monitor.models import Task, Worker
from monitor.records import (
    ENDED,
    FAILURE,
    LOST,
    PENDING,
    RECEIVED,
    REJECTED,
    RETRY,
    REVOKED,
    STARTED,
)

Outcome = ActTarget.Outcome
# Seconds after the look at a batch in which a late event may still say more.
LATE = 60.0
# A start read from two events of one run may differ by their clocks' last digits.
SAME_START = 0.001
ONLINE = "online"

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fate:
    """What is known of a target after it was sent; ``final`` when nothing more will be found out."""

    outcome: str
    text: str
    final: bool


@dataclass(frozen=True, slots=True)
class Sight:
    """What there is to judge a target by: its row, and what the look at its batch found."""

    row: Row | None
    seen: bool | None = None  # the finding of the look
    text: str = ""
    looked_at: float | None = None  # when the look was over; None: it goes on, or there was none
    answered: str = Outcome.SENT  # sent, silent or refused, by the workers' replies
    now: float = 0.0
    sent_at: float | None = None  # when the last batch of its act was sent


Rows = Callable[[Iterable[str]], dict[str, Row]]


def tasks(targets: Iterable[str]) -> dict[str, Row]:
    """By uuid, what a task is judged by."""
    fields = ("uuid", "state", "worker", "retries", "started_at", "expired", "terminated", "known")
    return {row["uuid"]: row for row in Task.objects.filter(uuid__in=list(targets)).values(*fields)}


def workers(targets: Iterable[str]) -> dict[str, Row]:
    """By hostname."""
    fields = ("hostname", "status", "pid", "online_at", "reason", "queues")
    return {row["hostname"]: row for row in Worker.objects.filter(hostname__in=list(targets)).values(*fields)}


@dataclass(frozen=True, slots=True)
class ActKind:
    """One command for many. ``states``: of what it is for; others are not in the list."""

    states: frozenset[str]
    changed: Callable[
        [str, float | None, Row | None], str
    ]  # was, its run, its row now; "" when it is the same
    fate: Callable[[Sight], Fate]
    what: str = "task"
    batch: int = names.MOST_IDS  # targets in one command
    rows: Rows = tasks
    sends: str = ""  # the command that goes out, where it has another name
    listens: bool = True  # somebody must be there to hear it
    step: Callable[[BulkAct, Sequence[str]], Step] = as_it_is
    under: Callable[[BulkAct, str], str] = itself  # what its command calls a target
    # What is done in place of one command a batch: the outcome and its text; raises Refused.
    act: Callable[[BulkAct, str, Actor], tuple[str, str]] | None = None


def run_of(row: Row) -> float | None:
    """Which run of a task that is: a running one by its start, a waiting one by its retries."""
    run = row["started_at"] if row["state"] == STARTED else row["retries"]
    return None if run is None else float(run)


# What changed since the list was read


def not_waiting(was: str, run: float | None, row: Row | None) -> str:
    """A task that a worker reserved since still waits for the same run."""
    if row is None:
        return _GONE
    state, before = row["state"], int(run or 0)
    if state in _WAITING and was in _WAITING:
        more = row["retries"] - before
        return "" if more <= (was == RETRY) else "It ran, and was retried, after the list was read."
    if state == STARTED:
        return (
            f"It began on {row['worker'] or 'a worker'} after the list was read: a revoke does not stop it."
        )
    return f"It was {was} when the list was read, and is {state} now."


def not_running(was: str, run: float | None, row: Row | None) -> str:
    """A task that was started again is another run."""
    if row is None:
        return _GONE
    if row["state"] != was:
        return f"It was {was} when the list was read, and is {row['state']} now."
    now = run_of(row)
    if run is not None and now is not None and abs(now - run) > SAME_START:
        return "It was started again after the list was read: that is another run."
    return ""


def not_there(was: str, run: float | None, row: Row | None) -> str:
    """A worker that was restarted is another one of that name."""
    if row is None:
        return "It is not known any more."
    if row["status"] != was:
        why = f" ({row['reason']})" if row["reason"] else ""
        return f"It was {was} when the list was read, and is {row['status']} now{why}."
    if run is not None and row["pid"] is not None and row["pid"] != run:
        return "It was restarted after the list was read."
    return ""


_GONE = "It has left Umbel's history since the list was read."
_WAITING = frozenset({PENDING, RECEIVED, RETRY})
_LEFT = "It left Umbel's history before its end was seen."


# What became of it


def revoked(sight: Sight) -> Fate:
    """Proved when a worker reached it and skipped it, which may be long after it was sent."""
    row = sight.row
    if row is None:
        return Fate(Outcome.NOT, _LEFT, True)
    state = row["state"]
    if state == REVOKED and row["known"] != "seen":
        # Workers write that to the result backend as soon as they are told.
        return Fate(Outcome.SENT, "The result says REVOKED; no worker was seen to skip it yet.", False)
    if state == REVOKED:
        text = "It expired, and did not run." if row["expired"] else "A worker reached it and skipped it."
        return Fate(Outcome.CONFIRMED, "It was terminated." if row["terminated"] else text, True)
    if state == STARTED:
        return Fate(Outcome.NOT, f"It had begun on {row['worker']}: a revoke does not stop it.", False)
    if state in ENDED and state != LOST:
        return Fate(Outcome.NOT, f"It ran all the same, and ended with {state}.", True)
    if sight.seen is True:
        return Fate(Outcome.SENT, sight.text, False)
    if sight.seen is False:
        return Fate(Outcome.NOT, sight.text, False)
    return Fate(sight.answered, sight.text, False)


def terminated(sight: Sight) -> Fate:
    """Proved when it is gone from its worker and its end was seen; an event may come late."""
    row = sight.row
    if sight.answered == Outcome.REFUSED:
        return Fate(Outcome.REFUSED, sight.text, True)
    late = sight.looked_at is not None and sight.now - sight.looked_at > LATE
    if sight.seen is True:
        return Fate(Outcome.CONFIRMED, sight.text, True)
    if row is None:
        return Fate(Outcome.NOT, sight.text or _LEFT, True)
    state = row["state"]
    if state == REVOKED and sight.looked_at is not None and sight.seen is None:
        return Fate(Outcome.CONFIRMED, "Its end was seen in an event: REVOKED.", True)
    if state in ENDED and state not in (LOST, REVOKED) and (late or sight.looked_at is not None):
        return Fate(Outcome.NOT, f"It ended with {state}, not by the signal.", True)
    if sight.looked_at is None:
        return Fate(sight.answered, sight.text, False)
    if sight.seen is False:
        return Fate(Outcome.NOT, sight.text, late)
    if sight.answered in _NOT_TOLD:
        return Fate(sight.answered, sight.text, late)
    return Fate(Outcome.NOT if late else Outcome.SENT, sight.text, late)


def looked_after(sight: Sight) -> Fate:
    """As the look at its batch found it: workers."""
    if sight.answered == Outcome.REFUSED:
        return Fate(Outcome.REFUSED, sight.text, True)
    if sight.looked_at is None:
        return Fate(sight.answered, sight.text, False)
    if sight.seen is True:
        return Fate(Outcome.CONFIRMED, sight.text, True)
    if sight.answered in _NOT_TOLD and sight.seen is None:
        return Fate(sight.answered, sight.text, True)
    return Fate(Outcome.NOT, sight.text, True)


# Nobody answered, or nobody knows whether it was sent.
_NOT_TOLD = frozenset({Outcome.SILENT, Outcome.UNKNOWN})


def ran_again(sight: Sight) -> Fate:
    """Proved when a worker has the new task; it may wait in its queue for long."""
    if sight.answered == Outcome.REFUSED:
        return Fate(Outcome.REFUSED, sight.text, True)
    row = sight.row
    if row is not None and row["state"] != PENDING:
        sent = f"It was sent again as {row['uuid']},"
        if row["state"] == LOST:
            return Fate(Outcome.NOT, f"{sent} and that is lost.", False)
        if row["state"] == REVOKED and row["known"] != "seen":
            # Workers write that to the result backend as soon as they are told.
            return Fate(Outcome.SENT, f"{sent} and the result says REVOKED.", False)
        if row["state"] == REVOKED and not row["terminated"]:
            why = "it expired before it was run" if row["expired"] else "a worker skipped it: it is revoked"
            return Fate(Outcome.NOT, f"{sent} and {why}.", True)
        return Fate(Outcome.CONFIRMED, f"{sent} and a worker has it.", True)
    if sight.seen is True:
        return Fate(Outcome.CONFIRMED, f"Sent again. {sight.text}", True)
    if sight.seen is False:
        return Fate(Outcome.NOT, sight.text, True)
    return Fate(sight.answered, sight.text, False)


def drained(sight: Sight) -> Fate:
    """Proved when the worker consumes no queue any more."""
    if sight.row is None:
        return Fate(Outcome.NOT, "Nothing is known of it any more.", True)
    if sight.answered == Outcome.REFUSED:
        return Fate(Outcome.REFUSED, sight.text, True)
    if not sight.row["queues"]:
        return Fate(Outcome.CONFIRMED, "It consumes no queue any more, and finishes what it holds.", True)
    if sight.sent_at is None or sight.now - sight.sent_at <= LATE:
        return Fate(sight.answered, sight.text, False)
    left = ", ".join(str(queue) for queue in sight.row["queues"][:6])
    return Fate(Outcome.NOT, f"It consumes {left} still.", True)


def not_as_it_ended(was: str, run: float | None, row: Row | None) -> str:
    """A task that ended otherwise since is not the one that was chosen."""
    if row is None:
        return _GONE
    return "" if row["state"] == was else f"It was {was} when the list was read, and is {row['state']} now."


_ONLINE = frozenset({ONLINE})
# Ends that call for a retry; one that succeeded is run again from its own page.
_RETRIED = frozenset({FAILURE, LOST, REJECTED, REVOKED})
RETRY_TASKS, DRAIN = "retry", "drain"
# Each is the act's own command for each worker; from its own page a worker is one alone, when it is held.
OF_WORKERS = (
    *(names.SHUTDOWN, names.RESTART_POOL, names.GROW, names.SHRINK, names.AUTOSCALE),
    *(names.RATE_LIMIT, names.TIME_LIMIT, names.ADD_CONSUMER, names.CANCEL_CONSUMER),
    *(names.ENABLE_EVENTS, names.DISABLE_EVENTS),
)
KINDS: Mapping[str, ActKind] = {
    names.REVOKE: ActKind(_WAITING, not_waiting, revoked),
    names.TERMINATE: ActKind(frozenset({STARTED}), not_running, terminated),
    RETRY_TASKS: ActKind(
        _RETRIED,
        not_as_it_ended,
        ran_again,
        batch=100,  # each is looked for at the broker and in its queue
        sends=names.SEND,
        listens=False,
        step=steps.run_again,
        under=steps.anew,
    ),
    DRAIN: ActKind(
        _ONLINE, not_there, drained, "worker", 1, workers, sends=names.CANCEL_CONSUMER, act=steps.drain
    ),
    **dict.fromkeys(OF_WORKERS, ActKind(_ONLINE, not_there, looked_after, "worker", 1, workers)),
}
