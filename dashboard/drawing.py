"""Live regions, and the threads that draw them."""

from __future__ import annotations

import asyncio
import heapq
import json
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connections
from django.urls import set_script_prefix

from dashboard.fragments import Page, Region
from dashboard.outbox import Frame, Outbox

THREADS = 2  # They share one interpreter: more would draw no more.


@dataclass(slots=True, eq=False)
class Live:
    """A region that someone looks at, on one page or on several that it cannot tell apart."""

    region: Region
    page: Page
    topics: frozenset[str]
    sockets: set[Outbox] = field(default_factory=set)
    newcomers: set[Outbox] = field(default_factory=set)  # get the next draw even when it brings nothing new
    dirty: bool = True
    doubtful: bool = False  # dirty only since any task may have changed
    asking: bool = False  # being drawn for that reason
    stamp: object = None  # the region's, at its last draw
    drawing: bool = False
    due: float = 0.0  # monotonic; no draw before it
    queued_at: float = 0.0
    drawn_at: float = 0.0
    cost: float = 0.0  # seconds of the last draws
    content: str | None = None
    frame: Frame | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a thread brings back."""

    content: str | None  # None: nobody looks any more, or the draw failed
    began: float = 0.0
    ended: float = 0.0
    worked: float = 0.0  # seconds of processor
    problem: Exception | None = None
    is_same: bool = False  # as its stamp says: nothing was drawn


class Drawers:
    """A few threads that draw what is queued, the cheap regions first."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._queue: list[tuple[float, int, Live]] = []  # a heap
        self._busy = 0  # threads at work
        self._lock = threading.Lock()  # over these two

    def draw(self, lives: Iterable[Live], take: Callable[[Live, Drawn], None]) -> None:
        """Queues them; ``take`` gets each one back on the running loop."""
        with self._lock:
            for live in lives:
                heapq.heappush(self._queue, (live.cost, id(live), live))
            more = max(0, min(THREADS, len(self._queue)) - self._busy)
            self._busy += more
        if more and self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="umbel-draw")
        for _ in range(more):
            assert self._pool is not None
            self._pool.submit(self._work, asyncio.get_running_loop(), take)

    def stop(self) -> None:
        """What is queued is not drawn any more; what is being drawn is not waited for."""
        with self._lock:
            self._queue.clear()
        if self._pool:
            self._pool.shutdown(wait=False)
            self._pool = None

    def _work(self, loop: asyncio.AbstractEventLoop, take: Callable[[Live, Drawn], None]) -> None:
        """Draws until nothing is queued: each handing over costs a wait for the interpreter."""
        while True:
            with self._lock:
                if not self._queue:
                    self._busy -= 1
                    return
                live = heapq.heappop(self._queue)[2]
            drawn = _drawn(live)
            try:
                loop.call_soon_threadsafe(take, live, drawn)
            except RuntimeError:  # the loop has closed
                self.stop()


def framed(region: Region, content: str) -> Frame:
    """The frame of a region that holds this."""
    head = f'{{"region":{json.dumps(region.name)}'
    if region.data:
        return Frame(region.name, f'{head},"data":{content}}}')
    held = ',"held":true' if region.held else ""
    swap = f'"target":{json.dumps("#" + region.name)},"swap":"outerMorph","content":{json.dumps(content)}'
    return Frame(region.name, f"{head}{held},{swap}}}")


def _drawn(live: Live) -> Drawn:
    """What the region holds now; runs in a thread."""
    if not live.sockets:
        return Drawn(None)
    began, worked = time.monotonic(), time.thread_time()
    # A request sets it for its own thread; no request comes here.
    set_script_prefix(settings.FORCE_SCRIPT_NAME or "/")
    try:
        if live.region.stamp:
            before, live.stamp = live.stamp, live.region.stamp(live.page)
            if live.asking and live.content is not None and live.stamp == before:
                return Drawn(live.content, began, time.monotonic(), time.thread_time() - worked, is_same=True)
        if live.region.data:
            content = json.dumps(live.region.values(live.page), cls=DjangoJSONEncoder, separators=(",", ":"))
        else:
            # htmx would insert white space around the element again with each frame.
            content = live.region.draw(live.page).strip()
    except Exception as problem:  # noqa: BLE001 - one region's failure must not stop the others
        # The thread keeps its connection between draws, unless it may be the reason of the failure.
        connections.close_all()
        live.stamp = None
        return Drawn(None, problem=problem)
    return Drawn(content, began, time.monotonic(), time.thread_time() - worked)
