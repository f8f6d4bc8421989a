"""After a time without listening: what happened meanwhile, out of what is left of it at the broker.

Workers say what they hold (``rounds``); here are the messages that still wait or were not acknowledged, and
the results of tasks that came and went unseen. Everything is bounded, only read, and done twice: a worker
that was cut off as well writes its results a little later.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from monitor import queues
from monitor.broker import Broker
from monitor.cluster import Cluster
from monitor.records import Gap, Queued, Settled

log = structlog.get_logger(__name__)

MARGIN = 5.0  # seconds around a gap: clocks of workers differ, and results are written before their events
DRIFT_MOST = 3_600.0  # a worker whose clock is wrong by more is not followed
AGAIN_AFTER = 15.0  # seconds until the second look at the same gap
# Tasks taken over at once: each may have a row to be read first.
HELPING, PAUSE = 2_000, 0.3

Call = Callable[..., Awaitable[Any]]


class LookBack:
    """Looks for the tasks of the gaps that it is told of. ``found`` counts what came of it, by kind."""

    def __init__(
        self, cluster: Cluster, broker: Broker | None, clock: Callable[[], float], call: Call
    ) -> None:
        self.cluster, self.broker, self.clock, self._call = cluster, broker, clock, call
        self.found: Counter[str] = Counter()
        self.is_looking = False
        self._due: list[tuple[float, Gap, bool]] = []  # when, which, and whether it is the second look

    def blind(self, gap: Gap) -> None:
        """Nothing was heard for this time."""
        if self.broker is not None and gap.ended_at is not None:
            self._due.append((self.clock(), gap, False))

    async def look(self) -> None:
        """Do what is due; several gaps are one."""
        now = self.clock()
        due = [entry for entry in self._due if entry[0] <= now]
        if not due or self.broker is None:
            return
        self._due = [entry for entry in self._due if entry[0] > now]
        since = min(gap.started_at for _, gap, _ in due)
        until = max(gap.ended_at or now for _, gap, _ in due)
        self._due += [(now + AGAIN_AFTER, gap, True) for _, gap, is_second in due if not is_second]
        await self._messages(self.broker)
        await self._results(self.broker, since - self._margin(), until + self._margin())
        log.info(
            "looked back",
            seconds=round(until - since, 1),
            **{k.replace(" ", "_"): n for k, n in self.found.items()},
        )

    # private

    def _margin(self) -> float:
        drifts = (abs(worker.record.drift or 0.0) for worker in self.cluster.workers.known.values())
        return MARGIN + max((drift for drift in drifts if drift <= DRIFT_MOST), default=0.0)

    async def _messages(self, broker: Broker) -> None:
        names = {name for worker in self.cluster.workers.known.values() for name in worker.record.queues}
        try:
            declared: list[str] = await self._call(queues.names, broker)
            look: queues.Look = await self._call(queues.messages, broker, sorted(names | set(declared)))
        except Exception as error:  # noqa: BLE001 - the edge: what cannot be read is said, and the rest goes on
            self._failed("messages", error)
            return
        self.found["messages that could not be read"] += look.unread
        self.found["looks at messages cut short"] += look.cut
        for part in _helpings(look.found):
            for one in part:
                if self._queued(one):
                    self.found["found waiting" if one.where == "queue" else "found unacknowledged"] += 1
            await asyncio.sleep(PAUSE if len(part) == HELPING else 0)

    async def _results(self, broker: Broker, since: float, until: float) -> None:
        try:
            search = await self._call(broker.search_results, since, until, _nobody)
        except Exception as error:  # noqa: BLE001 - the edge: what cannot be read is said, and the rest goes on
            self._failed("results", error)
            return
        self.found["searches of results cut short"] += search.cut
        for part in _helpings(search.ends):
            for end in part:
                self.found["ends read"] += self.cluster.settle(end, self.clock(), create=True)
            await asyncio.sleep(PAUSE if len(part) == HELPING else 0)

    def _queued(self, one: Queued) -> bool:
        queued = getattr(self.cluster, "queued", None)
        return queued is not None and bool(queued(one, self.clock()))

    def _failed(self, what: str, error: Exception) -> None:
        self.found[f"{what} not readable"] += 1
        log.warning("could not look back", what=what, error=type(error).__name__)


def _nobody(_uuid: str) -> bool:
    return False


def _helpings(found: Sequence[Queued | Settled]) -> list[Any]:
    return [found[start : start + HELPING] for start in range(0, len(found), HELPING)]
