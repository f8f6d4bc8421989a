"""What a standby hears before it leads, so that no event falls between two leaders.

It listens to the broker as the leader does, and keeps the last seconds. When it leads, the engine's own
source subscribes, and what was kept follows. Events that the former leader has written already come twice,
and the marks of a task make that harmless.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from monitor.source import OnMessage, OnState, Source

KEPT = 20.0  # seconds
MOST = 50_000  # messages
# The clocks of two machines may differ by so many seconds without our taking it for a gap.
APART = 0.25
# What was heard so long before the former leader's last word is said again: it may have been behind.
MARGIN = 8.0  # seconds
LATE = 4.0  # seconds that a standby goes on listening beside the source that follows it

log = structlog.get_logger(__name__)


class Standby:
    """Listens on a thread of its own, and calls ``listening`` there whenever it begins to hear.

    Make a new one for each time of waiting.
    """

    def __init__(
        self, source: Callable[[], Source], *, kept: float = KEPT, most: int = MOST,
        clock: Callable[[], float] = time.time, listening: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._make, self.kept, self.most, self.clock = source, kept, most, clock
        self._listening = listening
        self._items: deque[tuple[float, tuple[Any, ...]]] = deque()
        self._since: float | None = None
        self._source: Source | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="umbel-standby", daemon=True)

    @property
    def heard_since(self) -> float | None:
        """Since when everything that was said is kept here; None: it hears nothing."""
        since = self._since
        if since is None:
            return None
        return max(since, self.clock() - self.kept, self._from)

    _from = 0.0  # when the oldest message was let go

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        self._stopped = True
        if self._source is not None:
            with suppress(RuntimeError):  # its loop has ended by itself
                self._source.stop()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def messages(self, since: float) -> list[tuple[Any, ...]]:
        """What was heard since then, as the source told it."""
        return [item for at, item in self._items.copy() if at >= since]

    def _run(self) -> None:
        try:
            asyncio.run(self._listen())
        except Exception as error:  # noqa: BLE001 - the edge: without it a gap is longer, no more
            self._since = None
            log.warning("a standby cannot listen", error=type(error).__name__)

    async def _listen(self) -> None:
        self._source = self._make()
        if not self._stopped:
            await self._source.run(self._message, self._state)

    def _message(self, *item: Any) -> None:
        now = self.clock()
        items = self._items
        items.append((now, item))
        while items and (items[0][0] < now - self.kept or len(items) > self.most):
            self._from = items.popleft()[0]

    def _state(self, connected: bool, *reason: Any) -> None:
        self._since = self.clock() if connected else None
        if connected and not self._stopped:
            self._listening()


class Handover:
    """An engine's source that says first what a standby heard."""

    def __init__(self, source: Source, standby: Standby, since: Callable[[], float]) -> None:
        self._inner, self._standby, self._since = source, standby, since
        self._ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def run(self, on_message: OnMessage, on_state: OnState) -> None:
        def state(connected: bool, *more: Any) -> None:
            on_state(connected, *more)
            if connected and not self._ended:
                self._ended = True
                # Both listen now: nothing falls between. On a busy machine the standby may not have read all
                # that was said before the other listened: what it reads late follows.
                say(self._since())
                asyncio.get_running_loop().call_later(LATE, last, self._standby.clock())

        def say(since: float) -> None:
            for item in self._standby.messages(since):
                on_message(*item)

        def last(since: float) -> None:
            say(since)
            threading.Thread(target=self._standby.stop, name="umbel-standby-end", daemon=True).start()

        await self._inner.run(on_message, state)

    def stop(self) -> None:
        self._inner.stop()
        self._standby.stop(0.0)
