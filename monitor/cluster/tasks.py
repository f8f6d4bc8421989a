"""The live tasks: who is dirty, who must be read back first, who may leave."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Any

from monitor.cluster import tries
from monitor.cluster.deliveries import PHASE
from monitor.cluster.derive import anchor
from monitor.cluster.limits import Limits
from monitor.cluster.plain import row_of
from monitor.cluster.tally import Tally
from monitor.cluster.task import Task, pid_of
from monitor.cluster.twice import Doubles
from monitor.events import Received, Retried, Sent, Started, TaskEvent
from monitor.records import ENDED, Mark, TaskRecord
from monitor.redact import Redactor

# After these more is to come.
_GOES_ON = frozenset({Sent, Received, Started, Retried})
ENDED_KNOWN = 20_000  # tasks that ended and left memory, whose uuids are still known
HOLD = 1.0  # seconds that what only began may wait for its end, if tasks of its name end within that
_LEARN = 0.05  # the weight of the last life in what is usual for its name


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
        # Events that were counted as applied and proved to be repeated; taken by the caller.
        self.duplicates = 0
        self.doubles = Doubles()
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
        self.by_process: dict[tuple[str, int], set[str]] = {}  # not ended, by worker process

    # events

    @property
    def room(self) -> int:
        """How many more tasks may be heard of until the next drain."""
        return 2 * self._limits.tasks - len(self.live) - len(self.heard) - len(self._batch)

    def holds(self, uuid: str) -> bool:
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
        """One more mark: the row is to be derived anew."""
        task.open(self._redactor)
        task.add(mark, now)
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
            self.duplicates += task.merge(record)
            if record.state in ENDED:
                self._leaving.append((0.0, record.uuid))
            else:
                self._index(task, record)
        self._cold -= self._asked

    def restore(self, records: Iterable[TaskRecord], now: float) -> None:
        for record in records:
            if record.uuid not in self.live:
                task = self._enter(record.uuid, now)
                self.duplicates += task.merge(record)
                self._cold.discard(record.uuid)
                self._index(task, task.derive())

    def is_cold(self, uuid: str) -> bool:
        """Whether its row has not been looked for yet."""
        return uuid in self._cold

    def has_ended(self, uuid: str) -> bool:
        """Whether it ended of late, and left memory."""
        return uuid in self._ended

    def is_waiting(self, uuid: str) -> bool:
        """Whether something was heard of it that is not in its row yet."""
        return uuid in self.heard or uuid in self._batch

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
        live = self.live
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
                and events[-1].__class__ in _GOES_ON
                and events[0].seen_at > since
                and self._is_quick(task, events[0])
            ):
                left[uuid] = events
                if task is None:
                    held.add(uuid)
                continue
            self.waiting -= len(events)
            if task is None:
                row, stays = self._row_of(uuid, events, now)
                if row is not None:
                    rows.append(row)
                    tally.events(row, events)
                    if row.state in ENDED and not stays:
                        self._ended[uuid] = row.name
                        self._learn(row)
                    else:
                        self._settle_in(uuid, row, events, now)
                    continue
                task = self._enter(uuid, now)
                cold.discard(uuid)
            elif (heard := task.heard) is not None:
                known = heard + events
                row, stays = self._row_of(uuid, known, now, task.row)
                if row is not None and task.row is not None and uuid not in self.dirty:
                    row.day = task.row.day
                    rows.append(row)
                    tally.events(row, events)
                    task.heard, task.touched = known, now
                    self._replace(task, row, now, stays)
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
        task.open(self._redactor)
        last = anchor(task.marks.values())
        place = (last.worker, last.pid, last.clock) if last else ("", 0, 0)
        self.add(task, Mark(kind, *place, now, now, detail), now)
        return True

    # private, in the order of use

    def _trim(self, task: Task) -> None:
        self._limits.let_go["marks of one task"] += task.trim(self._limits.marks)

    def _heard_name(self, uuid: str) -> str:
        for group in (self._batch.get(uuid), self.heard.get(uuid)):
            for event in group or ():
                if isinstance(event, Received | Sent) and event.name:
                    return event.name
        return ""

    def _row_of(
        self, uuid: str, events: list[TaskEvent], now: float, before: TaskRecord | None = None
    ) -> tuple[TaskRecord | None, bool]:
        """By a straight way, if there is one; and whether it stays: one with a past does, for late events."""
        row = row_of(uuid, events, self._redactor, before)
        if row is not None:
            return row, self.keep
        row = tries.row_of(uuid, events, self._redactor)
        if row is not None:
            self.doubles.note(row, now)
        return row, True

    def _settle_in(self, uuid: str, row: TaskRecord, events: list[TaskEvent], now: float) -> None:
        """A task told in order that goes on, or that must stay, is live from here."""
        task = self.live[uuid] = Task(uuid, now)
        task.heard, task.row = events, row
        if row.state in ENDED:
            self._leaving.append((now + self._limits.finished_for, uuid))
        elif row.worker:
            task.pid = pid_of(events)
            self.by_process.setdefault((row.worker, task.pid), set()).add(uuid)

    def _replace(self, task: Task, row: TaskRecord, now: float, stays: bool) -> None:
        """The next row of such a task."""
        before, task.row = task.row, row
        uuid = task.uuid
        if row.state not in ENDED:
            if before is None or before.worker != row.worker or len(row.attempts) > 1:
                self._move(task, before, row)
            return
        self.suspects.pop(uuid, None)
        if before is not None:
            self._take_from(before.worker, task)
        if stays:
            self._leaving.append((now + self._limits.finished_for, uuid))
        else:
            del self.live[uuid]
            self._ended[uuid] = row.name
            self._learn(row)

    def _move(self, task: Task, before: TaskRecord | None, row: TaskRecord) -> None:
        """It is another worker process's now."""
        if before is not None:
            self._take_from(before.worker, task)
        task.pid = pid_of(task.heard or ())
        if row.worker:
            self.by_process.setdefault((row.worker, task.pid), set()).add(task.uuid)

    def _take_from(self, worker: str, task: Task) -> None:
        place = (worker, task.pid)
        if (found := self.by_process.get(place)) is not None:
            found.discard(task.uuid)
            if not found:
                del self.by_process[place]

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
        """Events of a life that is not told in order, one by one."""
        task.open(self._redactor)
        for event in events:
            if not event.timestamp:
                self._limits.let_go["timestamps that were not usable"] += 1
            mark = task.file(event, self._redactor)
            if mark is None:
                self.duplicates += 1
            else:
                self.add(task, mark, now)

    def _derived(self, task: Task, now: float, tally: Tally) -> TaskRecord:
        task.open(self._redactor)
        if len(task.marks) > self._limits.marks:
            self._trim(task)
        row = task.derive()
        self._index(task, row)
        if row.state in ENDED:
            self._leaving.append((now + self._limits.finished_for, task.uuid))
            self.suspects.pop(task.uuid, None)
        self.doubles.note(row, now)
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
