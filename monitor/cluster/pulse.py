"""How fresh the events are: the rate over ten seconds and the lag, corrected by each sender's clock."""

from __future__ import annotations

from collections import deque

SPAN = 10  # seconds
SENDERS = 6_000
# A clock may be set right: its smallest offset rises again by this much a second. Slow, since a lasting lag
# must not be taken for a wrong clock.
FORGETS = 1e-3


class Pulse:
    """Recent events. A sender's smallest offset is taken for its clock's error; what is above it is lag."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._lags: deque[tuple[float, float]] = deque(maxlen=1_000)
        self._offsets: dict[str, tuple[float, float]] = {}  # sender -> smallest offset, as of when
        self.last_at: float | None = None

    def event(self, sender: str, stamp: float, now: float, count: int = 1) -> None:
        """So many events came at once; ``stamp`` is the sender's time of the last."""
        second = int(now)
        self._counts[second] = self._counts.get(second, 0) + count
        if len(self._counts) > 2 * SPAN:
            self._counts = {s: count for s, count in self._counts.items() if s > second - SPAN - 1}
        self.last_at = now
        if not stamp:
            return
        offset = now - stamp
        held = self._offsets.get(sender)
        if held is None:
            if len(self._offsets) >= SENDERS:
                self._offsets.pop(next(iter(self._offsets)))
            floor = offset
        else:
            floor = min(offset, held[0] + (now - held[1]) * FORGETS)
        self._offsets[sender] = (floor, now)
        self._lags.append((now, offset - floor))

    def rate(self, now: float) -> float:
        second = int(now)
        return sum(count for s, count in self._counts.items() if second - SPAN <= s < second) / SPAN

    def lag(self, now: float) -> float | None:
        """The 95th percentile over the last ten seconds; None without events."""
        recent = sorted(lag for at, lag in self._lags if now - at <= SPAN)
        return max(0.0, recent[min(len(recent) - 1, int(0.95 * len(recent)))]) if recent else None
