"""Counts by worker and task name together since the first event, for metrics: a bounded set of such pairs."""

from __future__ import annotations

from monitor.cluster.counts import Count
from monitor.cluster.limits import Limits
from monitor.records import Rollup

BY = "pair"  # of the rollup: width and start are 0, the key is "worker\nname"
MOST = 1_000  # pairs counted apart; all others are one
OTHERS = "other\nother"
EVERY = 10.0  # seconds between two drains: metrics need no more, and each pair is a row to write
IDLE = 3600.0  # seconds without an event until a pair makes room for another
LONGEST = 255  # characters of a key


class Pairs:
    """Increments since the last drain. The first pairs to come are counted apart, until they fall silent."""

    def __init__(self, limits: Limits, most: int = MOST) -> None:
        self._limits, self._most = limits, most
        self._heard: dict[str, float] = {}  # pair -> when it was last counted
        self._waiting: dict[str, Count] = {}
        self._drained_at = 0.0
        self._swept_at = 0.0

    def add(self, worker: str, name: str, count: Count, at: float) -> None:
        """``at`` is the time of receipt."""
        if not any(count.counts):
            return  # sent, and no more: that is of a client, not of a worker
        key = self._key(worker, name, at)
        held = self._waiting.get(key)
        if held is None:
            self._waiting[key] = count.copy()
        else:
            held.add(count)

    def drain(self, at: float, *, all_of_it: bool = False) -> list[Rollup]:
        """What waits, once every ten seconds."""
        if not self._waiting or (at - self._drained_at < EVERY and not all_of_it):
            return []
        self._drained_at = at
        drained, self._waiting = self._waiting, {}
        return [_rollup(key, count) for key, count in drained.items()]

    def _key(self, worker: str, name: str, at: float) -> str:
        key = f"{worker}\n{name}"
        if key not in self._heard and (
            not worker or not name or len(key) > LONGEST or "\n" in worker or not self._room(at)
        ):
            self._limits.let_go["metric labels"] += 1
            return OTHERS
        self._heard[key] = at
        return key

    def _room(self, at: float) -> bool:
        if len(self._heard) >= self._most and at - self._swept_at > 60:
            self._swept_at = at
            self._heard = {key: heard for key, heard in self._heard.items() if at - heard < IDLE}
        return len(self._heard) < self._most


def _rollup(key: str, count: Count) -> Rollup:
    rollup = Rollup(0, BY, key, 0, *count.counts)  # type: ignore[arg-type]
    rollup.runtime = count.runtime
    return rollup
