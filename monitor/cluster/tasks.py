"""The live tasks: marks and identity by uuid, who is dirty, who must be read back first, who may leave."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Any

from monitor.cluster.deliveries import INSPECTED, PHASE, WEAK
from monitor.cluster.derive import anchor, derive, unpacked
from monitor.cluster.limits import Limits
from monitor.cluster.plain import row_of
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
from monitor.cluster.tally import Tally
from monitor.events import TEXT_LIMIT, UUID_LIMIT, Received, Sent, Started, TaskEvent, clean
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

Key = tuple[str, str, int, int, float]
Told = tuple[str, int, float]  # hostname, pid, when it was asked

_BEGINS = frozenset({Sent, Received, Started})
ENDED_KNOWN = 20_000  # tasks that ended and left memory, whose uuids are still known
HOLD = 1.0  # seconds that what only began may wait for its end, if tasks of its name end within that
_LEARN = 0.05  # the weight of the last life in what is usual for its name


class Task:
    """What is known of one task while it is live.

    While its life is plain its events are kept as they came (``heard``); as soon as anything else happens
    they become ``marks`` and ``fields``, from which any life can be derived.
    """

    __slots__ = ("confirmed_at", "fields", "heard", "marks", "new", "pid", "row", "touched", "uuid")

    def __init__(self, uuid: str, now: float) -> None:
        self.uuid = uuid
        self.heard: list[TaskEvent] | None = None
        self.pid = 0  # of the worker process that received it, while it is plain
        self.marks: dict[Key, Mark] = {}
        self.fields: dict[str, tuple[Rank, Any]] = {}
        self.new: list[Mark] = []  # marks not yet counted in rates
        self.row: TaskRecord | None = None  # as last derived
        self.touched = now
        self.confirmed_at = 0.0  # last inspection that listed it

    def derive(self) -> TaskRecord:
        values = {field: value for field, (_, value) in self.fields.items()}
        day = self.row.day if self.row is not None else 0
        self.row = derive(TaskRecord(uuid=self.uuid, day=day, **values), self.marks.values())
        return self.row


class Tasks:
    """The table of live tasks.

    Events gather by task in ``heard``. Once a tick they are taken over (``cold`` says whose rows must be read
    first, ``absorb`` brings them), and ``drain`` gives the rows that changed.
    """

    def __init__(self, redactor: Redactor, limits: Limits) -> None:
        self._redactor = redactor
        self._limits = limits
        self.heard: dict[str, list[TaskEvent]] = {}  # since the last tick, by task
        self.waiting = 0  # events in ``heard`` and in ``_batch``
        self.live: dict[str, Task] = {}
        self.dirty: dict[str, None] = {}
        self.suspects: dict[str, float] = {}  # absent from an inspection -> when it was asked
        self.duplicates = (
            0  # events that were counted as applied and proved to be repeated; taken by the caller
        )
        self.keep = False  # while history cannot be read back, nothing may leave memory
        self._batch: dict[str, list[TaskEvent]] = {}  # taken over, not yet drained
        self._left: dict[str, list[TaskEvent]] = {}  # of those, what has to wait for the next tick
        self._more = False
        self._held: set[str] = set()  # of those that wait: looked for, and new
        self._usual: dict[str, float] = {}  # name -> seconds from the first event to the end, about
        self._cold: set[str] = set()
        self._asking: set[str] = set()  # whose rows are being looked for
        self._asked: set[str] = set()  # who is complete, or new
        self._leaving: deque[tuple[float, str]] = deque()
        self._ended: dict[str, str] = {}  # uuids of the last that ended and left, with their names
        # What was found of cold tasks, until their rows are there.
        self._promised: dict[str, tuple[Settled | Queued, float]] = {}
        self.by_process: dict[tuple[str, int], set[str]] = {}  # not ended, by worker process

    # events

    @property
    def room(self) -> int:
        """How many more tasks may be heard of until the next drain."""
        return 2 * self._limits.tasks - len(self.live) - len(self.heard) - len(self._batch)

    def has_row(self, uuid: str) -> bool:
        """Whether the task is in memory already, so that one more event of it needs no room."""
        return uuid in self.live or uuid in self._batch

    def name_of(self, uuid: str) -> str:
        """The name of a live task, or of one that ended of late; '' when it is not known."""
        task = self.live.get(uuid)
        if task is None:
            return self._ended.get(uuid) or self._heard_name(uuid)
        if task.row is not None and task.row.name:
            return task.row.name
        return self._heard_name(uuid)

    def add(self, task: Task, mark: Mark, now: float) -> None:
        self._open(task)
        task.marks[mark.key] = mark
        task.new.append(mark)
        task.touched = now
        self.dirty[task.uuid] = None
        if len(task.marks) > 2 * self._limits.marks:
            self._trim(task)

    def find_or_enter(self, uuid: str, now: float) -> Task:
        return self.live.get(uuid) or self._enter(uuid, now)

    # rows in and out

    def cold(self) -> list[str]:
        """Take over what was heard; whose rows have to be looked for in history before ``drain``."""
        batch, live = self._batch, self.live
        if batch:
            for uuid, events in self.heard.items():
                if (group := batch.get(uuid)) is not None:
                    group += events
                else:
                    batch[uuid] = events
        else:
            batch = self._batch = self.heard
        self.heard = {}
        held, self._held = self._held, set()
        unknown = [uuid for uuid in batch if uuid not in live and uuid not in held]
        self._asking = self._cold.union(unknown, held)
        return [*unknown, *self._cold]

    def absorb(self, records: Iterable[TaskRecord]) -> None:
        """Merge stored rows into the live tasks; whoever was asked for and is not among them is new."""
        self._asked, self._asking = self._asking, set()
        for record in records:
            task = self.live.get(record.uuid)
            if task is None:
                if record.uuid not in self._asked:
                    continue
                task = self._enter(record.uuid, record.seen_at)
            self._merge(task, record)
            if record.state in ENDED:
                self._leaving.append((0.0, record.uuid))
            else:
                self._index(task, record)
        self._cold -= self._asked
        for uuid in [uuid for uuid in self._promised if uuid not in self._cold]:
            found, now = self._promised.pop(uuid)
            if uuid in self.live:
                self.settle(found, now) if isinstance(found, Settled) else self.queued(found, now)

    def restore(self, records: Iterable[TaskRecord], now: float) -> None:
        for record in records:
            if record.uuid not in self.live:
                task = self._enter(record.uuid, now)
                self._merge(task, record)
                self._cold.discard(record.uuid)
                self._index(task, task.derive())

    def is_cold(self, uuid: str) -> bool:
        return uuid in self._cold

    @property
    def undrained(self) -> bool:
        """Whether ``drain`` left some of its work, as it may be told to."""
        return self._more

    def drain(
        self, now: float, tally: Tally, most: int | None = None, hold: bool = False
    ) -> list[TaskRecord]:
        """The row of every changed task that is not waiting to be read back; what is new in it is counted.

        ``most`` is how many tasks to look at; the next calls go on (while ``undrained``). With ``hold`` tasks
        that only began wait for their end up to ``HOLD`` seconds, where their name usually ends so soon: they
        would be over before anybody could read them, and are written once.
        """
        rows: list[TaskRecord] = []
        asked, cold, left, batch = self._asked, self._cold, self._left, self._batch
        redactor, live, plain = self._redactor, self.live, tally.plain
        held, since = self._held, now - HOLD
        looked = 0
        while batch:
            if looked == most:
                self._more = True
                return rows
            looked += 1
            uuid, events = batch.popitem()
            task = live.get(uuid)
            if uuid in cold or (task is None and uuid not in asked):
                left[uuid] = events
                continue
            if (
                hold
                and events[-1].__class__ in _BEGINS
                and events[0].seen_at > since
                and self._is_quick(task, events[0])
            ):
                left[uuid] = events
                if task is None:
                    held.add(uuid)
                continue
            self.waiting -= len(events)
            if task is None:
                row = row_of(uuid, events, redactor)
                if row is not None:
                    rows.append(row)
                    plain(row, events)
                    if row.state in ENDED and not self.keep:
                        self._ended[uuid] = row.name
                        self._learn(row)
                    else:
                        self._settle_in(uuid, row, events, now)
                    continue
                task = self._enter(uuid, now)
                cold.discard(uuid)
            elif (heard := task.heard) is not None:
                known = heard + events
                row = row_of(uuid, known, redactor, task.row)
                if row is not None and task.row is not None and uuid not in self.dirty:
                    row.day = task.row.day
                    rows.append(row)
                    plain(row, events)
                    task.heard, task.touched = known, now
                    self._replace(task, row, now)
                    continue
            self._file(task, events, now)
        self._batch, self._left = left, {}
        self._more, self._asked = False, set()
        for uuid in [uuid for uuid in self.dirty if uuid not in cold]:
            del self.dirty[uuid]
            rows.append(self._derived(live[uuid], now, tally))
        self._forget()
        return rows

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
        self._open(task)
        last = anchor(task.marks.values())
        place = (last.worker, last.pid, last.clock) if last else ("", 0, 0)
        self.add(task, Mark(kind, *place, now, now, detail), now)
        return True

    def settle(self, settled: Settled, now: float, create: bool = False) -> bool:
        """An end from the result backend; with ``create`` also of a task that is not in memory."""
        uuid = settled.uuid
        if settled.state not in ENDED or uuid in self._ended:
            return False
        task = self.live.get(uuid)
        if task is None and not create:
            return False
        if task is None or uuid in self._cold:
            # Its row, if there is one, has the first word.
            self.find_or_enter(uuid, now)
            self._promised[uuid] = (settled, now)
            return True
        self._open(task)
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

    def queued(self, found: Queued, now: float) -> bool:
        """A message found at the broker. False when more is known of its task already."""
        uuid = found.uuid
        if uuid in self._ended:
            return False
        task = self.find_or_enter(uuid, now)
        if uuid in self._cold:
            self._promised.setdefault(uuid, (found, now))
            return True
        task.confirmed_at = max(task.confirmed_at, now)
        row = task.row
        if row is not None and (row.marks or task.heard):
            waits = row.state in (PENDING, RETRY)
            is_back = found.where == "queue" and row.state in (RECEIVED, STARTED) and uuid in self.suspects
            if row.state in ENDED or (waits and row.known == "seen") or not (waits or is_back):
                return False
        self._open(task)
        self.suspects.pop(uuid, None)
        for field in ("name", "args", "kwargs", "queue", "eta", "expires", "root_id", "parent_id"):
            value = getattr(found, field)
            if value is not None and value != "" and field not in task.fields:
                task.fields[field] = (LEAST, value)
        kind = "queued" if found.where == "queue" else "unacknowledged"
        detail = {"queue": found.queue} if found.queue else None
        self.add(task, Mark(kind, found.sender, 0, 0, now, now, detail), now)
        return True

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
            is_due = task.row.seen_at < asked - 2.0 and uuid not in self.heard
            if is_due and (task.row.state == STARTED or whole):
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

    def _heard_name(self, uuid: str) -> str:
        for group in (self._batch.get(uuid), self.heard.get(uuid)):
            for event in group or ():
                if isinstance(event, Received | Sent) and event.name:
                    return event.name
        return ""

    def _settle_in(self, uuid: str, row: TaskRecord, events: list[TaskEvent], now: float) -> None:
        """A plain task that goes on, or that must stay, is live from here."""
        task = self.live[uuid] = Task(uuid, now)
        task.heard, task.row = events, row
        if row.state in ENDED:
            self._leaving.append((now + self._limits.finished_for, uuid))
        elif row.worker:
            task.pid = _pid(events)
            self.by_process.setdefault((row.worker, task.pid), set()).add(uuid)

    def _replace(self, task: Task, row: TaskRecord, now: float) -> None:
        """The next row of a plain task."""
        before, task.row = task.row, row
        uuid = task.uuid
        if row.state not in ENDED:
            if (before is None or not before.worker) and task.heard:
                task.pid = _pid(task.heard)
                self.by_process.setdefault((row.worker, task.pid), set()).add(uuid)
            return
        self.suspects.pop(uuid, None)
        place = (row.worker, task.pid)
        if (found := self.by_process.get(place)) is not None:
            found.discard(uuid)
            if not found:
                del self.by_process[place]
        if self.keep:
            self._leaving.append((now + self._limits.finished_for, uuid))
        else:
            del self.live[uuid]
            self._ended[uuid] = row.name
            self._learn(row)

    def _is_quick(self, task: Task | None, event: TaskEvent) -> bool:
        """Whether tasks of this name usually end within ``HOLD``; not of names that nobody knows yet."""
        name = event.name if isinstance(event, Received | Sent) else None
        if not name and task is not None and task.row is not None:
            name = task.row.name
        return self._usual.get(name or "", HOLD) < HOLD

    def _learn(self, row: TaskRecord) -> None:
        name, life = row.name, row.seen_at - row.first_seen_at
        usual = self._usual.get(name)
        if usual is not None:
            self._usual[name] = usual + (life - usual) * _LEARN
        elif len(self._usual) < self._limits.names:
            self._usual[name] = life

    def _file(self, task: Task, events: list[TaskEvent], now: float) -> None:
        """Events of a life that is not plain, one by one."""
        self._open(task)
        for event in events:
            kind = event.kind
            if not event.timestamp:
                self._limits.let_go["timestamps that were not usable"] += 1
            key = (kind, event.hostname, event.pid, event.clock, event.timestamp)
            if key in task.marks:
                self.duplicates += 1
                continue
            self.add(task, self._mark(event, key), now)
            if isinstance(event, Received | Sent):
                self._identify(task, task.marks[key], event)

    def _mark(self, event: TaskEvent, key: Key) -> Mark:
        return Mark(*key, event.seen_at, detail_of(event.kind, event, self._redactor))

    def _open(self, task: Task) -> None:
        """From here on the task is no plain one: its events become marks, which were counted before."""
        heard, task.heard = task.heard, None
        for event in heard or ():
            key = (event.kind, event.hostname, event.pid, event.clock, event.timestamp)
            mark = task.marks[key] = self._mark(event, key)
            if isinstance(event, Received | Sent):
                self._identify(task, mark, event)

    def _derived(self, task: Task, now: float, tally: Tally) -> TaskRecord:
        self._open(task)
        if len(task.marks) > self._limits.marks:
            self._trim(task)
        row = task.derive()
        self._index(task, row)
        if row.state in ENDED:
            self._leaving.append((now + self._limits.finished_for, task.uuid))
            self.suspects.pop(task.uuid, None)
        tally.count(row, task.new)
        task.new = []
        return row

    def _forget(self) -> None:
        excess = len(self._ended) - ENDED_KNOWN
        if excess > 0:
            for uuid in list(islice(self._ended, excess + ENDED_KNOWN // 10)):
                del self._ended[uuid]

    def _enter(self, uuid: str, now: float) -> Task:
        task = self.live[uuid] = Task(uuid, now)
        self._cold.add(uuid)
        return task

    def _leave(self, task: Task) -> None:
        del self.live[task.uuid]
        self.suspects.pop(task.uuid, None)
        self._unindex(task.uuid, task.row)
        if task.row is not None and task.row.state in ENDED:
            self._ended[task.uuid] = task.row.name

    def _evict_oldest(self, count: int) -> None:
        # Those that ended go first, then the ones that entered first.
        idle = [uuid for uuid in self.live if uuid not in self.dirty and uuid not in self._cold]
        ended = [uuid for uuid in idle if (row := self.live[uuid].row) is not None and row.state in ENDED]
        gone = dict.fromkeys([*ended[:count], *idle[:count]])
        for uuid in list(gone)[:count]:
            self._leave(self.live[uuid])
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

    def _merge(self, task: Task, record: TaskRecord) -> None:
        self._open(task)
        if task.row is None:
            task.row = record  # its day stays
        stored = unpacked(record)
        for mark in stored:
            mine = task.marks.get(mark.key)
            if mine is not None and mine in task.new:
                task.new = [new for new in task.new if new is not mine]
                self.duplicates += mark.kind not in WEAK | INSPECTED
            task.marks[mark.key] = mark
        for field, letter in LETTERS.items():
            value = getattr(record, field)
            if value is None or value == "":
                continue
            ranks = [rank_of(m) for m in stored if letter in (m.detail or {}).get("has", "")]
            self._offer(task, field, max(ranks, default=LEAST), value)

    def _identify(self, task: Task, mark: Mark, event: Received | Sent) -> None:
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
        if uuid in self._ended:
            return  # it ended while the answer was under way
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
        self._open(task)
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


def _pid(events: Iterable[TaskEvent]) -> int:
    """Of the worker process that received a plain task."""
    return next((event.pid for event in events if isinstance(event, Received)), 0)


def _is_dict(item: object) -> bool:
    return isinstance(item, dict)
