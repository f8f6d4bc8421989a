"""The live tasks: marks and identity by uuid, who is dirty, who must be read back first, who may leave."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from monitor.cluster.deliveries import INSPECTED, PHASE, WEAK
from monitor.cluster.derive import anchor, derive, unpacked
from monitor.cluster.limits import Limits
from monitor.cluster.reading import (
    EXCEPTION_LIMIT,
    LEAST,
    LETTERS,
    TRACEBACK_LIMIT,
    Rank,
    detail_of,
    fields_of,
    moment,
    rank_of,
)
from monitor.events import TEXT_LIMIT, UUID_LIMIT, Event, clean
from monitor.records import ENDED, REVOKED, STARTED, Inspection, Mark, Settled, TaskRecord
from monitor.redact import Redactor

Key = tuple[str, str, int, int, float]
Told = tuple[str, int, float]  # hostname, pid, when it was asked


class Task:
    """What is known of one task while it is live."""

    __slots__ = ("confirmed_at", "fields", "marks", "new", "row", "touched", "uuid")

    def __init__(self, uuid: str, now: float) -> None:
        self.uuid = uuid
        self.marks: dict[Key, Mark] = {}
        self.fields: dict[str, tuple[Rank, Any]] = {}
        self.new: list[Mark] = []  # marks not yet counted in rates
        self.row: TaskRecord | None = None  # as last derived
        self.touched = now
        self.confirmed_at = 0.0  # last inspection that listed it

    def derive(self) -> TaskRecord:
        values = {field: value for field, (_, value) in self.fields.items()}
        self.row = derive(TaskRecord(uuid=self.uuid, **values), self.marks.values())
        return self.row


class Tasks:
    """The table of live tasks."""

    def __init__(self, redactor: Redactor, limits: Limits) -> None:
        self._redactor = redactor
        self._limits = limits
        self.live: dict[str, Task] = {}
        self.dirty: dict[str, None] = {}
        self.suspects: dict[str, float] = {}  # absent from an inspection -> when it was asked
        self._cold: set[str] = set()
        self._asked: set[str] = set()
        self._leaving: deque[tuple[float, str]] = deque()
        self.by_process: dict[tuple[str, int], set[str]] = {}  # running, by worker process

    # events

    def apply(self, event: Event, kind: str, now: float) -> bool | None:
        """True when the event was new, False for a duplicate, None when there was no room for its task."""
        at = event.timestamp
        key = (kind, event.hostname, event.pid, event.clock, at)
        task = self.live.get(event.uuid)
        if task is None:
            if len(self.live) >= 2 * self._limits.tasks:
                return None
            task = self._enter(event.uuid, now)
        elif key in task.marks:
            return False
        mark = Mark(
            kind, event.hostname, event.pid, event.clock, at, now, detail_of(kind, event, self._redactor)
        )
        if kind in ("sent", "received"):
            self._identify(task, mark, event)
        self.add(task, mark, now)
        return True

    def add(self, task: Task, mark: Mark, now: float) -> None:
        task.marks[mark.key] = mark
        task.new.append(mark)
        task.touched = now
        self.dirty[task.uuid] = None
        if len(task.marks) > 2 * self._limits.marks:
            self._trim(task)

    def find_or_enter(self, uuid: str, now: float) -> Task:
        return self.live.get(uuid) or self._enter(uuid, now)

    def name_of(self, uuid: str) -> str:
        """The task name, '' when it is not known here."""
        task = self.live.get(uuid)
        held = task.fields.get("name") if task is not None else None
        return held[1] if held is not None else ""

    # rows in and out

    def cold(self) -> list[str]:
        self._asked = set(self._cold)
        return list(self._cold)

    def absorb(self, records: Iterable[TaskRecord]) -> int:
        """Merge stored rows into the live tasks; gives how many applied events prove to be duplicates."""
        duplicates = 0
        for record in records:
            task = self.live.get(record.uuid)
            if task is not None:
                duplicates += self._merge(task, record)
        self._cold -= self._asked
        self._asked = set()
        return duplicates

    def restore(self, records: Iterable[TaskRecord], now: float) -> None:
        for record in records:
            if record.uuid not in self.live:
                task = self._enter(record.uuid, now)
                self._merge(task, record)
                self._cold.discard(record.uuid)
                self._index(task, task.derive())

    def is_cold(self, uuid: str) -> bool:
        return uuid in self._cold

    def drain(self, now: float) -> list[tuple[Task, TaskRecord, list[Mark]]]:
        """Every changed task that is not waiting to be read back: the row and the marks to count."""
        ready = [uuid for uuid in self.dirty if uuid not in self._cold]
        drained = []
        for uuid in ready:
            del self.dirty[uuid]
            task = self.live[uuid]
            if len(task.marks) > self._limits.marks:
                self._trim(task)
            row = task.derive()
            self._index(task, row)
            if row.state in ENDED:
                self._leaving.append((now + self._limits.finished_for, uuid))
                self.suspects.pop(uuid, None)
            drained.append((task, row, task.new))
            task.new = []
        return drained

    def evict(self, now: float) -> None:
        """Let finished tasks go after their time, and the oldest of all above the limit."""
        while self._leaving and self._leaving[0][0] <= now:
            _, uuid = self._leaving.popleft()
            task = self.live.get(uuid)
            if task is None or uuid in self.dirty or uuid in self._cold or task.row is None:
                continue
            if task.row.state in ENDED and task.touched <= now - self._limits.finished_for:
                self._leave(task)
        over = len(self.live) - self._limits.tasks
        if over > 0:
            self._evict_oldest(over + self._limits.tasks // 20)

    # inferred

    def infer(self, uuid: str, kind: str, detail: dict[str, Any], now: float) -> bool:
        """Add a weak mark, tied to the last thing known of the task."""
        task = self.live.get(uuid)
        if task is None:
            return False
        last = anchor(task.marks.values())
        place = (last.worker, last.pid, last.clock) if last else ("", 0, 0)
        self.add(task, Mark(kind, *place, now, now, detail), now)
        return True

    def settle(self, settled: Settled, now: float) -> bool:
        if (task := self.live.get(settled.uuid)) is None or settled.state not in ENDED:
            return False
        if (task.row or task.derive()).state in ENDED and task.row and task.row.known == "seen":
            return False
        if (
            settled.state == REVOKED
            and task.row
            and task.row.state == STARTED
            and settled.uuid not in self.suspects
        ):
            return (
                False  # Celery writes REVOKED for whatever it was told to revoke: no proof for a running task
            )
        text = self._redactor.text
        detail: dict[str, Any] = {"state": settled.state}
        if settled.ended_at is not None:
            detail["ended"] = settled.ended_at
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
        self.suspects.pop(settled.uuid, None)
        return self.infer(settled.uuid, "settled", detail, now)

    def inspected(self, inspection: Inspection, pid: int, now: float) -> None:
        """Confirm, create or suspect rows by what a worker says it holds."""
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
        for uuid in [u for (h, _), found in self.by_process.items() if h == host for u in found]:
            if uuid in listed or (task := self.live.get(uuid)) is None or task.row is None:
                continue
            if task.row.state == STARTED or whole:
                since = max((m.seen_at for m in task.marks.values()), default=now)
                if since < asked - 2.0:
                    self.suspects.setdefault(uuid, asked)

    def unfinished(self, older_than: float) -> list[TaskRecord]:
        """Rows whose end may have been missed, oldest first: suspects at once, the waiting after a while."""
        found = []
        for uuid, task in self.live.items():
            row = task.row
            if row is None or row.state in ENDED or uuid in self._cold:
                continue
            if uuid in self.suspects or max(row.seen_at, task.confirmed_at) < older_than:
                found.append(row)
        return found

    # private, in the order of use

    def _enter(self, uuid: str, now: float) -> Task:
        task = self.live[uuid] = Task(uuid, now)
        self._cold.add(uuid)
        return task

    def _leave(self, task: Task) -> None:
        del self.live[task.uuid]
        self.suspects.pop(task.uuid, None)
        self._unindex(task.uuid, task.row)

    def _evict_oldest(self, count: int) -> None:
        idle = [
            task for task in self.live.values() if task.uuid not in self.dirty and not self.is_cold(task.uuid)
        ]
        idle.sort(key=lambda task: (task.row is None or task.row.state not in ENDED, task.touched))
        for task in idle[:count]:
            self._leave(task)
        self._limits.let_go["live tasks"] += min(count, len(idle))

    def _index(self, task: Task, row: TaskRecord) -> None:
        # Where a task runs or waits, so that a dead process or an inspection finds its own.
        for mark in task.marks.values():
            if mark.kind in PHASE:
                place = (mark.worker, mark.pid)
                if row.state not in ENDED and mark.worker == row.worker:
                    self.by_process.setdefault(place, set()).add(task.uuid)
                elif (found := self.by_process.get(place)) is not None:
                    found.discard(task.uuid)
                    if not found:
                        del self.by_process[place]

    def _unindex(self, uuid: str, row: TaskRecord | None) -> None:
        if row is None or row.state in ENDED:
            return
        for place in [place for place, found in self.by_process.items() if uuid in found]:
            self.by_process[place].discard(uuid)

    def _merge(self, task: Task, record: TaskRecord) -> int:
        duplicates = 0
        stored = unpacked(record)
        for mark in stored:
            mine = task.marks.get(mark.key)
            if mine is not None and mine in task.new:
                task.new = [new for new in task.new if new is not mine]
                duplicates += mark.kind not in WEAK | INSPECTED
            task.marks[mark.key] = mark
        for field, letter in LETTERS.items():
            value = getattr(record, field)
            if value is None or value == "":
                continue
            ranks = [rank_of(m) for m in stored if letter in (m.detail or {}).get("has", "")]
            self._offer(task, field, max(ranks, default=LEAST), value)
        return duplicates

    def _identify(self, task: Task, mark: Mark, event: Event) -> None:
        fields = fields_of(mark.kind, event, self._redactor)
        rank = rank_of(mark)
        for field, value in fields.items():
            self._offer(task, field, rank, value)
        if mark.detail is not None:
            mark.detail["has"] = "".join([LETTERS[field] for field in fields])

    def _offer(self, task: Task, field: str, rank: Rank, value: Any) -> None:
        held = task.fields.get(field)
        if held is None or rank > held[0] or (rank == held[0] and str(value) > str(held[1])):
            task.fields[field] = (rank, value)

    def _confirm(self, kind: str, uuid: str, item: dict[str, Any], told: Told, now: float) -> None:
        host, pid, asked = told
        request = item["request"] if kind == "scheduled" else item
        task = self.find_or_enter(uuid, now)
        task.confirmed_at = max(task.confirmed_at, asked)
        self.suspects.pop(uuid, None)
        row = task.row
        if row is not None and not self.is_cold(uuid):
            known = {"active": ("STARTED",), "reserved": ("RECEIVED", "STARTED")}.get(
                kind, ("RECEIVED", "STARTED")
            )
            if row.state in known and row.worker == host:
                return
            if row.state in ENDED and row.known == "seen":
                return
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
        self.add(task, Mark(kind, host, pid, 0, asked, now, detail or None), now)

    def _trim(self, task: Task) -> None:
        # First and last are kept: how it began and how it stands.
        ordered = sorted(task.marks.values(), key=lambda m: (m.at or m.seen_at, m.key))
        keep = self._limits.marks // 2
        kept = ordered[:keep] + ordered[-keep:]
        self._limits.let_go["marks of one task"] += len(ordered) - len(kept)
        task.marks = {mark.key: mark for mark in kept}


def _is_dict(item: object) -> bool:
    return isinstance(item, dict)
