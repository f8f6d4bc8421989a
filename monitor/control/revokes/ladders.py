"""A ladder: one act that ends a running task step by step, and stops as soon as it is gone.

Celery has one signal for a task and no more (see ``here``). So the rungs are those that really exist: abort,
where the task asks the result backend; a signal through the worker; and, where Umbel runs on the worker's
machine, SIGTERM and SIGKILL to the pool process itself. What has no second rung is not offered as a ladder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from django.db import transaction

from monitor.control.asking import Unreachable
from monitor.control.capabilities import pool_kind
from monitor.control.commands import (
    ABORT,
    SIGNAL_PROCESS,
    TERMINATE,
    UMBEL,
    Actor,
    Barred,
    Command,
    Perform,
    Refused,
    need_operator,
    nobody_barred,
)
from monitor.control.inspecting import seen_on
from monitor.control.performing import noted, refuse
from monitor.control.revokes import here
from monitor.control.revokes.aborting import can_abort, is_abortable
from monitor.control.revokes.stopping import on_solo
from monitor.models import Ladder, Task, Worker
from monitor.records import ENDED, LOST, PENDING, RECEIVED, REVOKED, STARTED
from monitor.redact import DEFAULT

WAIT, LEAST_WAIT, MOST_WAIT = 10.0, 2.0, 3600.0  # seconds between two rungs
EVERY = 2.0  # seconds between two looks at one
# A step that is due goes out for so long; later nobody expects it any more.
RESUME_WITHIN = 15 * 60.0
MOST = 50  # ladders at once
LOOK_TIMEOUT = 1.0
OWN_ENDS = ("succeeded", "failed", "retried", "rejected")
CELERY, HERE, BACKEND = "celery", "here", "backend"
STEPS = "STEPS"  # in the place of a signal
WITHDRAW = "withdraw"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Rung:
    """One step: what is done, and by whom."""

    do: str  # ABORT or a signal
    by: str = CELERY

    @property
    def command(self) -> str:
        return {BACKEND: ABORT, HERE: SIGNAL_PROCESS}.get(self.by, TERMINATE)

    @property
    def words(self) -> str:
        return {BACKEND: "abort", HERE: f"{self.do} to its process, from this machine"}.get(self.by, self.do)


@dataclass(frozen=True, slots=True)
class Plan:
    """The rungs that exist for one task, and why there are no more."""

    rungs: tuple[Rung, ...]
    why: str = ""  # no further rung exists

    @property
    def offered(self) -> bool:
        return len(self.rungs) > 1


def plan(task: Task, worker: Worker | None) -> Plan:
    """By what is known of the task and its worker now."""
    if task.state != STARTED or worker is None:
        return Plan((), "the task does not run on a worker that Umbel knows")
    rungs: list[Rung] = []
    if can_abort(task, worker).allowed and is_abortable(worker, task.name):
        rungs.append(Rung(ABORT, BACKEND))
    kind = pool_kind(worker)
    if kind in ("gevent", "eventlet"):
        rungs.append(Rung("SIGTERM"))
        return Plan(tuple(rungs), f"{kind} has one way to end a task: its greenlet is killed")
    if kind != "prefork":
        return Plan(tuple(rungs), f"a {kind or 'pool that is not known'} pool cannot stop a running task")
    stats = worker.details.get("stats") if isinstance(worker.details, dict) else None
    why = here.why_not_here(worker.hostname, stats if isinstance(stats, dict) else None)
    if why:
        rungs.append(Rung("SIGTERM"))
        told = f"with the first signal its worker forgets the task, and takes no second one; {why}"
        return Plan(tuple(rungs), told)
    return Plan((*rungs, Rung("SIGUSR1"), Rung("SIGTERM", HERE), Rung("SIGKILL", HERE)))


def start(uuid: str, wait: float, actor: Actor, reason: str) -> Ladder:
    """Write it down, in the audit log as well; the engine climbs. Raises ``Refused``."""
    command = Command(TERMINATE, (uuid,), {"signal": STEPS}, reason=reason)
    try:
        return _start(command, wait, actor)
    except Refused as refusal:
        refuse(command, actor, str(refusal))
        raise


def _start(command: Command, wait: float, actor: Actor) -> Ladder:
    (uuid,) = command.targets
    need_operator(actor)
    if not LEAST_WAIT <= wait <= MOST_WAIT:
        raise Refused(f"{wait:g} s between two steps is out of bounds: give {LEAST_WAIT:g} to {MOST_WAIT:g}.")
    task = Task.objects.filter(uuid=uuid).first()
    if task is None:
        raise Refused(f"No task with the id {uuid[:60]!r} was ever seen. Check the id.")
    if task.state != STARTED:
        perhaps = on_solo(task) if task.state in (PENDING, RECEIVED) else ""
        raise Refused(f"{task.name} {uuid} does not run: it is {task.state}. Nothing was sent.{perhaps}")
    worker = Worker.objects.filter(hostname=task.worker).first()
    found = plan(task, worker)
    if not found.offered:
        raise Refused(
            f"There is no second step: {found.why}. Terminate it with one signal. Nothing was sent."
        )
    try:
        seen = seen_on([task.worker], 2 * LOOK_TIMEOUT).get(task.worker)
    except Unreachable as error:
        raise Refused(f"{error} Nothing was sent.") from error
    if seen is None or uuid not in seen.tasks:
        raise Refused(f"{task.worker} does not say that it runs {uuid}. Nothing was sent; look again.")
    pid = seen.pids.get(uuid)
    pid = pid if isinstance(pid, int) and pid in (seen.processes or ()) else None
    now = time.time()
    open_now = Ladder.objects.filter(ended_at=None)
    if open_now.exclude(uuid=uuid).count() >= MOST:
        raise Refused(f"{MOST} tasks are being ended step by step already. Wait, or withdraw one.")
    wanted = {
        "worker": task.worker,
        "pid": pid,
        "began": here.began(pid) if pid is not None and any(r.by == HERE for r in found.rungs) else None,
        "user_id": actor.user_id,
        "username": actor.username[:150],
        "role": actor.role[:16],
        "address": actor.address[:64],
        "reason": DEFAULT.text(command.reason)[:500],
        "rungs": [{"do": rung.do, "by": rung.by} for rung in found.rungs],
        "wait": wait,
        "since": now,
        "due_at": now,
    }
    with transaction.atomic():
        # A second click finds the first: the database keeps one open for a task.
        ladder, is_new = open_now.get_or_create(uuid=uuid, ended_at=None, defaults=wanted)
        if is_new:
            steps = ", then ".join(rung.words for rung in found.rungs)
            noted(command, actor, f"Step by step, {wait:g} s between two, until it is gone: {steps}.")
    _announce(ladder)
    return ladder


def withdraw(pk: int, actor: Actor, reason: str = "") -> Ladder:
    """No further step; what was sent stays sent. Raises ``Refused``."""
    ladder = Ladder.objects.filter(pk=pk).first()
    if ladder is None:
        raise Refused("There is no such act any more.")
    command = Command(WITHDRAW, (ladder.uuid,), {"what": "steps"}, reason=reason)
    try:
        need_operator(actor)
        with transaction.atomic():
            if not _end(ladder, f"Withdrawn by {actor.username}.", None, time.time()):
                raise Refused(f"It had ended before: {ladder.outcome or 'it was over'}")
            noted(command, actor, _left(ladder))
    except Refused as refusal:
        refuse(command, actor, str(refusal))
        raise
    _announce(ladder)
    return ladder


@dataclass(slots=True)
class Climber:
    """Climbs what was asked for; ``look`` runs in the engine's thread. What it does is in the audit log."""

    perform: Perform
    clock: Callable[[], float] = time.time
    barred: Barred = nobody_barred
    _looked: dict[int, float] = field(default_factory=dict)

    def look(self) -> int:
        """One step of each that is due; how many are open."""
        now = self.clock()
        ladders = list(Ladder.objects.filter(ended_at=None).order_by("since")[:MOST])
        self._looked = {one.pk: self._looked.get(one.pk, 0.0) for one in ladders}
        for ladder in ladders:
            if now >= ladder.due_at or now - self._looked[ladder.pk] >= EVERY:
                self._looked[ladder.pk] = now
                self._climb(ladder, now)
        return len(ladders)

    def _climb(self, ladder: Ladder, now: float) -> None:
        _tell_of_crash(ladder)
        gone, text = _state(ladder)
        if gone:
            _end(ladder, text, True, now)
            return
        if now < ladder.due_at:
            return
        if ladder.step >= len(ladder.rungs):
            _end(ladder, f"No step ended it. {text}".strip(), False, now)
            return
        late = now - ladder.due_at
        if late > RESUME_WITHIN:
            why = f"Umbel was not running when its next step was due, {late / 60:,.0f} min ago."
            _give_up(ladder, why, False, now)
            return
        step, rung = ladder.step, Rung(**ladder.rungs[ladder.step])
        if why := self.barred(_actor(ladder), Command(rung.command, (ladder.uuid,))):
            _give_up(ladder, why, None, now)
            return
        # Written first: a crash in between does no step twice.
        mine = Ladder.objects.filter(pk=ladder.pk, step=ladder.step, ended_at=None)
        if not mine.update(step=ladder.step + 1, due_at=now + ladder.wait):
            return
        record, said = self._do(ladder, rung)
        ladder.refresh_from_db()
        line = {"step": step, "at": now, "text": f"{rung.words}: {said}", "record": record}
        ladder.log = [*ladder.log, line]
        ladder.save(update_fields=["log"])
        if not record and "gone already" not in said:
            Ladder.objects.filter(pk=ladder.pk).update(due_at=now + EVERY)
        _announce(ladder)

    def _do(self, ladder: Ladder, rung: Rung) -> tuple[str, str]:
        """The record's id and what came of sending it; no id when it was refused."""
        arguments: Mapping[str, Any] = {"signal": rung.do}
        if rung.by == BACKEND:
            arguments = {}
        elif rung.by == HERE:
            if ladder.pid is None or ladder.began is None:
                return "", "its process was not known when this began"
            arguments = {"signal": rung.do, "pid": ladder.pid, "began": ladder.began}
        reason = f"Step {ladder.step + 1} of {len(ladder.rungs)}. {ladder.reason}".strip()
        try:
            record = self.perform(
                Command(rung.command, (ladder.uuid,), dict(arguments), reason=reason), _actor(ladder)
            )
        except Refused as refusal:
            return "", f"not sent. {refusal}"
        replies = [f"{reply['worker']}: {reply['text'] or reply['outcome']}" for reply in record.replies]
        return str(record.pk), "; ".join(replies) or "sent"


