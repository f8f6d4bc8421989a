"""How often regions are drawn and messages leave: at once after quiet, then at most four times a second.

Under load two things give way, each second a little. The costly regions first: a region may take only a share
of a processor, and the share shrinks while all together take more than their budget. When that is not enough,
and draws wait for their turn, everybody gets two frames a second, then one.
"""

from __future__ import annotations

from dataclasses import dataclass

PERIODS = (0.25, 0.5, 1.0)  # seconds between two frames of a region, and between two messages of a socket
BUDGET = 0.2  # seconds of drawing in a second, all regions together
WIDEST, NARROWEST = 0.25, 0.005  # of a processor: what one region may take
STREAM = 512 * 1024  # characters a second of one region, at most: a long list comes less often
CALM = 5  # seconds without a wait until frames come faster again


@dataclass(slots=True)
class Pace:
    """Time and measures are passed in; it holds what follows from them."""

    level: int = 0
    share: float = WIDEST
    coarse: int = 0  # seconds spent with fewer than four frames a second
    _calm: int = 0  # seconds in a row
    _strained: bool = False  # the last second was late

    @property
    def period(self) -> float:
        return PERIODS[self.level]

    @property
    def frames(self) -> int:
        """Frames a second, at most."""
        return round(1 / self.period)

    def rest(self, every: float, cost: float, size: int = 0) -> float:
        """Seconds from the start of a draw to that of the next, by what it cost and how long it came out."""
        return max(every, self.period, cost / self.share, size / STREAM)

    def second(self, spent: float, late: float) -> None:
        """A second has passed, ``spent`` seconds of it on drawing; ``late``: the longest wait for a turn."""
        self.share *= min(1.25, max(0.5, BUDGET / spent)) if spent else 1.25
        self.share = min(WIDEST, max(NARROWEST, self.share))
        self.coarse += self.level > 0
        if late > self.period:
            # The first second may be a hiccup, or cured by smaller shares.
            self.level = min(self.level + self._strained, len(PERIODS) - 1)
            self._strained, self._calm = True, 0
            return
        self._strained = False
        if self.level and late < PERIODS[self.level - 1] / 2:
            self._calm += 1
            if self._calm >= CALM:
                self.level, self._calm = self.level - 1, 0
        else:
            self._calm = 0
