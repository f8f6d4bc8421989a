"""One live task: what was heard of it, and the row that this gives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from monitor.cluster.deliveries import INSPECTED, WEAK
from monitor.cluster.derive import derive, unpacked
from monitor.cluster.reading import LEAST, LETTERS, Rank, detail_of, fields_of, rank_of
from monitor.events import Received, Sent, TaskEvent
from monitor.records import Mark, TaskRecord
from monitor.redact import Redactor

Key = tuple[str, str, int, int, float]


class Task:
    """What is known of one task while it is live.

    While its life is told in order its events are kept as they came (``heard``); as soon as anything else
    happens they become ``marks`` and ``fields``, from which any life can be derived.
    """

    __slots__ = ("confirmed_at", "fields", "heard", "marks", "new", "pid", "row", "touched", "uuid")

    def __init__(self, uuid: str, now: float) -> None:
        self.uuid = uuid
        self.heard: list[TaskEvent] | None = None
        self.pid = 0  # of the worker process that received it last, while its events are kept
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

    def open(self, redactor: Redactor) -> None:
        """From here on the task is no plain one: its events become marks, which were counted before."""
        heard, self.heard = self.heard, None
        for event in heard or ():
            key = key_of(event)
            self.marks[key] = self._marked(event, key, redactor)

    def file(self, event: TaskEvent, redactor: Redactor) -> Mark | None:
        """The mark of one more event; None when it is known already."""
        key = key_of(event)
        return None if key in self.marks else self._marked(event, key, redactor)

    def add(self, mark: Mark, now: float) -> None:
        self.marks[mark.key] = mark
        self.new.append(mark)
        self.touched = now

    def merge(self, record: TaskRecord) -> int:
        """Take over a stored row; gives how many events were repeated, since that row knows them."""
        repeated = 0
        if self.row is None:
            self.row = record  # its day stays
        stored = unpacked(record)
        for mark in stored:
            mine = self.marks.get(mark.key)
            if mine is not None and mine in self.new:
                self.new = [new for new in self.new if new is not mine]
                repeated += mark.kind not in WEAK | INSPECTED
            self.marks[mark.key] = mark
        for field, letter in LETTERS.items():
            value = getattr(record, field)
            if value is None or value == "":
                continue
            ranks = [rank_of(m) for m in stored if letter in (m.detail or {}).get("has", "")]
            self._offer(field, max(ranks, default=LEAST), value)
        return repeated

    def trim(self, most: int) -> int:
        """Keep so many marks, the first and the last: how it began and how it stands. Gives how many went."""
        ordered = sorted(self.marks.values(), key=lambda m: (m.at or m.seen_at, m.key))
        kept = ordered[: most // 2] + ordered[-(most // 2) :]
        self.marks = {mark.key: mark for mark in kept}
        return len(ordered) - len(kept)

    # private

    def _marked(self, event: TaskEvent, key: Key, redactor: Redactor) -> Mark:
        mark = Mark(*key, event.seen_at, detail_of(event.kind, event, redactor))
        if isinstance(event, Received | Sent):
            fields, rank = fields_of(event.kind, event, redactor), rank_of(mark)
            for field, value in fields.items():
                self._offer(field, rank, value)
            if mark.detail is not None:
                mark.detail["has"] = "".join([LETTERS[field] for field in fields])
        return mark

    def _offer(self, field: str, rank: Rank, value: Any) -> None:
        held = self.fields.get(field)
        if held is None or rank > held[0] or (rank == held[0] and str(value) > str(held[1])):
            self.fields[field] = (rank, value)


def key_of(event: TaskEvent) -> Key:
    """Two events of one key are the same event."""
    return (event.kind, event.hostname, event.pid, event.clock, event.timestamp)


def pid_of(events: Iterable[TaskEvent]) -> int:
    """Of the worker process that received a task last, by its tries."""
    found = [
        (event.retries or 0, event.timestamp, event.pid) for event in events if isinstance(event, Received)
    ]
    return max(found)[2] if found else 0
