"""What changed, told to every web process through the channel layer, from any thread.

A message is ``{"type": "umbel.changed", "topics": [...], "seq": n, "origin": id}`` to the group ``umbel``;
``seq`` counts the messages of one origin (process), so that a listener sees a gap.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterable

import structlog
from channels.layers import get_channel_layer

GROUP = "umbel"
TYPE = "umbel.changed"
TASK = "task:"  # Starts the topic of a single task.
ANY_TASK = "task:*"  # Told in place of them when there are many: any task may have changed.
MOST_TASKS = 500
MOST_IN_MESSAGE = 1_000
SEND_TIMEOUT = 5.0  # seconds

log = structlog.get_logger(__name__)


class Publisher:
    """Sends topics on one loop and only there: a channel layer is not safe across loops.

    While a send is under way, topics gather and leave together. A failed send keeps its topics for the
    next ``publish``; nothing here blocks or raises.
    """

    def __init__(self) -> None:
        self.origin = uuid.uuid4().hex[:12]
        self.seq = 0
        self.failures = 0
        self._waiting: set[str] = set()
        self._sending = False
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bound = False
        self._runner: asyncio.Task[None] | None = None

    def bind(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Send on this loop (the web's, when the layer lives in memory); ``None``: on a loop of our own."""
        with self._lock:
            self._loop = loop
            self._bound = loop is not None
            self._sending = False

    def publish(self, topics: Iterable[str]) -> None:
        with self._lock:
            self._waiting.update(topics)
            self._waiting = _shortened(self._waiting)
            if self._sending or not self._waiting:
                return
            loop = self._running_loop()
            if loop is None:
                return
            self._sending = True
        try:
            loop.call_soon_threadsafe(self._start)
        except RuntimeError:  # the loop closed between the look and the call: shutting down
            with self._lock:
                self._sending = False

    def _running_loop(self) -> asyncio.AbstractEventLoop | None:
        """The bound loop, or one of our own, made at the first need. None: bound to a closed one."""
        if self._loop is not None and self._loop.is_closed():
            if self._bound:
                return None
            self._loop = None
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="umbel-publish", daemon=True).start()
        return self._loop

    def _start(self) -> None:
        self._runner = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        while True:
            with self._lock:
                topics, self._waiting = self._waiting, set()
                if not topics:
                    self._sending = False
                    return
            try:
                await self._send_all(sorted(topics))
            except Exception as error:  # noqa: BLE001 - the edge of the loop: any layer, any fault
                self.failures += 1
                if self.failures == 1 or self.failures % 100 == 0:
                    log.warning("publish failed", error=type(error).__name__, failures=self.failures)
                with self._lock:
                    self._waiting |= topics
                    self._sending = False
                return

    async def _send_all(self, topics: list[str]) -> None:
        layer = get_channel_layer()
        if layer is None:
            return
        for start in range(0, len(topics), MOST_IN_MESSAGE):
            self.seq += 1
            message = {
                "type": TYPE,
                "topics": topics[start : start + MOST_IN_MESSAGE],
                "seq": self.seq,
                "origin": self.origin,
            }
            async with asyncio.timeout(SEND_TIMEOUT):
                await layer.group_send(GROUP, message)


def _shortened(topics: set[str]) -> set[str]:
    """The same said shorter when it names many single tasks."""
    if len(topics) <= MOST_TASKS and ANY_TASK not in topics:
        return topics
    others = {topic for topic in topics if not topic.startswith(TASK)}
    if ANY_TASK not in topics and len(topics) - len(others) <= MOST_TASKS:
        return topics
    return others | {ANY_TASK}


_publisher = Publisher()

bind = _publisher.bind
publish = _publisher.publish
# The same, by the name that those outside the engine use.
announce = _publisher.publish