def _actor(ladder: Ladder) -> Actor:
    return Actor(ladder.user_id, ladder.username, ladder.role, ladder.address)


def _state(ladder: Ladder) -> tuple[bool, str]:
    """Whether the task is gone, and how that is known."""
    row = Task.objects.filter(uuid=ladder.uuid).only("state", "marks").first()
    if row is not None and _ended_itself(row, ladder.since):
        return True, f"It ended: {row.state}."
    if ladder.pid is not None and ladder.began is not None and not here.lives(ladder.pid, ladder.began):
        return True, f"Its process {ladder.pid} is gone."
    try:
        seen = seen_on([ladder.worker], LOOK_TIMEOUT).get(ladder.worker)
    except Unreachable as error:
        return False, str(error)
    if seen is None:
        return False, f"{ladder.worker} does not answer."
    if ladder.uuid in seen.tasks:
        return False, f"{ladder.worker} still lists it."
    if ladder.pid is None or seen.processes is None:
        if row is not None and row.state == REVOKED:
            return True, f"Gone from {ladder.worker}."
        return False, f"{ladder.worker} does not list it, and its end was not seen."
    if ladder.pid not in seen.processes:
        return True, f"Its process {ladder.pid} is gone."
    other = next((uuid for uuid, pid in seen.pids.items() if pid == ladder.pid), "")
    if other:
        return True, f"Its process {ladder.pid} has gone on to another task: {other}."
    return False, f"{ladder.worker} has forgotten it, and process {ladder.pid} lives."


