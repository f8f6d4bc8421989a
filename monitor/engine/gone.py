"""Waiting tasks whose messages are nowhere any more: purged by someone, or deleted past Umbel.

No event tells of that. After a purge, and when a queue holds fewer messages than tasks are said to wait in
it, the whole broker is read: what is in no queue, not unacknowledged and with no worker, twice, is said to be
gone. Where the broker cannot be read to its end, or by message, nothing is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import structlog
from django.db import connections

from monitor import models, queues
from monitor.broker import Broker
from monitor.cluster import Cluster
from monitor.records import LOST, PENDING, Settled

log = structlog.get_logger(__name__)

EVERY = 10.0  # seconds between two looks
SETTLED = 20.0  # seconds after which a message that was sent is in its queue, or was in it
APART = 5.0  # seconds between the two looks that must not find it
SELDOM = 600.0  # seconds until the broker is read whole again for what was not gone after all
LOOKED_BACK = 3600.0  # seconds of purges that are looked at when Umbel starts
MOST = 10_000  # tasks in one look

Call = Callable[..., Awaitable[Any]]
Purge = tuple[str, float, str]  # queue, when, by whom


class Known(NamedTuple):
    """``held`` gives all that workers say they hold; None when one of them did not say."""

    held: Callable[[], set[str] | None]
    read_results: Callable[[Iterable[str]], list[Settled]]


class Gone:
    """Finds them. ``known``: what workers say they hold, and the reader of the result backend."""

    def __init__(
        self, cluster: Cluster, broker: Broker | None, clock: Callable[[], float], call: Call, known: Known
    ) -> None:
        self.cluster, self.broker, self.clock, self._call = cluster, broker, clock, call
        self._held, self._read_results = known
        self.found = 0
        self._is_looking = False
        self._looked_at = self._read_at = 0.0
        self._purges_until: float | None = None
        self._absent: dict[str, float] = {}  # uuid -> when it was first not found
        self._purged: dict[str, Purge] = {}  # uuid -> what deleted it

    def is_due(self, now: float) -> bool:
        return self.broker is not None and not self._is_looking and now - self._looked_at >= EVERY

    async def look(self) -> None:
        """One look; what it finds is told to the cluster."""
        now = self._looked_at = self.clock()
        self._is_looking = True
        try:
            await self._look(now)
        except Exception as error:  # noqa: BLE001 - the edge: who cannot be asked is asked again
            log.warning("waiting tasks not reconciled", error=type(error).__name__)
        finally:
            self._is_looking = False

    # private

    async def _look(self, now: float) -> None:
        if self.broker is None or self.cluster.workers.connected_at is None:
            return
        purges: list[Purge] = await self._call(_purges, self._purges_until or now - LOOKED_BACK)
        self._purges_until = now
        for purge in purges:
            for uuid in await self._call(_waiting_in, purge):
                self._purged[uuid] = purge
        for uuid in list(self._purged)[MOST:]:
            del self._purged[uuid]
        waiting = self._suspects(now)
        suspects = self._purged.keys() | (await self._too_many(waiting, now))
        suspects |= self._absent.keys() & (self._purged.keys() | waiting.keys())
        if not suspects:
            self._absent.clear()
            return
        names = {queue for queue, _, _ in self._purged.values()} | {q for q in waiting.values() if q}
        there = await self._there(self.broker, names)
        held = self._held()
        if there is None or (held is None and not self._purged):
            return
        missing = {uuid for uuid in suspects if uuid not in there and uuid not in (held or ())}
        for uuid in self._purged.keys() - missing:
            del self._purged[uuid]
        first = {uuid: self._absent.get(uuid, now) for uuid in missing}
        over = [uuid for uuid, at in first.items() if now - at >= APART]
        self._absent = {uuid: at for uuid, at in first.items() if uuid not in over}
        if over:
            await self._say(over, now)

    def _suspects(self, now: float) -> dict[str, str]:
        """Tasks that wait in a queue by their events, for long enough, and their queues."""
        rows = self.cluster.unfinished(now - SETTLED)
        waiting = [row for row in rows if row.state == PENDING and row.queue and not row.attempts]
        return {row.uuid: row.queue for row in waiting[:MOST]}

    async def _too_many(self, waiting: dict[str, str], now: float) -> set[str]:
        """Of those, the ones in queues that hold fewer messages; seldom, since all must then be read."""
        if self.broker is None or self.broker.transport != "redis" or not waiting:
            return set()
        if self._held() is None or (now - self._read_at < SELDOM and not self._absent):
            return set()
        names = set(waiting.values())
        told: list[queues.Depth] = await self._call(queues.depths, self.broker, sorted(names))
        counts = Counter(waiting.values())
        short = {one.name for one in told if one.waiting is not None and one.waiting < counts[one.name]}
        if not short:
            return set()
        self._read_at = now
        # A task that tells of no start would only seem to wait for ever.
        suspects = [uuid for uuid, queue in waiting.items() if queue in short]
        found: set[str] = await self._call(_told_of, suspects)
        return found

    async def _there(self, broker: Broker, names: set[str]) -> set[str] | None:
        """Every task whose message is at the broker; None when that cannot be said."""
        if broker.transport != "redis":
            told: list[queues.Depth] = await self._call(queues.depths, broker, sorted(names))
            # No look inside: an empty queue alone says something, and only after a purge.
            return set() if self._purged and all(one.waiting == 0 for one in told) else None
        declared: list[str] = await self._call(queues.names, broker)
        look: queues.Look = await self._call(queues.messages, broker, sorted(names | set(declared)))
        if look.cut or look.unread:
            return None
        return {one.uuid for one in look.found}

    async def _say(self, uuids: list[str], now: float) -> None:
        ends: list[Settled] = await self._call(self._read_results, uuids)
        known = {end.uuid: end for end in ends if end.state != LOST}
        for uuid in uuids:
            purge = self._purged.pop(uuid, None)
            end = known.get(uuid)
            if end is None:
                at, note = now, "gone from its queue: deleted, or taken unheard"
                if purge is not None:
                    at = purge[1]
                    note = f"purged by {purge[2]} at {datetime.fromtimestamp(at, UTC):%H:%M:%S} UTC"
                end = Settled(uuid, LOST, ended_at=at, note=note)
            self.found += self.cluster.settle(end, now, create=True)


def _purges(since: float) -> list[Purge]:
    """Purges that were carried out, whether they were seen to be or not."""
    try:
        rows = models.ControlRecord.objects.filter(
            command="purge", answered_at__gte=since - EVERY, sent_at__isnull=False
        ).exclude(effect="refused")
        told = rows.order_by("sent_at").values_list("targets", "sent_at", "username", "replies")[:50]
        return [
            (str(targets[0]), float(sent_at or 0.0), str(username))
            for targets, sent_at, username, replies in told
            if targets and any(isinstance(r, dict) and r.get("outcome") == "ok" for r in replies)
        ]
    finally:
        connections.close_all()


def _waiting_in(purge: Purge) -> list[str]:
    queue, at, _ = purge
    try:
        rows = models.Task.objects.filter(state=PENDING, queue=queue, seen_at__lt=at)
        return list(rows.order_by("first_seen_at").values_list("uuid", flat=True)[:MOST])
    finally:
        connections.close_all()


def _told_of(uuids: list[str]) -> set[str]:
    """Of these tasks, those of names whose runs are heard of."""
    try:
        found: set[str] = set()
        for start in range(0, len(uuids), 500):
            names = dict(
                models.Task.objects.filter(uuid__in=uuids[start : start + 500]).values_list("uuid", "name")
            )
            heard = models.TaskType.objects.filter(name__in=set(names.values()), runs__gt=0)
            told = set(heard.values_list("name", flat=True))
            found |= {uuid for uuid, name in names.items() if name in told}
        return found
    finally:
        connections.close_all()
