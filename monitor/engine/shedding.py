"""What gives way when more comes than can be written: in a stated order, counted, and never an end of a task.

The measure is how full the buffer between reading and writing is. Writing slows down first, in longer
batches; then pages are told less often; then detail is let go, the least missed first. A level falls again
when the buffer has emptied to half of what raised it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from monitor.events import Custom, Failed, Received, Retried, Sent, Started, Succeeded

# Level, from what share of the buffer on, and what it says of itself.
LEVELS = (
    (0.0, ""),
    (0.10, "pages are told once a second"),
    (0.25, "writing once a second, in longer batches"),
    (0.40, "custom events are let go"),
    (0.55, "arguments, results and tracebacks are let go"),
    (0.70, "sending and starting are counted, but no longer kept"),
)
COARSE, LONG, RAW, PAYLOAD, STEPS = range(1, 6)
# How often pages are told and batches written from those levels on, in seconds.
COARSE_EVERY = LONG_EVERY = 1.0

_PAYLOAD: dict[type, tuple[str, ...]] = {
    Sent: ("args", "kwargs"),
    Received: ("args", "kwargs"),
    Succeeded: ("result",),
    Failed: ("traceback",),
    Retried: ("traceback",),
}


class Shedding:
    """The level for a buffer of ``limit`` events, and what was let go since the start, by kind."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.level = 0
        self.highest = 0  # since the start
        self.shed: Counter[str] = Counter()

    @property
    def says(self) -> str:
        return LEVELS[self.level][1]

    def look(self, waiting: int) -> int:
        """The level for so many events that wait."""
        share = waiting / self.limit
        while self.level + 1 < len(LEVELS) and share >= LEVELS[self.level + 1][0]:
            self.level += 1
        while self.level and share < LEVELS[self.level][0] / 2:
            self.level -= 1
        self.highest = max(self.highest, self.level)
        return self.level

    def thin(self, events: Sequence[Any]) -> list[Any]:
        """What is kept of a message at the present level; ends of tasks and heartbeats always are.

        What is let go here as a whole is missing from the answer, and has to be accounted for by the caller.
        """
        level = self.level
        kept: list[Any] = []
        for event in events:
            shape = event.__class__
            if shape is Custom and level >= RAW:
                self.shed["custom events"] += 1
                continue
            if level >= STEPS and shape in (Sent, Started):
                self.shed["intermediate states"] += 1
                continue
            if level >= PAYLOAD and (fields := _PAYLOAD.get(shape)):
                for field in fields:
                    if getattr(event, field) is not None:
                        setattr(event, field, None)
                        self.shed["arguments, results and tracebacks"] += 1
            kept.append(event)
        return kept