def _ended_itself(row: Task, since: float) -> bool:
    kinds = [mark for mark in row.marks if mark and mark[0] in OWN_ENDS]
    if any(float(mark[5]) >= since for mark in kinds):
        return True
    return row.state in ENDED - {LOST, REVOKED}


def told(ladder: Ladder) -> dict[int, dict[str, Any]]:
    """The line of the log of each step that was begun."""
    return {int(line.get("step", number)): line for number, line in enumerate(ladder.log)}


def _tell_of_crash(ladder: Ladder) -> None:
    """A step that was begun by an engine that is gone: nobody wrote down what came of it."""
    missing = sorted(set(range(ladder.step)) - set(told(ladder)))
    if missing:
        text = "Umbel stopped at this step: it may have been sent, and is not sent again."
        ladder.log = [*ladder.log, *({"step": n, "at": None, "text": text, "record": ""} for n in missing)]
        ladder.save(update_fields=["log"])


def _left(ladder: Ladder) -> str:
    done, in_all = ladder.step, len(ladder.rungs)
    return f"{done} of {in_all} steps had been sent and stay so; no other is, and the task is left alone."


def _give_up(ladder: Ladder, why: str, gone: bool | None, now: float) -> None:
    """Umbel itself does no further step, and the audit log says why."""
    if _end(ladder, f"{why} Nothing more was sent.", gone, now):
        noted(Command(WITHDRAW, (ladder.uuid,), {"what": "steps"}), UMBEL, f"{why} {_left(ladder)}")


def _end(ladder: Ladder, outcome: str, gone: bool | None, now: float) -> bool:
    mine = Ladder.objects.filter(pk=ladder.pk, ended_at=None)
    if not mine.update(ended_at=now, outcome=outcome[:500], gone=gone):
        ladder.refresh_from_db()
        return False
    ladder.refresh_from_db()
    if gone is False:
        log.warning("no step ended a task", task=ladder.uuid, worker=ladder.worker)
    _announce(ladder)
    return True


def _announce(ladder: Ladder) -> None:
    from monitor.publish import announce  # the channel layer is for those that have one

    announce({"controls", f"task:{ladder.uuid}"})


def of(uuid: str) -> Sequence[Ladder]:
    """Of one task, the newest first."""
    return list(Ladder.objects.filter(uuid=uuid).order_by("-since")[:3])
