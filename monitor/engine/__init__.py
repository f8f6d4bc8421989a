"""The engine: events off the broker into the live cluster, into history, and out to whoever looks.

It runs in a thread and an asyncio loop of its own, beside a web server or alone.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
import structlog

from monitor import control, publish
from monitor.broker import Broker
from monitor.cluster import HOLD, Cluster
from monitor.cluster.processes import accounted_since
from monitor.deltas import FEED, topics
from monitor.engine.ends import GRACE
from monitor.engine.parts import Parts, acting, every, give_back, keeping
from monitor.engine.rounds import LIGHT_EVERY, SETTLE_EVERY, Ask, Rounds
from monitor.engine.shedding import COARSE, COARSE_EVERY, LEVELS, LONG, LONG_EVERY, RAW, Shedding
from monitor.engine.writer import Writer
from monitor.events import Decoded
from monitor.records import FeedRecord, Gap, Started, TaskRecord, WorkerRecord
from monitor.redact import DEFAULT, Redactor
from monitor.source import Source, source_of
from monitor.store import SLICE, Backlog, Store, search

__all__ = ["Engine", "Options"]

TICK = 0.125  # seconds
BUSY_TICK = 0.25  # seconds, at BUSY events a second; beyond, longer in proportion
HOLD_FROM = 1_500.0  # events a second from which quick tasks are written once, when they have ended
BUSY = 6_000.0  # events a second above which ticks grow longer, up to a second
LATELY = 2.5  # seconds by which the load is taken: a burst of one tick is none
GATHER = 0.02  # seconds after the first event of a tick, so that what belongs together comes together
HELPING = 500  # tasks derived before others on the loop have their turn
FEED_EVERY = 1.0
PRUNE_EVERY = 60.0
INDEX_EVERY, INDEX_BEHIND = 0.5, 1.5
INDEX_AT_ONCE = 500  # tasks: the rows of the next tick wait for them
LOOK_EVERY = 0.25
OPEN_TASKS = 50_000  # restored at the start

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Options:
    """What an engine works with. ``source`` and ``ask`` default to those of the broker."""

    broker: Broker
    store: Store
    redactor: Redactor = DEFAULT
    source: Source | None = None
    ask: Ask | None = None
    publish: Callable[[Iterable[str]], None] = publish.publish
    clock: Callable[[], float] = time.time
    inspect_every: float = LIGHT_EVERY
    keeper: Callable[[], int] | None = None  # looks after standing revokes, in a thread; how many stand
    acts: Callable[[], float] | None = None  # sends acts on many, in a thread; seconds until its next look
    tender: Callable[[], int] | None = (
        None  # looks after what was set on workers; see control.workers.tending
    )
    end_grace: float = GRACE  # seconds from "no worker has it" to "end not seen"
    intake_limit: int = 100_000  # events that wait to become rows
    backlog_limit: int = 50_000  # records that wait to be written
    cluster: Cluster | None = field(default=None)
    # From when history was last written until now: what was not heard of it. None: all of it was.
    gap: Callable[[float, float], Gap | None] = lambda last, now: Gap(last, now, "Umbel was not running")


class Engine:
    """Start it once; ``stop`` flushes. ``failed`` says why it died, if it did."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.cluster = options.cluster or Cluster(redactor=options.redactor)
        self.failed = ""
        self._parts = Parts(options.redactor)
        self.feed = FeedRecord()
        # What came before history was remembered, in order; None: it goes straight to the cluster.
        self._early: list[tuple[Decoded, float] | tuple[bool, str, float]] | None = []
        self._shedding = Shedding(options.intake_limit)
        self._shedding_from = int(LEVELS[1][0] * options.intake_limit)
        self._told: set[str] = set()  # topics that wait, while pages are told less often
        self._told_at = 0.0
        self._stirred = asyncio.Event()  # something came since the last tick
        self._backlog = Backlog(options.backlog_limit)
        self._started_at = 0.0
        self._rate = 0.0  # events a second since the last tick
        self._lately = 0.0  # the same over LATELY
        self._written_until = 0.0  # whatever was heard before has been written, our clock
        self._ticked = (0.0, 0)  # monotonic time and events received at the last tick
        self._fed_at = 0.0
        self._fed_state: object = None
        self._discard = False
        self._joining = asyncio.Event()
        self._stopping = asyncio.Event()
        self._begun = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def crashes(self) -> dict[str, int]:
        """How often each part crashed, and ran again."""
        return self._parts.crashes

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def unsaved(self) -> int:
        """Records that are not in the database: not yet, or after ``stop``, never."""
        return len(self._backlog)

    def start(self) -> None:
        """In a thread of its own; the database must be migrated."""
        if self._thread is not None:
            raise RuntimeError("This engine was started before; make a new one.")
        self._thread = threading.Thread(target=self._run, name="umbel-engine", daemon=True)
        self._thread.start()
        self._begun.wait(5.0)

    def stop(self, timeout: float = 10.0, *, discard: bool = False) -> bool:
        """End cleanly: hear no more, apply and write what waits, close. Whether it ended in time.

        ``discard``: write nothing more, since another leads.
        """
        self._discard = discard
        if self._thread is None:
            return True
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                self._loop = runner.get_loop()
                self._begun.set()
                runner.run(self._watch())
        except BaseException as error:
            self.failed = self.options.redactor.text(f"{type(error).__name__}: {error}")
            log.critical("engine died", error=self.failed, traceback=self._parts.traceback())
            raise

    async def _watch(self) -> None:
        """The whole story: remember, listen, apply, write, look around; at the end write what is left."""
        _spare_the_collector()
        self._started_at = self.options.clock()
        self._writer = Writer(self.options.store, self._backlog, self.options.redactor)
        self._source = self.options.source or source_of(self.options.broker)
        self._rounds = Rounds(
            self.cluster,
            self.options.ask or control,
            self.options.broker.read_results,
            self.options.clock,
            light_every=self.options.inspect_every,
            grace=self.options.end_grace,
            broker=self.options.broker,
        )
        log.info("engine starts", broker=self.options.broker.shown, transport=self.options.broker.transport)
        listening = self._parts.keep("listen", self._listen)
        await self._restore()
        working = [
            self._parts.keep("tick", self._tick_for_ever),
            self._parts.keep("join", self._join_for_ever),
            self._parts.keep("look", every(LOOK_EVERY, self._rounds.look_around)),
            self._parts.keep("settle", every(SETTLE_EVERY, self._rounds.settle)),
            self._parts.keep("prune", every(PRUNE_EVERY, self._prune)),
            self._parts.keep("index", every(INDEX_EVERY, self._index)),
        ]
        if self.options.keeper is not None:
            working.append(self._parts.keep("keep", keeping(self.options.keeper)))
        if self.options.acts is not None:
            working.append(self._parts.keep("act", acting(self.options.acts)))
        if self.options.tender is not None:
            working.append(self._parts.keep("tend", keeping(self.options.tender)))
        try:
            await self._stopping.wait()
        finally:
            self._source.stop()
            await asyncio.wait([listening], timeout=2.0)
            for runner in (listening, *working):
                runner.cancel()
            await asyncio.gather(listening, *working, return_exceptions=True)
            await self._end()

    async def _restore(self) -> None:
        """What history knows of workers and of tasks without an end."""
        store, now = self.options.store, self.options.clock()
        workers: list[WorkerRecord] = await self._writer.read(store.workers, otherwise=[])
        tasks: list[TaskRecord] = await self._writer.read(store.open_tasks, OPEN_TASKS, otherwise=[])
        gaps: list[Gap] = await self._writer.read(store.open_gaps, otherwise=[])
        starts: list[Started] = []
        if (since := accounted_since(workers)) is not None:
            starts = await self._writer.read(store.starts, since, otherwise=[])
        self.cluster.restore(workers, tasks, now, starts)
        early, self._early = self._early or [], None
        for item in early:
            if isinstance(item[0], Decoded):
                self._on_message(item[0], float(item[1]))
            else:
                self._on_state(bool(item[0]), str(item[1]), float(item[2]))
        self._backlog.add(msgspec.structs.replace(gap, ended_at=now) for gap in gaps)
        last = await self._writer.read(store.last_feed, otherwise=None)
        if last is not None and last < now and (gap := self.options.gap(last, now)) is not None:
            self._backlog.add([gap])
            self._rounds.blind(gap)
        log.info("engine remembers", workers=len(workers), unfinished=len(tasks))

    async def _listen(self) -> None:
        await self._source.run(self._on_message, self._on_state)
        # A source that ends by itself (a recording) leaves the rest running.
        await self._stopping.wait()

    def _on_state(self, connected: bool, reason: str, since: float | None = None) -> None:
        at = self.options.clock() if since is None else since
        if self._early is not None:
            self._early.append((connected, reason, at))
            return
        self._apply_state(connected, reason, at)
        self._stirred.set()

    def _on_message(self, decoded: Decoded, received_at: float) -> None:
        """Filed at once, in memory: reading never waits for the database."""
        if self._early is not None:
            self._early.append((decoded, received_at))
            return
        if decoded.malformed or decoded.ignored:
            self.cluster.count(decoded)
        events = decoded.events
        if not events:
            return
        waiting = self.cluster.waiting
        if waiting + len(events) > self.options.intake_limit:
            self.cluster.drop(len(events), "overflow")
            return
        if (waiting > self._shedding_from or self._shedding.level) and self._shedding.look(waiting) >= RAW:
            whole, events = events, self._shedding.thin(events)
            if len(events) < len(whole):
                kept = set(map(id, events))
                self.cluster.shed([event for event in whole if id(event) not in kept], received_at)
        left = iter(events)
        while True:
            try:
                self.cluster.apply_all(left, received_at)
                break
            except Exception as error:  # noqa: BLE001 - the edge: one event costs only itself
                self._parts.crashed("apply", error)
                self.cluster.drop(1, "error in Umbel")
        if not self._stirred.is_set():
            self._stirred.set()

    def _apply_state(self, connected: bool, reason: str, at: float) -> None:
        if connected:
            log.info("broker connected")
            if (gap := self.cluster.connected(at)) is not None:
                self._rounds.blind(gap)
            self._joining.set()
        else:
            log.warning("broker disconnected", reason=reason)
            self.cluster.disconnected(at, reason)

    async def _tick_for_ever(self) -> None:
        """At once when something comes after a silence, else every tick; never faster than the writer."""
        while True:
            # Not wait_for: until Python 3.12 it may swallow the cancellation that ends us.
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK):
                    await self._stirred.wait()
            await asyncio.sleep(GATHER)
            self._stirred.clear()
            began = time.monotonic()
            await self._tick()
            pause = self._next_tick()
            await asyncio.sleep(max(0.0, pause - GATHER - (time.monotonic() - began)))

    def _next_tick(self) -> float:
        """Seconds until the next; longer the more comes: a task that ends within a tick is written once."""
        now, received = time.monotonic(), self.cluster.accounting.received
        rate = self._rate = (received - self._ticked[1]) / max(now - self._ticked[0], TICK)
        self._lately += (rate - self._lately) * min(1.0, (now - self._ticked[0]) / LATELY)
        self._ticked = (now, received)
        if self._shedding.look(self.cluster.waiting) >= LONG:
            pause = LONG_EVERY
        else:
            pause = min(BUSY_TICK * rate / BUSY, LONG_EVERY) if rate > BUSY else TICK
        return pause

    async def _tick(self) -> None:
        """Whatever changed since the last tick: completed from history, committed, and only then told."""
        now = self.options.clock()
        self.cluster.tick(now)
        complete = await self._warm()
        hold = self._rate > HOLD_FROM and not self._stopping.is_set()
        self._backlog.add(self.cluster.drain(now, HELPING, hold=hold))
        while self.cluster.undrained:
            await asyncio.sleep(0)  # reading goes on
            self._backlog.add(self.cluster.drain(now, HELPING, hold=hold))
        self._feed(now)
        failing = bool(self._writer.error)
        written = await self._writer.flush(now)
        # What cannot be written could not be read back: it stays in memory.
        self.cluster.keep = bool(self._writer.error)
        if complete and not self._writer.error and not self._backlog:
            self._written_until = now - HOLD
        self._told |= topics(written)
        if failing != bool(self._writer.error):
            self._told.add(FEED)
        if self._told and (self._shedding.level < COARSE or now - self._told_at >= COARSE_EVERY):
            told, self._told, self._told_at = self._told, set(), now
            self.options.publish(told)

    async def _warm(self) -> bool:
        """Tasks heard of again after they left memory: what history knows of them comes back first.

        False when the database could not say: what was heard of them waits.
        """
        cold = self.cluster.cold()
        records = await self._writer.load(cold) if cold else []
        if records is not None:
            self.cluster.absorb(records)
        return records is not None

    def _feed(self, now: float) -> None:
        """The feed record, once a second and at once when it says something else."""
        feed = self.cluster.feed(now)
        state = (feed.connected, feed.error, self._writer.error, sum(self.crashes.values()))
        if now - self._fed_at < FEED_EVERY and state == self._fed_state:
            return
        self._fed_at, self._fed_state = now, state
        limits = dict(feed.limits)
        limits |= {f"{part} restarted": count for part, count in self.crashes.items()}
        if self._backlog.let_go:
            limits["records not written"] = self._backlog.let_go
        if self.options.store.refused:
            limits["records refused"] = self.options.store.refused
        self.feed = msgspec.structs.replace(
            feed,
            broker=self.options.broker.shown,
            transport=self.options.broker.transport,
            started_at=self._started_at,
            limits=limits,
            store_failures=self._writer.failures,
            store_pending=len(self._backlog),
            store_error=self._writer.error,
            silent=self.cluster.workers.silent,
            shed_level=self._shedding.level,
            shed_highest=self._shedding.highest,
            shedding=self._shedding.says,
            shed=dict(self._shedding.shed),
            waiting=self.cluster.waiting,
            looked_back=dict(self._rounds.looked_back),
            stalled=list(self._rounds.stalls.found),
            depths=dict(self._rounds.stalls.depths),
            depths_at=self._rounds.stalls.depths_at,
        )
        if (output := getattr(self._source, "output", None)) is not None:
            self.feed.output_waiting, self.feed.output_limit = output.waiting, output.limit
            self.feed.output_cuts = output.cuts
        self._backlog.add([self.feed])

    async def _join_for_ever(self) -> None:
        while True:
            await self._joining.wait()
            self._joining.clear()
            await self._rounds.join()

    async def _prune(self) -> None:
        """A slice at a time, so that the writes of the ticks come in between."""
        total = 0
        while True:
            lost = await self._writer.read(self.options.store.prune, self.options.clock(), otherwise=0)
            total += lost
            if lost < SLICE:
                break
            await asyncio.sleep(TICK)
        if total:
            log.info("history pruned", rows=total)
        await asyncio.to_thread(give_back)

    async def _index(self) -> None:
        """Words for the search, in the time that is left: a loaded engine lags here first."""
        while self._lately < BUSY and not self._writer.error:
            until = min(self.options.clock() - INDEX_BEHIND, self._written_until)
            done = await self._writer.read(search.index_some, INDEX_AT_ONCE, until, otherwise=0)
            if done < INDEX_AT_ONCE:
                break
            await asyncio.sleep(0.01)

    async def _end(self) -> None:
        """Nothing that was heard is lost at the end, as far as the database lets us."""
        self._rounds.close()
        if self._discard:
            await self._writer.close()
            log.info("engine ends, another leads", not_written=len(self._backlog))
            return
        await self._tick()
        self._backlog.add(self.cluster.last_counts())
        if self._backlog:
            await self._writer.flush(self.options.clock(), at_once=True)
        if self._backlog:
            log.error("engine ends with records not written", records=len(self._backlog))
        await self._writer.close()
        log.info("engine ends", events=self.cluster.accounting.received)


def _spare_the_collector() -> None:
    """What is loaded by now stays for good, and events make no cycles: look for garbage seldom.

    Measured: with Python's own thresholds a third of the engine's time goes into looking.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
