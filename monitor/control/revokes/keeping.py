"""Revokes that hold: sent again to each worker that comes back, and before workers forget them.

A worker keeps revokes in memory: without ``--statedb`` a restart loses them, and with it they last three
hours. What was revoked is written down with the command, and stands until the task has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import structlog
from django.db import DatabaseError, connections
from django.db.models import QuerySet

from monitor.control.commands import (
    MOST_IDS,
    REVOKE,
    TERMINATE,
    UMBEL,
    Actor,
    Barred,
    Command,
    Perform,
    Refused,
    nobody_barred,
)
from monitor.control.performing import refuse
from monitor.control.revokes.stopping import SEEN
from monitor.models import ControlRecord, StandingRevoke, Task, Worker
from monitor.records import ENDED, LOST, REVOKED, STARTED

# Seconds after which all workers are told again: they forget after 10,800 (CELERY_WORKER_REVOKE_EXPIRES).
AGAIN_AFTER = 2 * 3600.0
# Seconds that a revoke stands at most: who holds a task for longer?
LONGEST = 30 * 86_400.0
# Seconds until a worker that did not take it is told again: at first it may not listen yet.
RETRY_FIRST, RETRY_MOST = 1.0, 60.0
# A task whose start was on its way when the revoke was sent did not break it.
ON_ITS_WAY = 2.0
MOST = 50_000  # revokes that a worker remembers
MOST_ENDS = 20  # tasks terminated in one look
REMEMBERED = 10  # times that one was sent again, of each

log = structlog.get_logger(__name__)
Start = tuple[int | None, float | None]  # pid, and online since; another start has forgotten all


@dataclass(slots=True)
class _Told:
    """What one start of a worker has been told."""

    start: Start
    records: dict[object, float] = field(default_factory=dict)  # whose tasks, and when
    retry_at: float = 0.0
    pause: float = RETRY_FIRST


@dataclass(frozen=True, slots=True)
class _Standing:
    """The tasks of one record that may yet run."""

    record: object
    answered_at: float
    took: frozenset[str]  # workers that answered the command itself
    uuids: list[str]


@dataclass(slots=True)
class Keeper:
    """Keeps the standing revokes; ``look`` runs in a thread of the engine that leads."""

    perform: Perform
    clock: Callable[[], float] = time.time
    barred: Barred = nobody_barred
    _told: dict[str, _Told] = field(default_factory=dict)
    _began: float = 0.0
    _full: bool = False

    def look(self) -> int:
        """One look: what is moot, what was started all the same, who must be told again. How many stand."""
        try:
            return self._look(self.clock())
        except DatabaseError:
            connections.close_all()
            raise

    def _look(self, now: float) -> int:
        self._began = self._began or now
        uuids = list(_open().values_list("uuid", flat=True)[:MOST])
        if self._full != (len(uuids) == MOST):
            self._full = not self._full
            if self._full:
                log.warning("so many revokes stand that younger ones are not sent again", most=MOST)
        if not uuids:
            return 0
        waiting = self._settle(uuids, now)
        standing = _by_record(waiting)
        workers = Worker.objects.filter(status="online", is_beat=False)
        for hostname, pid, online_at in workers.values_list("hostname", "pid", "online_at"):
            self._tell(hostname, (pid, online_at), standing, now)
        return len(waiting)

    def _settle(self, uuids: Sequence[str], now: float) -> set[str]:
        """Ended ones are moot; started ones are marked, for the alarm. Those that still wait are answered."""
        waiting: set[str] = set()
        over: list[str] = []
        for part in _parts(uuids):
            for uuid, state, started_at, known in Task.objects.filter(uuid__in=part).values_list(
                "uuid", "state", "started_at", "known"
            ):
                if state == REVOKED and known != SEEN:
                    # Workers write that result as soon as they are told: one that restarts runs it still.
                    waiting.add(uuid)
                elif state in ENDED and state != LOST:
                    over.append(uuid)
                elif state != STARTED:
                    waiting.add(uuid)
                elif started_at is not None:
                    broken = StandingRevoke.objects.filter(
                        uuid=uuid, started_at=None, since__lt=started_at - ON_ITS_WAY
                    )
                    if broken.update(started_at=started_at):
                        log.warning("a revoked task was started all the same", task=uuid)
        self._end_started(now)
        for part in _parts(over):
            ended = StandingRevoke.objects.filter(uuid__in=part, moot_at=None)
            asked = set(ended.values_list("record_id", flat=True))
            ended.update(moot_at=now)
            _tell_of(asked)
        _open().filter(since__lt=now - LONGEST).update(moot_at=now)
        return waiting

    def _end_started(self, now: float) -> None:
        """Terminate what was started all the same, where that was asked for at the revoke; once each."""
        asked = _open().filter(ended_at=None, started_at__isnull=False).exclude(if_started="")
        for one in asked.select_related("record")[:MOST_ENDS]:
            # Written first: a crash in between ends nothing twice.
            if not StandingRevoke.objects.filter(pk=one.pk, ended_at=None).update(ended_at=now):
                continue
            who = one.record.username or "someone"
            reason = f"Revoked by {who}, and started all the same; {who} asked to have it terminated then."
            command = Command(TERMINATE, (one.uuid,), {"signal": one.if_started}, reason=reason)
            asked_by = Actor(one.record.user_id, one.record.username, one.record.role)
            try:
                if why := self.barred(asked_by, command):
                    refuse(command, UMBEL, f"{why} Nothing was sent.")
                    continue
                self.perform(command, UMBEL)
            except Refused as refusal:
                log.warning("a revoked task that was started could not be terminated", reason=str(refusal))
            _tell_of([one.record_id])

    def _tell(self, hostname: str, start: Start, standing: Sequence[_Standing], now: float) -> None:
        told = self._told.get(hostname)
        if told is None or told.start != start:
            told = self._told[hostname] = _Told(start)
        if now < told.retry_at:
            return
        wanted: list[str] = []
        for one in standing:
            if hostname in one.took and one.answered_at >= self._since(start):
                told.records.setdefault(one.record, one.answered_at)
            if now - told.records.get(one.record, 0.0) > AGAIN_AFTER:
                wanted += one.uuids
        for part in _parts(wanted):
            if not self._send(hostname, part, now):
                told.retry_at, told.pause = now + told.pause, min(told.pause * 2, RETRY_MOST)
                return
        told.pause = RETRY_FIRST
        for one in standing:
            if now - told.records.get(one.record, 0.0) > AGAIN_AFTER:
                told.records[one.record] = now

    def _since(self, start: Start) -> float:
        """From when on it surely keeps what it took: before we were there it may have restarted unseen."""
        return max(self._began, start[1] or 0.0)

    def _send(self, hostname: str, uuids: Sequence[str], now: float) -> bool:
        """Whether the worker took it."""
        reason = f"Sent again: {hostname} may have forgotten it."
        try:
            record = self.perform(
                Command(REVOKE, tuple(uuids), destinations=(hostname,), reason=reason), UMBEL
            )
        except Refused as refusal:
            log.info("a revoke could not be sent again", worker=hostname, reason=str(refusal))
            return False
        if not any(reply.get("outcome") == "ok" for reply in record.replies):
            return False
        asked: set[object] = set()
        for part in _parts(uuids):
            for one in StandingRevoke.objects.filter(uuid__in=part):
                one.again = [*one.again, [hostname, now]][-REMEMBERED:]
                one.save(update_fields=["again"])
                asked.add(one.record_id)
        _tell_of(asked)
        return True


def _tell_of(records: Iterable[object]) -> None:
    from monitor.publish import announce  # the channel layer is for those that have one

    announce({f"control:{record}" for record in records})


def _open() -> QuerySet[StandingRevoke]:
    return StandingRevoke.objects.filter(moot_at=None).order_by("since")


def beyond(record: UUID) -> int:
    """How many of a command's standing revokes are not sent again, as ``MOST`` others stood before."""
    mine = _open().filter(record=record)
    one = mine.first()
    if one is None:
        return 0
    before = _open().filter(since__lt=one.since).count()
    return max(0, mine.count() - max(0, MOST - before))


def _by_record(waiting: set[str]) -> list[_Standing]:
    """By the command that asked for it. One that is not answered yet is still being sent."""
    uuids: dict[object, list[str]] = {}
    for uuid, record in _open().values_list("uuid", "record_id")[:MOST]:
        if uuid in waiting:
            uuids.setdefault(record, []).append(uuid)
    found = []
    for asked in ControlRecord.objects.filter(pk__in=list(uuids), answered_at__isnull=False):
        took = frozenset(reply["worker"] for reply in asked.replies if reply.get("outcome") == "ok")
        found.append(_Standing(asked.pk, asked.answered_at or 0.0, took, uuids[asked.pk]))
    return found


def _parts(uuids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (uuids[at : at + MOST_IDS] for at in range(0, len(uuids), MOST_IDS))
