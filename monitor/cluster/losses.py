"""Task-started events that never reached us, counted exactly per worker process from its heartbeats.

A worker adds one to ``processed`` just before it sends ``task-started``, and each event takes a tick of its
Lamport clock. So between two heartbeats of one process, the growth of ``processed`` less the starts whose
clock lies between is what was not heard. An interval is judged when the following heartbeat is in, since
starts may arrive late, and the sum is believed as far as two judgements agree (gevent is off by one now and
then).

What was not heard need not be lost. ``inspect stats`` gives the starts of each task name, and the clock at
which it counted them: the starts of names that send no events by design (``send_events=False``) are told
apart there, and what is left is named. So at any time, for one process since its first heartbeat here:
``processed = seen + missed + silent + unsent + pending``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

ABSURD = 10_000_000  # tasks between two heartbeats
NAMES = 50  # task names told of what was missed
ANSWERS = 64  # answers to stats that wait for their heartbeat


# Clock and processed of a heartbeat, what was not heard till then and not judged, and when we heard it.
Account = tuple[int, int, int, float]


class Start(Protocol):
    """A ``task-started`` event."""

    @property
    def clock(self) -> int: ...

    @property
    def uuid(self) -> str: ...


def nameless(_uuid: str) -> str:
    return ""


@dataclass(slots=True)
class Losses:
    """The account of one worker process. ``starts`` and ``spoke`` are filled by whoever hears the events."""

    starts: list[Start] = field(default_factory=list)  # not yet judged
    spoke: bool = False  # another task event came since the last heartbeat
    events_on: bool | None = None
    seen: int = 0  # starts judged
    missed: int = 0  # confirmed
    silent: int = 0  # of names that send no events
    unsent: int = 0  # while the process sent no task events at all
    silent_names: frozenset[str] = frozenset()
    missed_names: dict[str, int] = field(default_factory=dict)
    sum: int = 0  # not heard, all told, but for ``unsent``
    over: int = 0  # starts that found no room
    # clock, processed, whether it spoke before it, and when we heard it
    _beats: list[tuple[int, int, bool, float]] = field(default_factory=list)
    _left: int = 0  # starts that the last judgement left
    _before: int = 0  # the sum one judgement ago
    _held: int = 0  # growth in intervals without a single event: lost, or never sent?
    _quiet: int = 0  # such intervals in a row
    _odd: int = 0  # heartbeats in a row whose count cannot be
    _told: list[tuple[int, dict[str, int]]] = field(default_factory=list)  # stats ahead of the heartbeats
    _base: dict[str, int] | None = None  # starts by name where the count by name begins
    _names: Counter[str] = field(default_factory=Counter)  # starts seen by name since then
    _silent_before: int = 0  # silent ones before the base
    _unexplained: int = 0  # what one answer ago was neither seen nor silent
    _heard: bool = False  # any task event since the last answer
    _mute: int = 0  # answers in a row that tell of tasks without a single event
    _mute_from: int = 0  # what was unexplained when that began

    @property
    def began(self) -> bool:
        """Whether there is a heartbeat to count from."""
        return bool(self._beats)

    @property
    def pending(self) -> int:
        """Not heard, and not yet known to be missed or silent."""
        return max(0, self.sum - self.missed - self.silent - self.over) + self._held

    def trim(self, limit: int) -> None:
        """Keep the starts within ``limit``; without a heartbeat to count from few are worth keeping."""
        if not self._beats:
            del self.starts[:-1_000]
        elif (excess := len(self.starts) - limit) > 0:
            self.over += excess
            del self.starts[limit:]

    def beat(
        self, clock: int, processed: int, name_of: Callable[[str], str] = nameless, at: float = 0.0
    ) -> None:
        """A heartbeat in order; the caller drops late ones and begins anew with a new process."""
        spoke, self.spoke = self.spoke or len(self.starts) > self._left, False
        if self._beats and not 0 <= processed - self._beats[-1][1] <= ABSURD:
            # No worker does this. Should it go on, the account begins anew.
            self._odd += 1
            if self._odd < 3:
                return
            self._begin_anew()
        self._odd = 0
        if not self._beats and processed == 0:
            self._base = {}  # heard from its birth
        self._beats.append((clock, processed, spoke, at))
        if len(self._beats) < 3:
            return
        (c1, p1, *_), (c2, p2, spoke, _), _ = self._beats
        within = {start.clock: start.uuid for start in self.starts if c1 < start.clock < c2}
        self.starts = [start for start in self.starts if start.clock > c2]
        self._left = len(self.starts)
        heard = spoke or bool(within)
        self._heard = self._heard or heard
        # With silent tasks about, only the counts by name can tell quiet from silent.
        if self.silent_names or not self._is_quiet(p2 - p1, heard):
            if self._settle((c1, p1), (c2, p2), within, name_of):
                self._heard = heard  # it may have come after the answer
            self.sum += p2 - p1 - len(within)
            self.seen += len(within)
            if not self.silent_names:
                self.missed = max(self.missed, min(self.sum, self._before) - self.over)
            self._before = self.sum
        del self._beats[0]

    def blind(self) -> None:
        """We do not listen: what is not heard now was missed, and says nothing of what is sent."""
        self.spoke = True

    def told(self, clock: int, totals: dict[str, int]) -> None:
        """What the process answered to stats: its starts by name, all told, when its clock stood there."""
        if self._beats and clock >= self._beats[0][0] and len(self._told) < ANSWERS:
            self._told.append((clock, totals))

    @property
    def account(self) -> Account | None:
        """To go on from after a restart."""
        if not self._beats:
            return None
        clock, processed, _, at = self._beats[0]
        return (clock, processed, max(0, self.sum - self.missed - self.silent - self.over), at)

    def resume(self, account: Account, starts: Iterable[Start]) -> None:
        """Go on from what was stored; ``starts`` are those that history holds of this process."""
        clock, processed, self.sum, at = account
        self._before = self.sum
        self._beats = [(clock, processed, False, at)]
        self.starts = [*(start for start in starts if start.clock > clock), *self.starts]

    # private

    def _begin_anew(self) -> None:
        self._beats.clear()
        self.starts.clear()
        self._told.clear()
        self._base, self._left = None, 0

    def _is_quiet(self, growth: int, heard: bool) -> bool:
        """Whether it ran tasks in this interval and said nothing: lost, or never sent?"""
        if growth > 0 and not heard:
            self._held += growth
            self._quiet += 1
            if self._quiet >= 2:
                # Twice over: its task events are off, so nothing was lost.
                self.events_on = False
                self.unsent += self._held
                self._held = 0
                self._silent_before, self._base = self.silent, None
                self._told.clear()
            return True
        if heard or self.events_on:
            self.sum += self._held
            self._held = self._quiet = 0
        return False

    def _settle(
        self,
        begin: tuple[int, int],
        end: tuple[int, int],
        within: dict[int, str],
        name_of: Callable[[str], str],
    ) -> bool:
        """Count the starts of an interval by name; compare at each answer to stats in it, if there is one."""
        (c1, p1), (c2, p2) = begin, end
        answers = sorted(((clock, totals) for clock, totals in self._told if clock < c2), key=lambda a: a[0])
        self._told = [answer for answer in self._told if answer[0] >= c2]
        if not answers:
            if self._base is not None:
                self._names.update(map(name_of, within.values()))
            return False
        clocks = sorted(within)
        at = 0
        for clock, totals in [*answers, (c2, None)]:
            while at < len(clocks) and clocks[at] <= clock:
                if self._base is not None:
                    self._names[name_of(within[clocks[at]])] += 1
                at += 1
            # A sum that cannot be is an answer of another process, or was cut.
            if totals is not None and clock >= c1 and p1 <= (total := sum(totals.values())) <= p2:
                self._compare(totals, self.sum + total - p1 - at)
        return bool(answers)

    def _compare(self, totals: dict[str, int], unheard: int) -> None:
        silent_names = self.silent_names
        if self._base is None:
            self._base = totals
            self._names.clear()
            # Of what was missed before the first answer, what may be silent is taken for it.
            may = sum(totals.get(name, 0) for name in silent_names)
            self._silent_before = max(self._silent_before, min(max(unheard, 0), may))
        base = self._base
        grown = sum(totals.get(name, 0) - base.get(name, 0) for name in silent_names)
        self.silent = self._silent_before + max(0, grown)
        unexplained = max(0, unheard - self.silent - self.over)
        if silent_names:
            unexplained -= self._not_sent(unexplained)
            self.missed = min(unexplained, self._unexplained)
        self._unexplained = unexplained
        if self.missed or self.missed_names:
            lost = {
                name: total - base.get(name, 0) - self._names[name]
                for name, total in totals.items()
                if name not in silent_names
            }
            lost = {name: n for name, n in lost.items() if n > 0}
            self.missed_names = dict(sorted(lost.items(), key=lambda item: -item[1])[:NAMES])

    def _not_sent(self, unexplained: int) -> int:
        """How much of it was not sent, since all task events are off: nothing heard over two answers."""
        if self._heard or unexplained <= self._unexplained:
            if self._heard or self.events_on:
                self._mute = 0
            return 0
        if not self._mute:
            self._mute_from = self._unexplained
        self._mute += 1
        if self._mute < 2:
            return 0
        self.events_on = False
        not_sent = unexplained - self._mute_from
        self.unsent += not_sent
        self.sum -= not_sent
        return not_sent
