"""The hub: hears what changed, draws each live region once per distinct page, hands the frames to sockets.

There is one in each web process. It runs wholly on the web's event loop; only drawing happens in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import structlog
from channels.layers import get_channel_layer
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connections

from dashboard import fragments
from dashboard.fragments import Page, Region
from dashboard.outbox import Frame, Outbox

log = structlog.get_logger(__name__)

GROUP = "umbel"
SIGNED_OUT = "signed out"
CLOCK = "clock"  # The topic of regions that change with time alone; the hub itself fires it, once a second.
WORKERS = 2  # Threads that draw.
SHARE = (
    4.0  # A region is drawn no oftener than this many times its last cost, so drawing takes a fixed share.
)
BUDGET = 0.4  # Seconds of drawing in a second, all regions together; over that, all are drawn less often.
ORIGINS = 256  # Processes that publish.
SOCKETS = 1000  # In one process; more are told to try again later.
# Channel layers forget a member after a day, and the one in memory a member that slept a minute (a suspended
# laptop). Being a member twice does no harm, and the gap in the numbers brings what was missed.
REJOIN = 30.0
LAYER_RETRY = 1.0
RETRY = 2.0  # After a draw that failed.
CLEAN = 5.0  # A drawn region this young is shown to a new socket as it is.


@dataclass(slots=True, eq=False)
class Live:
    """A region that someone looks at, on one page or on several that it cannot tell apart."""

    region: Region
    page: Page
    topics: frozenset[str]
    sockets: set[Outbox] = field(default_factory=set)
    newcomers: set[Outbox] = field(default_factory=set)  # get the next draw even when it brings nothing new
    dirty: bool = True
    drawing: bool = False
    due: float = 0.0  # monotonic; no draw before it
    drawn_at: float = 0.0
    content: str | None = None
    frame: Frame | None = None


@dataclass(slots=True)
class Counts:
    """What the hub did since it started."""

    drawn: int = 0
    unchanged: int = 0
    failed: int = 0
    sent: int = 0
    heard: int = 0
    gaps: int = 0
    layer_errors: int = 0
    dropped: int = 0
    refused: int = 0


class Hub:
    """Joins sockets to the pages they show."""

    def __init__(self, regions: Callable[[Page], Iterable[Region]] = fragments.regions) -> None:
        self.counts = Counts()
        self._regions = regions
        self._lives: dict[tuple[str, Page], Live] = {}  # by region and the part of the page that it sees
        self._topics: dict[str, set[Live]] = {}
        self._sockets: dict[Outbox, list[Live]] = {}
        self._heard: OrderedDict[str, int] = OrderedDict()  # the last message's number, by origin
        self._runners: list[asyncio.Task[None]] = []
        self._draws: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._listening = asyncio.Event()
        self._pool: ThreadPoolExecutor | None = None
        self._slots = asyncio.Semaphore(WORKERS)
        self._spent = 0.0  # seconds drawn since the last tick
        self._stretch = 1.0  # by how much all waits are longer now

    @property
    def sockets(self) -> int:
        return len(self._sockets)

    @property
    def watched(self) -> int:
        """Regions that someone looks at."""
        return len(self._lives)

    def is_full(self) -> bool:
        full = len(self._sockets) >= SOCKETS
        self.counts.refused += full
        return full

    async def join(self, outbox: Outbox) -> None:
        """From here on the socket hears of every change; then it gets each region as it is now."""
        self._start()
        await self._listening.wait()
        lives = self._sockets[outbox] = [
            self._live(region, outbox.page) for region in self._regions(outbox.page)
        ]
        for live in lives:
            live.sockets.add(outbox)
            young = time.monotonic() - live.drawn_at < CLEAN
            if live.frame and young and not live.dirty and not live.drawing:
                outbox.put(live.frame)
            else:
                live.newcomers.add(outbox)
                live.dirty = True
        self._wake.set()

    def leave(self, outbox: Outbox) -> None:
        """Regions that nobody looks at any more are forgotten, and cost nothing."""
        if outbox not in self._sockets:
            return
        self.counts.dropped += outbox.dropped
        for live in self._sockets.pop(outbox):
            live.sockets.discard(outbox)
            live.newcomers.discard(outbox)
            if not live.sockets:
                self._forget(live)

    def _live(self, region: Region, page: Page) -> Live:
        part = region.part(page)
        live = self._lives.get((region.name, part))
        if live is None:
            live = self._lives[region.name, part] = Live(region, part, region.listens(part))
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
                live.dirty = touched = True
        if touched:
            self._wake.set()

    async def stop(self) -> None:
        """Ends the runners; sockets are told to close."""
        for outbox in self._sockets:
            outbox.close("stopping")
        running = [*self._runners, *self._draws]
        self._runners = []
        for runner in running:
            runner.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._pool:
            self._pool.shutdown(wait=False)
            self._pool = None
        self._listening.clear()

    # The runners

    def _start(self) -> None:
        if self._runners and not any(runner.done() for runner in self._runners):
            return
        for runner in self._runners:
            runner.cancel()
        self._pool = self._pool or ThreadPoolExecutor(WORKERS, thread_name_prefix="umbel-draw")
        stories: list[Coroutine[Any, Any, None]] = [self._listen(), self._draw(), self._tick()]
        self._runners = [asyncio.create_task(story) for story in stories]

    async def _listen(self) -> None:
        """The process's one subscription."""
        layer = get_channel_layer()
        assert layer is not None, "CHANNEL_LAYERS names no default layer"
        while True:
            try:
                channel = await layer.new_channel()
                await layer.group_add(GROUP, channel)
                # What was said while nobody listened is made up for by drawing everything once.
                self.changed(list(self._topics))
                self._listening.set()
                await self._receive(layer, channel)
            except Exception as problem:  # noqa: BLE001 - the layer is a network service; the loop must go on
                self.counts.layer_errors += 1
                log.warning("The channel layer failed; listening again soon.", problem=repr(problem))
                # Sockets need not wait for the layer: they get what is in the database.
                self._listening.set()
                await asyncio.sleep(LAYER_RETRY)

    async def _receive(self, layer: Any, channel: str) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REJOIN) as joined:
                    while True:
                        message = await layer.receive(channel)
                        self._hear(message)
                        if asyncio.get_running_loop().time() > (joined.when() or 0):
                            break
            await layer.group_add(GROUP, channel)

    def _hear(self, message: Mapping[str, Any]) -> None:
        """Marks what the message names; after a gap in its origin's numbers, everything."""
        self.counts.heard += 1
        origin, number = str(message.get("origin", "")), int(message.get("seq", 0))
        before = self._heard.pop(origin, number - 1)
        self._heard[origin] = number
        if len(self._heard) > ORIGINS:
            self._heard.popitem(last=False)
        topics = set(message.get("topics", ()))
        if number > before + 1:
            self.counts.gaps += 1
            topics |= set(self._topics)
        self.changed(topics)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            load, self._spent = self._spent / BUDGET, 0.0
            self._stretch = min(8.0, max(1.0, self._stretch * min(max(load, 0.8), 2.0)))
            self.changed((CLOCK,))

    async def _draw(self) -> None:
        """Starts a draw of each dirty region whose time has come, then sleeps until the next one's."""
        while True:
            self._wake.clear()
            now = time.monotonic()
            waits = [RETRY]
            for live in self._lives.values():
                if not live.dirty or live.drawing:
                    continue
                if live.due > now:
                    waits.append(live.due - now)
                    continue
                live.drawing = True
                draw = asyncio.create_task(self._redraw(live))
                self._draws.add(draw)
                draw.add_done_callback(self._draws.discard)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(waits)):
                    await self._wake.wait()

    async def _redraw(self, live: Live) -> None:
        async with self._slots:
            if not live.sockets:
                live.drawing = False
                return
            # Before the draw: what changes during it makes the region dirty again.
            live.dirty = False
            newcomers, live.newcomers = live.newcomers, set()
            began = time.monotonic()
            try:
                content, worked = await asyncio.get_running_loop().run_in_executor(self._pool, _content, live)
            except Exception:  # one region's failure must not stop the others
                self.counts.failed += 1
                log.exception(
                    "A live region could not be drawn.", region=live.region.name, view=live.page.view
                )
                live.dirty = True
                live.newcomers |= newcomers & live.sockets
                live.due = time.monotonic() + RETRY
            else:
                self._hand_out(live, content, newcomers)
                ended = time.monotonic()
                live.drawn_at = ended
                # What it waited for a busy machine is not all its own doing.
                self._spent += max(worked, (ended - began) / 2)
                live.due = began + self._stretch * max(live.region.every, SHARE * (ended - began))
            finally:
                live.drawing = False
                self._wake.set()

    def _hand_out(self, live: Live, content: str, newcomers: set[Outbox]) -> None:
        self.counts.drawn += 1
        if content != live.content or live.frame is None:
            live.content, live.frame = content, _frame(live.region, content)
            readers = live.sockets
        else:
            self.counts.unchanged += 1
            readers = newcomers & live.sockets
        for outbox in readers:
            outbox.put(live.frame)
            self.counts.sent += 1


def current() -> Hub:
    """The hub of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _HUBS:
        _HUBS[loop] = Hub()
    return _HUBS[loop]


def _content(live: Live) -> tuple[str, float]:
    """What the region holds now, and the seconds of processor that took; runs in a thread."""
    began = time.thread_time()
    try:
        if live.region.data:
            content = json.dumps(live.region.values(live.page), cls=DjangoJSONEncoder, separators=(",", ":"))
        else:
            # htmx would insert white space around the element again with each frame.
            content = live.region.draw(live.page).strip()
    except Exception:
        # The thread keeps its connection between draws, unless it may be the reason of the failure.
        connections.close_all()
        raise
    return content, time.thread_time() - began


def _frame(region: Region, content: str) -> Frame:
    head = f'"region":{json.dumps(region.name)}'
    if region.data:
        return Frame(region.name, f'{head},"data":{content}}}')
    held = ',"held":true' if region.held else ""
    swap = f'"target":{json.dumps("#" + region.name)},"swap":"outerMorph","content":{json.dumps(content)}'
    return Frame(region.name, f"{head}{held},{swap}}}")


_HUBS: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()
