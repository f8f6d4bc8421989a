"""The watch over workers at rest: whether something has waited for one of them at every look."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog

from monitor import queues
from monitor.broker import Broker
from monitor.cluster import Cluster
from monitor.cluster.stalled import held, rests, waits
from monitor.records import Stalled

log = structlog.get_logger(__name__)

EVERY = 2.5  # seconds between two looks
PATIENCE = 10.0  # seconds that it must have rested while something waited, at every look
MOST = 100  # workers told
FRESH = 3 * EVERY  # seconds for which the last look says something


class Stalls:
    """``found``: who works nothing now. Blind, or without an answer of the broker, it starts anew."""

    def __init__(
        self,
        cluster: Cluster,
        broker: Broker | None,
        clock: Callable[[], float],
        call: Callable[..., Awaitable[Any]],
    ) -> None:
        self.cluster, self.broker, self.clock, self._call = cluster, broker, clock, call
        self.found: list[Stalled] = []
        self.depths: dict[str, int] = {}
        self.depths_at: float | None = None
        self._is_looking = False
        self._looked_at = 0.0
        self._since: dict[str, float] = {}  # by hostname, from when on every look found something waiting

    def is_due(self, now: float) -> bool:
        return not self._is_looking and now - self._looked_at >= EVERY

    async def look(self) -> None:
        """After a long pause nothing is taken to have lasted through it."""
        now = self.clock()
        self._is_looking = True
        try:
            depths = await self._read_depths(now)
        finally:
            self._is_looking = False
        if now - self._looked_at > FRESH or depths is None:
            self._since.clear()
        self._looked_at = now
        self._judge(depths or {}, self.clock())

    # private

    async def _read_depths(self, now: float) -> dict[str, int | None] | None:
        """Of the queues that workers at rest consume; None when the broker does not answer."""
        known = self.cluster.workers.known.values()
        names = sorted({name for worker in known if rests(worker, now) for name in worker.record.queues})
        if self.broker is None or not names:
            self.depths, self.depths_at = {}, None
            return dict.fromkeys(names)
        try:
            told: list[queues.Depth] = await self._call(queues.depths, self.broker, names)
        except Exception as error:  # noqa: BLE001 - the edge: who cannot be asked is asked again
            log.warning("depths of queues not read", error=type(error).__name__)
            self.depths, self.depths_at = {}, None
            return None
        self.depths = {depth.name: depth.waiting for depth in told if depth.waiting is not None}
        self.depths_at = self.clock()
        return {depth.name: depth.waiting for depth in told}

    def _judge(self, depths: dict[str, int | None], now: float) -> None:
        workers = self.cluster.workers
        resting = [worker for worker in workers.known.values() if rests(worker, now)]
        if not resting or workers.connected_at is None:
            self._since, self.found = {}, []
            return
        # All live tasks are looked through only where a queue may hold something.
        live = self.cluster.tasks.live.values() if any(n != 0 for n in depths.values()) else ()
        known = held((task.row for task in live), workers.connected_at, now)
        since: dict[str, float] = {}
        found: list[Stalled] = []
        for worker in resting:
            one = waits(worker, depths, known)
            if one is None:
                continue
            began = since[one.hostname] = self._since.get(one.hostname, now)
            # Whoever worked in between rests from then on.
            lasted = max(began, worker.idle_since or now)
            if now - lasted >= PATIENCE and len(found) < MOST:
                found.append(msgspec.structs.replace(one, since=lasted))
        self._since, self.found = since, found
