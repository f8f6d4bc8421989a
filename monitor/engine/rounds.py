"""The engine's rounds: which worker to ask next, and what its answer lists."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import structlog

from monitor.broker import Broker
from monitor.cluster import Cluster
from monitor.engine.ends import GRACE, Ends, Visit
from monitor.engine.gone import Gone, Known
from monitor.engine.lookback import LookBack
from monitor.engine.stalls import Stalls
from monitor.records import Gap, Inspection, Settled

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


class Ask(Protocol):
    """The way to the workers: ``monitor.control``, or a fake of it."""

    def inspect_worker(
        self, hostname: str, timeout: float = 2.0, full: bool = False
    ) -> Inspection | None: ...

    def discover(self, timeout: float = 1.5) -> list[tuple[str, bool]]: ...

    def answering(self, hostnames: Sequence[str], timeout: float = 1.0) -> set[str]: ...

    def held_by(self, hostname: str, uuids: Sequence[str], timeout: float = 1.0) -> set[str] | None: ...


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
        self.light_every = light_every
        self.failures = 0  # of the broker, not of silent workers
        self._visits: dict[str, Visit] = {}
        self._threads = ThreadPoolExecutor(AT_ONCE, "umbel-inspect")
        self._free = asyncio.Semaphore(AT_ONCE)
        self._back = LookBack(cluster, broker, clock, self._call)
        self.stalls = Stalls(cluster, broker, clock, self._call)
        self.gone = Gone(cluster, broker, clock, self._call, Known(self._held, read_results))
        self._ends = Ends(
            cluster, self._visits, self._held_by, self._results, clock, self._call, self._failed, grace
        )
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
        visit = self._visits.setdefault(hostname, Visit(light_at=self.clock()))
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
            visit = self._visits.setdefault(hostname, Visit(light_at=now))
            if now - visit.looked_at > 1.0:
                visit.full_at = 0.0
        online = self.online()
        every = max(self.light_every, len(online) / MOST_A_SECOND)
        for hostname in online:
            if hostname not in self._visits:
                # The first look is thorough and at once; the next ones are spread.
                self._visits[hostname] = Visit(light_at=now + random.uniform(0.5, 1.0) * every)  # noqa: S311 jitter is no secret
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
        """What may be settled by itself, and what happened while nothing was heard."""
        if not self._back.is_looking:
            self._start(self._back.look())
        await self._ends.look()

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

    def _begin(self, hostname: str, visit: Visit, now: float, every: float) -> None:
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

    async def _look(self, hostname: str, visit: Visit, full: bool) -> None:
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

    def _results(self, uuids: Iterable[str]) -> list[Settled]:
        return self.read_results(uuids)

    def _held_by(self, hostname: str, uuids: Sequence[str]) -> set[str] | None:
        return self.ask.held_by(hostname, uuids)

    async def _call(self, what: Callable[..., Any], *values: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, what, *values)

    def _start(self, look: Any) -> None:
        runner = asyncio.get_running_loop().create_task(look)
        self._runners.add(runner)
        runner.add_done_callback(self._runners.discard)

    def _failed(self, what: str, error: Exception) -> None:
        self.failures += 1
        log.warning("worker not asked", call=what, error=type(error).__name__, failures=self.failures)


def _silent(visit: Visit, now: float) -> None:
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
