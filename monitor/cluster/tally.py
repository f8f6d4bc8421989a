"""Counts to add to history: what happened when and how long it took, by name, worker and queue."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

from monitor import rates
from monitor.cluster.counts import KINDS, Count
from monitor.cluster.limits import OTHER, Limits
from monitor.cluster.pairs import Pairs
from monitor.events import Succeeded, TaskEvent
from monitor.records import Mark, Rollup, TaskRecord, TaskType

ALL_WIDTH, MINUTE = 10, 60  # seconds
FINAL = frozenset({"succeeded", "failed", "revoked", "rejected"})
_PLACE = {kind: place for place, kind in enumerate(KINDS)}
Key = TypeVar("Key", bound=Hashable)
_SUCCEEDED, _FAILED = _PLACE["succeeded"], _PLACE["failed"]


class _Slice:
    """Ten seconds of counts: by (worker, name), and by queue."""

    __slots__ = ("pairs", "queues")

    def __init__(self) -> None:
        self.pairs: dict[tuple[str, str], Count] = {}
        self.queues: dict[str, Count] = {}


class Tally:
    """Increments since the last drain. Time is that of receipt: senders' clocks would smear the chart."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.pairs = Pairs(limits)
        self._slices: dict[int, _Slice] = {}
        self._current = _Slice()
        self._from, self._until = 0.0, 0.0

    def events(self, row: TaskRecord, events: Sequence[TaskEvent]) -> None:
        """Count the new events of a life that is told in order."""
        if len(row.attempts) > 1:
            self._tries(row, events)
        else:
            self.plain(row, events)

    def plain(self, row: TaskRecord, events: Sequence[TaskEvent]) -> None:
        """Count the new events of one try; they came within one tick."""
        at = row.seen_at
        if not self._from <= at < self._until:
            self._turn_to(at)
        here = self._current
        key = (row.worker, row.name)
        pair = here.pairs.get(key)
        if pair is None:
            pair = self._pair(here, key)
        queue = None
        if row.queue and (queue := here.queues.get(row.queue)) is None:
            queue = self._queue(here, row.queue)
        counts = pair.counts
        pair.last_at = at
        for event in events:
            kind = event.kind
            if kind == "sent":
                continue
            place = _PLACE[kind]
            counts[place] += 1
            if queue is not None:
                queue.counts[place] += 1
            if kind == "succeeded":
                self._add(pair, queue, "runtime", row.runtime)
            elif kind == "started":
                self._add(pair, queue, "wait", row.wait)

    def count(self, row: TaskRecord, marks: Sequence[Mark]) -> None:
        """Count marks that are new to the task. An end told twice (hard time limits do) counts once."""
        for mark in marks:
            kind = mark.kind
            place = _PLACE.get(kind)
            if place is None or (kind in FINAL and _is_told(mark, row.marks)):
                continue
            self._turn_to(mark.seen_at)
            here = self._current
            key = (mark.worker or row.worker, row.name)
            pair = here.pairs.get(key) or self._pair(here, key)
            queue = (here.queues.get(row.queue) or self._queue(here, row.queue)) if row.queue else None
            pair.counts[place] += 1
            pair.last_at = max(pair.last_at, mark.seen_at)
            if queue is not None:
                queue.counts[place] += 1
            if kind == "succeeded":
                runtime = (mark.detail or {}).get("runtime")
                self._add(pair, queue, "runtime", row.runtime if runtime is None else runtime)
            elif kind == "started" and len(row.attempts) == 1:
                self._add(pair, queue, "wait", row.wait)

    def shed(self, event: TaskEvent, at: float) -> None:
        """Count an event that is not kept."""
        if (place := _PLACE.get(event.kind)) is not None:
            self._turn_to(at)
            key = (event.hostname, "")
            pair = self._current.pairs.get(key) or self._pair(self._current, key)
            pair.counts[place] += 1
            pair.last_at = at

    def drain(self, now: float = 0.0) -> list[Rollup | TaskType]:
        """All that was counted, folded by task name, worker and queue."""
        slices, self._slices = self._slices, {}
        self._current, self._from, self._until = _Slice(), 0.0, 0.0
        drained: list[Rollup | TaskType] = []
        folded: dict[tuple[int, str, str, int], Count] = {}
        types: dict[str, Count] = {}
        for start, one in slices.items():
            minute = start // MINUTE * MINUTE
            workers: dict[str, Count] = {}
            names: dict[str, Count] = {}
            for (worker, name), count in one.pairs.items():
                self.pairs.add(worker, name, count, float(start))
                _fold(workers, worker, count)
                _fold(names, name, count)
            for worker, count in workers.items():
                _fold(folded, (ALL_WIDTH, "all", "", start), count)
                _fold(folded, (MINUTE, "all", "", minute), count)
                if worker:
                    _fold(folded, (MINUTE, "worker", worker, minute), count)
            for name, count in names.items():
                if name:
                    _fold(folded, (MINUTE, "name", name, minute), count)
                    _fold(types, name, count)
            for queue, count in one.queues.items():
                _fold(folded, (MINUTE, "queue", queue, minute), count)
        for (width, by, key, start), count in folded.items():
            rollup = Rollup(width, by, key, start, *count.counts)  # type: ignore[arg-type]
            if width != ALL_WIDTH:
                rollup.runtime, rollup.wait = count.runtime, count.wait
            drained.append(rollup)
        for name, count in types.items():
            drained.append(
                TaskType(
                    name,
                    count.counts[_SUCCEEDED],
                    count.counts[_FAILED],
                    count.last_at,
                    count.last_at,
                    count.runtime,
                )
            )
        drained += self.pairs.drain(now)
        return drained

    # private

    def _tries(self, row: TaskRecord, events: Sequence[TaskEvent]) -> None:
        for event in events:
            place = _PLACE.get(event.kind)
            if place is None:
                continue
            self._turn_to(event.seen_at)
            here = self._current
            key = (event.hostname, row.name)
            pair = here.pairs.get(key) or self._pair(here, key)
            pair.counts[place] += 1
            pair.last_at = max(pair.last_at, event.seen_at)
            queue = (here.queues.get(row.queue) or self._queue(here, row.queue)) if row.queue else None
            if queue is not None:
                queue.counts[place] += 1
            if isinstance(event, Succeeded):
                self._add(pair, queue, "runtime", row.runtime if event.runtime is None else event.runtime)

    def _turn_to(self, at: float) -> None:
        if self._from <= at < self._until:
            return
        start = int(at // ALL_WIDTH) * ALL_WIDTH
        self._current = self._slices.setdefault(start, _Slice())
        self._from, self._until = float(start), float(start + ALL_WIDTH)

    def _pair(self, here: _Slice, key: tuple[str, str]) -> Count:
        """A new count; past the limit of names or workers those of all others are one."""
        worker, name = key
        if len(here.pairs) >= self._limits.names and (worker, name) not in here.pairs:
            self._limits.let_go["task names"] += 1
            key = (OTHER if worker else "", OTHER if name else "")
        return here.pairs.setdefault(key, Count())

    def _queue(self, here: _Slice, queue: str) -> Count:
        if len(here.queues) >= self._limits.names:
            self._limits.let_go["queues"] += 1
            queue = OTHER
        return here.queues.setdefault(queue, Count())

    def _add(self, pair: Count, queue: Count | None, histogram: str, seconds: float | None) -> None:
        if seconds is None:
            return
        bucket = rates.bucket(seconds)
        held = pair.runtime if histogram == "runtime" else pair.wait
        held[bucket] = held.get(bucket, 0) + 1
        if queue is not None:
            held = queue.runtime if histogram == "runtime" else queue.wait
            held[bucket] = held.get(bucket, 0) + 1


def _fold(folded: dict[Key, Count], key: Key, count: Count) -> None:
    known = folded.get(key)
    if known is None:
        folded[key] = count.copy()
    else:
        known.add(count)


def _is_told(mark: Mark, marks: Sequence[Mark]) -> bool:
    # The tick before said the same.
    place = (mark.kind, mark.worker, mark.pid, mark.clock - 1)
    return mark.clock > 1 and any((m.kind, m.worker, m.pid, m.clock) == place for m in marks)
