"""The hub: hears what changed, draws each live region once per distinct page, hands the frames to sockets.

There is one in each web process. It runs wholly on the web's event loop; only drawing happens in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any
from weakref import WeakKeyDictionary

import structlog

from dashboard import fragments
from dashboard.drawing import Drawers, Drawn, Live, framed
from dashboard.fragments import Page, Region
from dashboard.listening import Counts, Listener
from dashboard.outbox import Beat, Outbox
from dashboard.pace import Pace
from dashboard.rights import SIGNED_OUT
from monitor.deltas import TASKS
from monitor.publish import ANY_TASK, TASK

log = structlog.get_logger(__name__)

CLOCK = "clock"  # The topic of regions that change with time alone; the hub itself fires it, once a second.
SOCKETS = 1000  # In one process; more are told to try again later.
RETRY = 2.0  # After a draw that failed.
CLEAN = 5.0  # A drawn region this young is shown to a new socket as it is.
# Draws keep step with what is told, so that the regions of a page leave in one message: one told of this much
# early is drawn at once, and one whose time has come waits this long to be told of with the others.
EARLY, RIDE = 0.03, 0.1
CREDIT = 0.2  # By so much a draw may follow sooner on one that came late: what is told has no steady step.
GATHER = 0.03  # What is drawn waits this long for the rest of its round.
BURST = 1  # Messages a socket may get ahead of its pace: the cheap regions of a round, then the costly ones.
# A little faster than regions are drawn: else a frame that once had to wait for its turn would always wait.
STEP = 0.9  # of a period, between the messages of a socket


class Hub:
    """Joins sockets to the pages they show."""

    def __init__(self, regions: Callable[[Page], Iterable[Region]] = fragments.regions) -> None:
        self.counts = Counts()
        self.pace = Pace()
        self._regions = regions
        self._lives: dict[tuple[str, Page], Live] = {}  # by region and the part of the page that it sees
        self._topics: dict[str, set[Live]] = {}
        self._sockets: dict[Outbox, list[Live]] = {}
        self._unsent: set[Outbox] = set()  # something waits in them for its turn
        self._runners: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self._told = False  # since the last look for what is to be drawn
        self._drawers = Drawers()
        self._listener = Listener(self.counts, self.changed, self._topics.keys)
        self._drawing = False  # whether some region is with them
        self._gathered_at = 0.0  # when the first draw of the round came back; 0: none has
        self._spent = self._late = 0.0  # of the running second: seconds drawn, longest wait for a thread

    @property
    def sockets(self) -> int:
        return len(self._sockets)

    def outboxes(self) -> Iterable[Outbox]:
        return self._sockets.keys()

    def lives(self) -> Iterable[Live]:
        """Regions that someone looks at."""
        return self._lives.values()

    def is_full(self) -> bool:
        full = len(self._sockets) >= SOCKETS
        self.counts.refused += full
        return full

    async def join(self, outbox: Outbox) -> None:
        """From here on the socket hears of every change; then it gets each region as it is now."""
        self._start()
        await self._listener.listening.wait()
        lives = self._sockets[outbox] = [
            self._live(region, outbox.page) for region in self._regions(outbox.page)
        ]
        for live in lives:
            live.sockets.add(outbox)
            young = time.monotonic() - live.drawn_at < CLEAN
            if live.frame and young and not live.dirty and not live.drawing:
                outbox.put(live.frame)
                self._unsent.add(outbox)
            else:
                live.newcomers.add(outbox)
                live.dirty, live.doubtful = True, False
        self._wake.set()

    def leave(self, outbox: Outbox) -> None:
        """Regions that nobody looks at any more are forgotten, and cost nothing."""
        if outbox not in self._sockets:
            return
        self.counts.dropped += outbox.dropped
        self.counts.skipped += outbox.skipped
        self._unsent.discard(outbox)
        for live in self._sockets.pop(outbox):
            live.sockets.discard(outbox)
            live.newcomers.discard(outbox)
            if not live.sockets:
                self._forget(live)

    def _live(self, region: Region, page: Page) -> Live:
        part = region.part(page)
        live = self._lives.get((region.name, part))
        if live is None:
            topics = region.listens(part)
            if any(topic.startswith(TASK) for topic in topics):
                topics |= {ANY_TASK}
            live = self._lives[region.name, part] = Live(region, part, topics)
            for topic in live.topics:
                self._topics.setdefault(topic, set()).add(live)
        return live

    def _forget(self, live: Live) -> None:
        self._lives.pop((live.region.name, live.page), None)
        for topic in live.topics:
            listeners = self._topics.get(topic, set())
            listeners.discard(live)
            if not listeners:
                self._topics.pop(topic, None)

    def changed(self, topics: Iterable[str]) -> None:
        """Marks every region that listens to one of the topics."""
        touched = False
        for topic in topics:
            if topic.startswith("session:"):
                for outbox in self._sockets:
                    if outbox.session == topic:
                        outbox.close(SIGNED_OUT)
            for live in self._topics.get(topic, ()):
                live.doubtful = topic in _VAGUE and (live.doubtful or not live.dirty)
                live.dirty = touched = True
        if touched:
            self._told = True
            self._wake.set()

    async def stop(self) -> None:
        """Ends the runners; sockets are told to close."""
        for outbox in self._sockets:
            outbox.close("stopping")
        running, self._runners = self._runners, []
        for runner in running:
            runner.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._drawers.stop()
        for live in self._lives.values():
            live.dirty, live.doubtful, live.drawing = True, False, False
        self._listener.listening.clear()

    # The runners

    def _start(self) -> None:
        if self._runners and not any(runner.done() for runner in self._runners):
            return
        for runner in self._runners:
            runner.cancel()
        stories: list[Coroutine[Any, Any, None]] = [self._listener.listen(), self._draw(), self._tick()]
        self._runners = [asyncio.create_task(story) for story in stories]

    async def _tick(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(1.0)
            now = time.monotonic()
            # A loop that is late itself is as bad as threads that are.
            self.pace.second(self._spent, max(self._late, now - began - 1.0))
            self._spent = self._late = 0.0
            for live in self._topics.get(CLOCK, ()):
                if not live.dirty:
                    # It can wait for what is told next, and leave with that.
                    live.dirty, live.due = True, max(live.due, now)
            self._wake.set()

    async def _draw(self) -> None:
        """Queues each dirty region whose time has come, sends what is drawn, sleeps until the next is due."""
        while True:
            self._wake.clear()
            now = time.monotonic()
            wait = min(self._queue_due(now), self._send_due(now))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()

    def _queue_due(self, now: float) -> float:
        """Hands to the threads what is due; answers the seconds until something more is."""
        told, self._told = self._told, False
        soonest, due = RETRY, []
        self._drawing = False
        for live in self._lives.values():
            if live.dirty and not live.drawing:
                # Who has nothing yet does not wait for the others.
                ride = 0.0 if live.newcomers or self._is_fast(live) else RIDE
                if now < (live.due - EARLY if told else live.due + ride):
                    soonest = min(soonest, live.due + ride - now)
                    continue
                # What changes from here on makes it dirty again.
                live.dirty, live.asking, live.doubtful = False, live.doubtful, False
                live.drawing, live.queued_at = True, now
                due.append(live)
            self._drawing |= live.drawing
        self._drawers.draw(due, self._take)
        return soonest

    def _take(self, live: Live, drawn: Drawn) -> None:
        """A region comes back from its thread."""
        live.drawing = False
        if drawn.problem is not None:
            self.counts.failed += 1
            log.error(
                "A live region could not be drawn.",
                region=live.region.name,
                view=live.page.view,
                exc_info=drawn.problem,
            )
            live.dirty, live.doubtful = True, False
            live.due = time.monotonic() + RETRY
        elif drawn.content is not None:
            # What it waited for a busy machine is not all its own doing.
            cost = max(drawn.worked, (drawn.ended - drawn.began) / 4)
            if not drawn.is_same:
                live.cost = (live.cost + cost) / 2 if live.cost else cost
            live.drawn_at = drawn.ended
            live.due = max(live.due, drawn.began - CREDIT)
            if not drawn.is_same:
                live.due += self.pace.rest(live.region.every, live.cost, len(drawn.content))
            live.due = max(live.due, drawn.began + cost / self.pace.share)
            self._spent += cost
            self._late = max(self._late, drawn.began - live.queued_at)
            self._hand_out(live, drawn.content)
        self._wake.set()

    def _hand_out(self, live: Live, content: str) -> None:
        self.counts.drawn += 1
        if content != live.content or live.frame is None:
            live.content, live.frame = content, framed(live.region, content)
            readers = live.sockets
        else:
            self.counts.unchanged += 1
            readers = live.newcomers
        if readers:
            self._gathered_at = self._gathered_at or time.monotonic()
        for outbox in readers:
            outbox.put(live.frame)
            outbox.urgent |= self._is_fast(live)
            if outbox in live.newcomers:
                # Who has just come is not kept waiting for what was drawn a moment after the rest.
                outbox.urgent, outbox.allowed_at = True, 0.0
        self.counts.sent += len(readers)
        self._unsent |= readers
        live.newcomers = set()

    def _is_fast(self, live: Live) -> bool:
        return live.region.every <= self.pace.period

    def _send_due(self, now: float) -> float:
        """Sends what waits, each socket at its pace; answers the seconds until something more is due."""
        if not self._unsent:
            return RETRY
        if self._drawing and now < self._gathered_at + GATHER:
            return self._gathered_at + GATHER - now
        self._gathered_at = 0.0
        beat, period, soonest = Beat(), self.pace.period, RETRY
        for outbox in list(self._unsent):
            # Slow regions alone wait for a fast one to leave with, as long as one would take.
            allowed_at = outbox.allowed_at if outbox.urgent else outbox.sent_at + period
            if now < allowed_at:
                soonest = min(soonest, allowed_at - now)
                continue
            self._unsent.discard(outbox)
            outbox.allowed_at = max(outbox.allowed_at, now - BURST * period) + STEP * period
            outbox.sent_at, outbox.urgent = now, False
            try:
                self.counts.messages += outbox.flush(beat)
            except Exception:  # one socket's failure must not stop the others
                log.exception("A message could not be sent.")
                outbox.close("failed")
        self.counts.encoded += len(beat.messages)
        self._spent += time.monotonic() - now
        return soonest


def current() -> Hub:
    """The hub of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _HUBS:
        _HUBS[loop] = Hub()
    return _HUBS[loop]


def all_of_process() -> list[Hub]:
    """To read their figures, from any thread."""
    return list(_HUBS.values())


_VAGUE = (ANY_TASK, TASKS)  # topics that do not say which task
_HUBS: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()
