"""The engine's rounds: which worker to ask next, what their answers leave open, and how that is settled."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from monitor import registered
from monitor.broker import Broker
from monitor.cluster import Cluster
from monitor.engine.gone import Gone, Known
from monitor.engine.lookback import LookBack
from monitor.engine.stalls import Stalls
from monitor.records import RECEIVED, STARTED, Gap, Inspection, Settled, TaskRecord

log = structlog.get_logger(__name__)

# Seconds. A quick look at each online worker, and a thorough one (settings, registered tasks).
LIGHT_EVERY, FULL_EVERY = 5.0, 60.0
LIGHT_TIMEOUT, FULL_TIMEOUT = 1.0, 3.0
# Looks a second at most: with more workers than that allows, each is looked at less often.
MOST_A_SECOND = 8.0
AT_ONCE = 4
CALL_TIMEOUT, MOST_CALLED = 1.0, 200  # of the ping to all that gave no answer yet
SILENT_FIRST, SILENT_MOST = 2.0, 120.0  # until a worker that did not answer is asked again
# A list of this length may have been cut, so that absence from it means nothing.
CUT_AT = 2_000

SETTLE_EVERY = 2.0
QUIET = 4.0  # a task is open to question when nothing was heard of it for so long
GRACE = 20.0  # from the first look that did not find it until "end not seen"
# A task that was only received may be back in its queue, where nobody sees it: much more patience.
RECEIVED_GRACE = 300.0
GONE_FOR = 30.0  # a worker offline for so long holds nothing any more
RESULTS_FIRST, RESULTS_MOST = 3.0, 300.0  # between two readings of one task's result
MOST_SETTLED = 2_000  # tasks in one round
MOST_ASKED = 200  # tasks in one query_task
ASKED_EVERY = 5.0  # seconds between two of one worker


class Ask(Protocol):
    """The way to the workers: ``monitor.control``, or a fake of it."""

    def inspect_worker(
        self, hostname: str, timeout: float = 2.0, full: bool = False
    ) -> Inspection | None: ...

    def discover(self, timeout: float = 1.5) -> list[tuple[str, bool]]: ...

    def answering(self, hostnames: Sequence[str], timeout: float = 1.0) -> set[str]: ...

    def held_by(self, hostname: str, uuids: Sequence[str], timeout: float = 1.0) -> set[str] | None: ...


@dataclass(slots=True)
class _Visit:
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


class Rounds:
    """Asks workers about themselves in a few threads, and settles tasks whose end was not seen."""

    def __init__(
        self,
        cluster: Cluster,
        ask: Ask,
        read_results: Callable[[Iterable[str]], list[Settled]],
        clock: Callable[[], float] = time.time,
        *,
        light_every: float = LIGHT_EVERY,
        grace: float = GRACE,
        broker: Broker | None = None,
    ) -> None:
        self.cluster, self.ask, self.read_results, self.clock = cluster, ask, read_results, clock
        self.light_every, self.grace = light_every, grace
        self.failures = 0  # of the broker, not of silent workers
        self._visits: dict[str, _Visit] = {}
        self._questions: dict[str, _Question] = {}
        self._threads = ThreadPoolExecutor(AT_ONCE, "umbel-inspect")
        self._free = asyncio.Semaphore(AT_ONCE)
        self._back = LookBack(cluster, broker, clock, self._call)
        self.stalls = Stalls(cluster, broker, clock, self._call)
        self.gone = Gone(cluster, broker, clock, self._call, Known(self._held, read_results))
        self._runners: set[asyncio.Task[None]] = set()

    @property
    def looked_back(self) -> dict[str, int]:
        """What was found of the times without listening, by kind."""
        return {kind: count for kind, count in self._back.found.items() if count}

    def blind(self, gap: Gap) -> None:
        """Nothing was heard for this time: look for what happened in it."""
        self._back.blind(gap)

    async def join(self) -> None:
        """Find every worker that is there and look at each one thoroughly: at the start, and after a gap."""
        try:
            found = await self._call(self.ask.discover)
        except Exception as error:  # noqa: BLE001 - the edge: a broker that fails now is asked again later
            self._failed("discover", error)
            found = []
        for hostname, is_beat in found:
            if is_beat:
                self.cluster.reconcile(Inspection(hostname, self.clock(), is_beat=True), self.clock())
            else:
                self.look_soon(hostname)

    def look_soon(self, hostname: str) -> None:
        """A thorough look, next."""
        visit = self._visits.setdefault(hostname, _Visit(light_at=self.clock()))
        visit.full_at = 0.0
        visit.silences = 0
        visit.answers = True  # a ping, a moment ago

    async def look_around(self) -> None:
        """Start the looks that are due; they report to the cluster by themselves."""
        now = self.clock()
        if self.stalls.is_due(now):
            self._start(self.stalls.look())
        if self.gone.is_due(now):
            self._start(self.gone.look())
        wanted = set(self.cluster.wants_inspection(now))
        for hostname in wanted:
            visit = self._visits.setdefault(hostname, _Visit(light_at=now))
            if now - visit.looked_at > 1.0:
                visit.full_at = 0.0
        online = self.online()
        every = max(self.light_every, len(online) / MOST_A_SECOND)
        for hostname in online:
            if hostname not in self._visits:
                # The first look is thorough and at once; the next ones are spread.
                self._visits[hostname] = _Visit(light_at=now + random.uniform(0.5, 1.0) * every)  # noqa: S311
        for hostname in self._visits.keys() - online - wanted:
            gone = self._visits[hostname]
            if not gone.asking and (gone.looked_at or gone.silences):
                del self._visits[hostname]
        due = [
            (hostname, visit)
            for hostname, visit in self._visits.items()
            if not visit.asking and now >= min(visit.light_at, visit.full_at)
        ]
        for hostname, visit in due:
            if visit.answers:
                self._begin(hostname, visit, now, every)
        if silent := [hostname for hostname, visit in due if not visit.answers][:MOST_CALLED]:
            for hostname in silent:
                self._visits[hostname].asking = True
            self._start(self._call_out(silent, every))

    def online(self) -> set[str]:
        records = (worker.record for worker in self.cluster.workers.known.values())
        return {record.hostname for record in records if record.status == "online" and not record.is_beat}

    async def settle(self) -> None:
        """Tasks that should have ended: their results are read; without one they end as "end not seen"."""
        if not self._back.is_looking:
            self._start(self._back.look())
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

    def _held(self) -> set[str] | None:
        """What all workers that are online said they hold; None when one did not say all of it."""
        found: set[str] = set()
        for hostname in self.online():
            visit = self._visits.get(hostname)
            if visit is None or visit.listed is None:
                return None
            found |= visit.listed
        return found

    def close(self) -> None:
        for runner in self._runners:
            runner.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, hostname: str, visit: _Visit, now: float, every: float) -> None:
        full = visit.full_at <= now
        visit.asking, visit.light_at = True, now + every
        if full:
            # Set before the answer: who asks for another look meanwhile gets it.
            visit.full_at = now + max(FULL_EVERY, 4 * every)
        self._start(self._look(hostname, visit, full))

    async def _call_out(self, hostnames: list[str], every: float) -> None:
        """Ping those that are new, or gave no answer: all at once, since each question costs; then look."""
        visits = [(hostname, self._visits[hostname]) for hostname in hostnames]
        there: set[str] = set()
        try:
            async with self._free:
                there = await self._call(self.ask.answering, hostnames, CALL_TIMEOUT)
        except Exception as error:  # noqa: BLE001 - the edge: counted, and asked again later
            self._failed("ping", error)
        now = self.clock()
        for hostname, visit in visits:
            visit.asking = False
            if hostname in there:
                visit.answers, visit.full_at = True, 0.0
                self._begin(hostname, visit, now, every)
            else:
                _silent(visit, now)
                visit.full_at = visit.light_at

    async def _look(self, hostname: str, visit: _Visit, full: bool) -> None:
        try:
            async with self._free:
                asked_at = self.clock()
                timeout = FULL_TIMEOUT if full else LIGHT_TIMEOUT
                inspection = await self._call(self.ask.inspect_worker, hostname, timeout, full)
        except Exception as error:  # noqa: BLE001 - the edge: counted, and asked again later
            self._failed("inspect", error)
            inspection = None
        finally:
            visit.asking = False
        now = self.clock()
        if inspection is None:
            _silent(visit, now)
            if full:
                visit.full_at = min(visit.full_at, visit.light_at)
            return
        visit.silences = 0
        visit.looked_at = asked_at
        visit.listed = listed(inspection)
        visit.is_cut = visit.listed is None and inspection.active is not None
        self.cluster.reconcile(inspection, now)

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
            visit = self._visits.get(record.worker)
            if record.state in (RECEIVED, STARTED) and visit is not None and visit.is_cut:
                by_worker.setdefault(record.worker, []).append(record.uuid)
        for hostname, uuids in by_worker.items():
            visit = self._visits[hostname]
            if now - visit.asked[0] < ASKED_EVERY:
                continue
            part = uuids[:MOST_ASKED]
            try:
                held: set[str] | None = await self._call(self.ask.held_by, hostname, part)
            except Exception as error:  # noqa: BLE001 - the edge: asked again at a later turn
                self._failed("query_task", error)
                continue
            if held is not None:
                visit.asked = (now, frozenset(part), frozenset(held))

    def _absent(self, record: TaskRecord) -> set[float] | None:
        """The looks that did not find the task though they should have; None when there is no reason to ask.

        A task that some worker took is looked for there; one that waits may be anywhere, so that only its
        result can tell.
        """
        if record.state not in (RECEIVED, STARTED):
            everywhere = (visit.listed for visit in self._visits.values() if visit.listed is not None)
            return None if any(record.uuid in listed for listed in everywhere) else set()
        visit = self._visits.get(record.worker)
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
            ends: list[Settled] = await self._call(self.read_results, uuids)
            return ends
        except Exception as error:  # noqa: BLE001 - the edge: read again at the next turn
            self._failed("read results", error)
            return []

    async def _call(self, what: Callable[..., Any], *values: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, what, *values)

    def _start(self, look: Any) -> None:
        runner = asyncio.get_running_loop().create_task(look)
        self._runners.add(runner)
        runner.add_done_callback(self._runners.discard)

    def _failed(self, what: str, error: Exception) -> None:
        self.failures += 1
        log.warning("worker not asked", call=what, error=type(error).__name__, failures=self.failures)


def _silent(visit: _Visit, now: float) -> None:
    visit.answers = False
    visit.light_at = now + min(SILENT_FIRST * 2.0**visit.silences, SILENT_MOST)
    visit.silences += 1


def listed(inspection: Inspection) -> frozenset[str] | None:
    """Every task that the worker says it has; None when it did not say, or its lists may be cut."""
    found: set[str] = set()
    for part in (inspection.active, inspection.reserved, inspection.scheduled):
        if part is None or len(part) >= CUT_AT:
            return None
        for item in part:
            request = item.get("request")
            uuid = (request if isinstance(request, dict) else item).get("id")
            if isinstance(uuid, str):
                found.add(uuid)
    return frozenset(found)
