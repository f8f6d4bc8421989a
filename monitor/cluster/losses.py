"""Task-started events that never reached us, counted exactly per worker process from its heartbeats.

A worker adds one to ``processed`` just before it sends ``task-started``, and each event takes a tick of its
Lamport clock. So between two heartbeats of one process, the growth of ``processed`` less the starts whose
clock lies between is what was lost. An interval is judged when the following heartbeat is in, since starts
may arrive late, and the sum is believed as far as two judgements agree (gevent is off by one now and then).
"""

from __future__ import annotations

from dataclasses import dataclass, field

ABSURD = 10_000_000  # tasks between two heartbeats


@dataclass(slots=True)
class Losses:
    """The account of one worker process."""

    starts: set[int] = field(default_factory=set)  # clocks of starts not yet judged
    beats: list[tuple[int, int, int]] = field(default_factory=list)  # clock, processed, task events so far
    events: int = 0  # task events of this process
    sum: int = 0
    before: int = 0  # the sum one judgement ago
    missed: int = 0
    held: int = 0  # growth in intervals without a single event: lost, or never sent?
    quiet: int = 0  # such intervals in a row
    events_on: bool | None = None
    odd: int = 0  # heartbeats in a row whose count cannot be
    over: int = 0  # starts that found no room

    def event(self, kind: str, clock: int, limit: int) -> None:
        self.events += 1
        self.events_on = True
        if kind == "started" and self.beats:
            if len(self.starts) >= limit:
                self.over += 1
            elif clock > self.beats[0][0]:
                self.starts.add(clock)

    def beat(self, clock: int, processed: int) -> None:
        """A heartbeat in order; the caller drops late ones and begins anew with a new process."""
        if self.beats and not 0 <= processed - self.beats[-1][1] <= ABSURD:
            # No worker does this. Should it go on, the account begins anew.
            self.odd += 1
            if self.odd < 3:
                return
            self.beats.clear()
            self.starts.clear()
        self.odd = 0
        self.beats.append((clock, processed, self.events))
        if len(self.beats) < 3:
            return
        (c1, p1, e1), (c2, p2, e2), (_, _, e3) = self.beats
        seen = {clock for clock in self.starts if c1 < clock < c2}
        self.starts = {clock for clock in self.starts if clock > c2}
        self._judge(p2 - p1, len(seen), max(e2 - e1, e3 - e2) if p2 == p1 else e2 - e1)
        del self.beats[0]

    def _judge(self, growth: int, seen: int, events: int) -> None:
        if growth > 0 and events == 0 and seen == 0:
            self.held += growth
            self.quiet += 1
            if self.quiet >= 2:
                # It runs tasks and says nothing, twice over: its events are off, so nothing was lost.
                self.events_on = False
                self.held = 0
            return
        if self.events_on:
            self.sum += self.held
            self.held = self.quiet = 0
        self.sum += growth - seen
        self.missed = max(self.missed, min(self.sum, self.before) - self.over)
        self.before = self.sum
