"""What others say of tasks: the result backend, the broker's queues, workers that are asked.

All of it is weaker than an event: it fills in what no event said, and gives way to any that comes.
"""

from __future__ import annotations

from typing import Any

from monitor.cluster.reading import EXCEPTION_LIMIT, LEAST, TRACEBACK_LIMIT, moment
from monitor.cluster.tasks import Tasks
from monitor.events import TEXT_LIMIT, UUID_LIMIT, clean
from monitor.records import (
    ENDED,
    PENDING,
    RECEIVED,
    RETRY,
    REVOKED,
    STARTED,
    Inspection,
    Mark,
    Queued,
    Settled,
    TaskRecord,
)
from monitor.redact import Redactor

Told = tuple[str, int, float]  # hostname, pid, when it was asked


class Hearsay:
    """Adds what is said to the live tasks; of a cold one it waits until its row is there."""

    def __init__(self, tasks: Tasks, redactor: Redactor) -> None:
        self._tasks, self._redactor = tasks, redactor
        self._promised: dict[str, tuple[Settled | Queued, float]] = {}

    def settle(self, settled: Settled, now: float, create: bool = False) -> bool:
        """An end from the result backend; with ``create`` also of a task that is not in memory."""
        tasks = self._tasks
        uuid = settled.uuid
        if settled.state not in ENDED or tasks.has_ended(uuid):
            return False
        task = tasks.live.get(uuid)
        if task is None and not create:
            return False
        if task is None or tasks.is_cold(uuid):
            # Its row, if there is one, has the first word.
            tasks.find_or_enter(uuid, now)
            self._promised[uuid] = (settled, now)
            return True
        task.open(self._redactor)
        if (task.row or task.derive()).state in ENDED and task.row and task.row.known == "seen":
            return False
        if (
            settled.state == REVOKED
            and task.row
            and task.row.state == STARTED
            and settled.uuid not in tasks.suspects
        ):
            # Celery writes REVOKED for whatever it was told to revoke: no proof for a running task.
            return False
        text = self._redactor.text
        detail: dict[str, Any] = {"state": settled.state}
        if settled.ended_at is not None:
            detail["ended"] = settled.ended_at
        if settled.note:
            detail["note"] = clean(settled.note)
        for field, limit in (
            ("result", TEXT_LIMIT),
            ("exception", EXCEPTION_LIMIT),
            ("traceback", TRACEBACK_LIMIT),
        ):
            if (raw := getattr(settled, field)) is not None:
                detail[field] = clean(text(raw), limit)
        for field in ("name", "args", "kwargs"):
            if (raw := getattr(settled, field)) and field not in task.fields:
                task.fields[field] = (LEAST, clean(raw) if field == "name" else clean(text(raw), TEXT_LIMIT))
        tasks.suspects.pop(settled.uuid, None)
        return tasks.infer(settled.uuid, "settled", detail, now)

    def queued(self, found: Queued, now: float) -> bool:
        """A message found at the broker. False when more is known of its task already."""
        tasks = self._tasks
        uuid = found.uuid
        if tasks.has_ended(uuid):
            return False
        task = tasks.find_or_enter(uuid, now)
        if tasks.is_cold(uuid):
            self._promised.setdefault(uuid, (found, now))
            return True
        task.confirmed_at = max(task.confirmed_at, now)
        row = task.row
        if row is not None and (row.marks or task.heard):
            waits = row.state in (PENDING, RETRY)
            is_back = found.where == "queue" and row.state in (RECEIVED, STARTED) and uuid in tasks.suspects
            if row.state in ENDED or (waits and row.known == "seen") or not (waits or is_back):
                return False
        task.open(self._redactor)
        tasks.suspects.pop(uuid, None)
        for field in ("name", "args", "kwargs", "queue", "eta", "expires", "root_id", "parent_id"):
            value = getattr(found, field)
            if value is not None and value != "" and field not in task.fields:
                task.fields[field] = (LEAST, value)
        kind = "queued" if found.where == "queue" else "unacknowledged"
        detail = {"queue": found.queue} if found.queue else None
        tasks.add(task, Mark(kind, found.sender, 0, 0, now, now, detail), now)
        return True

    def inspected(self, inspection: Inspection, pid: int, now: float) -> None:
        """Confirm, create or suspect rows by what a worker says it holds."""
        tasks = self._tasks
        host, asked = inspection.hostname, inspection.asked_at
        listed: set[str] = set()
        for kind in ("active", "reserved", "scheduled"):
            for item in filter(_is_dict, getattr(inspection, kind) or ()):
                request = item.get("request") if kind == "scheduled" else item
                if isinstance(request, dict) and isinstance(uuid := request.get("id"), str) and uuid:
                    uuid = clean(uuid, UUID_LIMIT)
                    listed.add(uuid)
                    self._confirm(kind, uuid, item, (host, pid, asked), now)
        whole = inspection.reserved is not None and inspection.scheduled is not None
        if inspection.active is None:
            return
        for uuid in [u for (h, _), found in tasks.by_process.items() if h == host for u in found]:
            if uuid in listed or (task := tasks.live.get(uuid)) is None or task.row is None:
                continue
            is_due = task.row.seen_at < asked - 2.0 and not tasks.is_waiting(uuid)
            if is_due and (task.row.state == STARTED or whole):
                tasks.suspects.setdefault(uuid, asked)

    def unfinished(self, older_than: float) -> list[TaskRecord]:
        """Rows whose end may have been missed, oldest first: suspects at once, the waiting after a while."""
        tasks = self._tasks
        found = []
        for uuid, task in tasks.live.items():
            row = task.row
            if row is None or row.state in ENDED or tasks.is_cold(uuid):
                continue
            if uuid in tasks.suspects or max(row.seen_at, task.confirmed_at) < older_than:
                found.append(row)
        return found

    def keep_promises(self) -> None:
        """Add what waited for rows that are there now. Call it after rows were absorbed."""
        tasks = self._tasks
        for uuid in [uuid for uuid in self._promised if not tasks.is_cold(uuid)]:
            found, now = self._promised.pop(uuid)
            if uuid in tasks.live:
                self.settle(found, now) if isinstance(found, Settled) else self.queued(found, now)

    # private

    def _confirm(self, kind: str, uuid: str, item: dict[str, Any], told: Told, now: float) -> None:
        tasks = self._tasks
        host, pid, asked = told
        request = item["request"] if kind == "scheduled" else item
        if tasks.has_ended(uuid):
            return  # it ended while the answer was under way
        task = tasks.find_or_enter(uuid, now)
        task.confirmed_at = max(task.confirmed_at, asked)
        tasks.suspects.pop(uuid, None)
        row = task.row
        if row is not None and not tasks.is_cold(uuid):
            known = {"active": ("STARTED",), "reserved": ("RECEIVED", "STARTED")}.get(
                kind, ("RECEIVED", "STARTED")
            )
            if row.state in known and row.worker == host:
                return
            if row.state in ENDED and row.known == "seen":
                return
        task.open(self._redactor)
        detail: dict[str, Any] = {}
        started = request.get("time_start")
        if kind == "active" and isinstance(started, int | float) and not isinstance(started, bool):
            detail["started"] = float(started)
        if kind == "scheduled" and (eta := moment(item.get("eta"))) is not None:
            detail["eta"] = eta
        text = self._redactor.text
        for field in ("name", "args", "kwargs"):
            raw = request.get(field)
            if raw is not None and field not in task.fields:
                shown = raw if isinstance(raw, str) else repr(self._redactor.value(raw))
                shown = clean(shown) if field == "name" else clean(text(shown), TEXT_LIMIT)
                task.fields[field] = (LEAST, shown)
        if "eta" in detail and "eta" not in task.fields:
            task.fields["eta"] = (LEAST, detail["eta"])
        tasks.add(task, Mark(kind, host, pid, 0, asked, now, detail or None), now)


def _is_dict(item: object) -> bool:
    return isinstance(item, dict)
