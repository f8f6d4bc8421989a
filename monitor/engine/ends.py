"""Ends that were not seen: tasks that no worker lists any more are settled by their results, or given up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from monitor import registered
from monitor.cluster import Cluster
from monitor.records import RECEIVED, STARTED, Settled, TaskRecord

QUIET = 4.0  # a task is open to question when nothing was heard of it for so long
GRACE = 20.0  # from the first look that did not find it until "end not seen"
# A task that was only received may be back in its queue, where nobody sees it: much more patience.
RECEIVED_GRACE = 300.0
GONE_FOR = 30.0  # a worker offline for so long holds nothing any more
RESULTS_FIRST, RESULTS_MOST = 3.0, 300.0  # between two readings of one task's result
MOST_SETTLED = 2_000  # tasks in one round
MOST_ASKED = 200  # tasks in one query_task
ASKED_EVERY = 5.0  # seconds between two of one worker


@dataclass(slots=True)
class Visit:
    """When one worker is to be asked, and what its last answer listed."""

    light_at: float
    full_at: float = 0.0
    silences: int = 0
    answers: bool = False  # it did when it was last asked
    asking: bool = False
    looked_at: float = 0.0  # when the last answer was asked for
    listed: frozenset[str] | None = None  # uuids it had; None: it did not say, or not all
    is_cut: bool = False  # it has more tasks than its lists tell
    # Then single tasks are asked for: when, which, and which of them it had.
    asked: tuple[float, frozenset[str], frozenset[str]] = (0.0, frozenset(), frozenset())


@dataclass(slots=True)
class _Question:
    """A task that no worker lists."""

    since: float
    looks: set[float] = field(default_factory=set)
    results_at: float = 0.0
    readings: int = 0


@dataclass(slots=True)
class Ends:
    """Asks after tasks that no worker lists; ``call`` runs in a thread, ``failed`` is told what did."""

    cluster: Cluster
    visits: Mapping[str, Visit]
    held_by: Callable[[str, Sequence[str]], set[str] | None]
    read_results: Callable[[Iterable[str]], list[Settled]]
    clock: Callable[[], float]
    call: Callable[..., Awaitable[Any]]
    failed: Callable[[str, Exception], None]
    grace: float
    _questions: dict[str, _Question] = field(default_factory=dict)

    async def look(self) -> None:
        """Tasks that should have ended: their results are read; without one they end as "end not seen"."""
        now = self.clock()
        open_questions: dict[str, _Question] = {}
        to_read: list[str] = []
        unfinished = self.cluster.unfinished(now - QUIET)
        records = self._chosen(unfinished, now)
        await self._ask_about(records, now)
        for record in records:
            absent = self._absent(record)
            if absent is None:
                continue
            question = self._questions.get(record.uuid) or _Question(since=now)
            question.looks |= absent
            open_questions[record.uuid] = question
            if now >= question.results_at:
                to_read.append(record.uuid)
        # What was not looked at in this round keeps its question.
        left = {record.uuid for record in unfinished} - {record.uuid for record in records}
        kept = {uuid: question for uuid, question in self._questions.items() if uuid in left}
        self._questions = kept | open_questions
        settled = await self._read(to_read)
        for uuid in to_read:
            question = open_questions[uuid]
            question.readings += 1
            question.results_at = now + min(RESULTS_FIRST * 2.0**question.readings, RESULTS_MOST)
        for end in settled:
            self.cluster.settle(end, self.clock())
            open_questions.pop(end.uuid, None)
            self._questions.pop(end.uuid, None)
        for record in records:
            uuid = record.uuid
            if uuid in open_questions and self._is_over(record, open_questions[uuid], now):
                self.cluster.end_not_seen(uuid, self.clock())
                self._questions.pop(uuid, None)

    def _chosen(self, unfinished: list[TaskRecord], now: float) -> list[TaskRecord]:
        """Whom to look at in this round: those that a worker took first, then those whose result is due.

        However many tasks wait in queues, they hide none that has run.
        """
        taken = [record for record in unfinished if record.state in (RECEIVED, STARTED)]
        waiting = [record for record in unfinished if record.state not in (RECEIVED, STARTED)]
        due = [r for r in waiting if (q := self._questions.get(r.uuid)) is None or now >= q.results_at]
        if len(taken) > MOST_SETTLED // 2:
            # The longest unheard of are first in line, and go to its end.
            taken.sort(
                key=lambda r: (r.uuid in self._questions and self._questions[r.uuid].results_at, r.seen_at)
            )
        room = max(MOST_SETTLED // 2, MOST_SETTLED - len(due))
        return taken[:room] + due[: MOST_SETTLED - min(len(taken), room)]

    async def _ask_about(self, records: list[TaskRecord], now: float) -> None:
        """Ask workers that have more tasks than their lists tell for single tasks: ``query_task``."""
        by_worker: dict[str, list[str]] = {}
        for record in records:
            visit = self.visits.get(record.worker)
            if record.state in (RECEIVED, STARTED) and visit is not None and visit.is_cut:
                by_worker.setdefault(record.worker, []).append(record.uuid)
        for hostname, uuids in by_worker.items():
            visit = self.visits[hostname]
            if now - visit.asked[0] < ASKED_EVERY:
                continue
            part = uuids[:MOST_ASKED]
            try:
                held: set[str] | None = await self.call(self.held_by, hostname, part)
            except Exception as error:  # noqa: BLE001 - the edge: asked again at a later turn
                self.failed("query_task", error)
                continue
            if held is not None:
                visit.asked = (now, frozenset(part), frozenset(held))

    def _absent(self, record: TaskRecord) -> set[float] | None:
        """The looks that did not find the task though they should have; None when there is no reason to ask.

        A task that some worker took is looked for there; one that waits may be anywhere, so that only its
        result can tell.
        """
        if record.state not in (RECEIVED, STARTED):
            everywhere = (visit.listed for visit in self.visits.values() if visit.listed is not None)
            return None if any(record.uuid in listed for listed in everywhere) else set()
        visit = self.visits.get(record.worker)
        if visit is None:
            # Nobody to ask: the worker is gone.
            return set()
        asked_at, asked, held = visit.asked
        if visit.is_cut and record.uuid in asked and asked_at >= record.seen_at + 1.0:
            return None if record.uuid in held else {asked_at}
        if visit.listed is None or visit.looked_at < record.seen_at + 1.0:
            return None
        return None if record.uuid in visit.listed else {visit.looked_at}

    def _is_over(self, record: TaskRecord, question: _Question, now: float) -> bool:
        """Whether to give up on the end of a task: asked for long enough, and nobody can have it."""
        if record.state == STARTED:
            patience = self.grace
        elif record.state == RECEIVED:
            if self._is_limited(record):
                return False
            patience = max(self.grace, RECEIVED_GRACE)
        else:
            return False
        if now - question.since < patience:
            return False
        return len(question.looks) > 1 or (record.state == STARTED and self._is_gone(record.worker, now))

    def _is_limited(self, record: TaskRecord) -> bool:
        """Whether it may wait for its turn by a rate limit: no list of its worker tells of such tasks."""
        worker = self.cluster.workers.known.get(record.worker)
        if worker is None or worker.record.status == "offline":
            return False
        return bool(registered.rate_limit(worker.record.details, record.name))

    def _is_gone(self, hostname: str, now: float) -> bool:
        worker = self.cluster.workers.known.get(hostname)
        if worker is None or worker.record.status != "offline":
            return False
        return (worker.record.offline_at or 0.0) < now - GONE_FOR

    async def _read(self, uuids: list[str]) -> list[Settled]:
        if not uuids:
            return []
        try:
            ends: list[Settled] = await self.call(self.read_results, uuids)
            return ends
        except Exception as error:  # noqa: BLE001 - the edge: read again at the next turn
            self.failed("read results", error)
            return []
