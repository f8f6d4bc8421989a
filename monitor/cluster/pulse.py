"""How fresh the events are: the rate over ten seconds and the lag, corrected by each sender's clock."""

from __future__ import annotations

from collections import deque

SPAN = 10  # seconds
SENDERS = 6_000


class Pulse:
    """Recent events. A sender's smallest offset is taken for its clock's error; what is above it is lag."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._lags: deque[tuple[float, float]] = deque(maxlen=1_000)
        self._offsets: dict[str, tuple[float, float]] = {}  # sender -> smallest offset, when it was found
        self.last_at: float | None = None

    def event(self, sender: str, stamp: float, now: float) -> None:
        second = int(now)
        self._counts[second] = self._counts.get(second, 0) + 1
        if len(self._counts) > 2 * SPAN:
            self._counts = {s: count for s, count in self._counts.items() if s > second - SPAN - 1}
        self.last_at = now
        if not stamp:
            return
        offset = now - stamp
        held = self._offsets.get(sender)
        # A clock may be set right later: an old smallest offset is forgotten after five minutes.
        if held is None or offset < held[0] or now - held[1] > 300:
            if held is None and len(self._offsets) >= SENDERS:
                self._offsets.pop(next(iter(self._offsets)))
            # A first event may be late itself: an offset of under a minute is believed to be lag, not skew.
            floor = min(offset, 0.0) if held is None and abs(offset) < 60 else offset
            if held is not None and abs(offset) < 60:
                floor = min(offset, 0.0)
            self._offsets[sender] = held = (floor, now)
        self._lags.append((now, offset - held[0]))

    def rate(self, now: float) -> float:
        second = int(now)
        return sum(count for s, count in self._counts.items() if second - SPAN <= s < second) / SPAN

    def lag(self, now: float) -> float | None:
        """The 95th percentile over the last ten seconds; None without events."""
        recent = sorted(lag for at, lag in self._lags if now - at <= SPAN)
        return max(0.0, recent[min(len(recent) - 1, int(0.95 * len(recent)))]) if recent else None
