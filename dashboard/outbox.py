"""What waits for one socket: at most one frame of each region, the newest."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from dashboard.fragments import Page

WAITING = 64  # Frames that wait for one slow socket; more than any page has regions.


@dataclass(frozen=True, slots=True)
class Frame:
    """One region as it is now: JSON without its start, since each socket writes its own number first."""

    region: str
    body: str


@dataclass(slots=True, eq=False)
class Outbox:
    """Frames that wait for one socket: the newest of each region, the oldest dropped beyond a limit."""

    page: Page
    session: str = ""
    number: int = 0
    dropped: int = 0
    closed: str = ""  # why the hub wants the socket closed
    _waiting: OrderedDict[str, Frame] = field(default_factory=OrderedDict)
    _filled: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, frame: Frame) -> None:
        self._waiting.pop(frame.region, None)
        self._waiting[frame.region] = frame
        if len(self._waiting) > WAITING:
            self._waiting.popitem(last=False)
            self.dropped += 1
            self.number += 1  # The browser sees the gap and asks for a snapshot.
        self._filled.set()

    def close(self, reason: str) -> None:
        self.closed = reason
        self._filled.set()

    async def next(self) -> str | None:
        """The text of the next frame, or None when the socket is to close."""
        while not self._waiting and not self.closed:
            self._filled.clear()
            await self._filled.wait()
        if self.closed:
            return None
        _, frame = self._waiting.popitem(last=False)
        self.number += 1
        return f'{{"seq":{self.number},"now":{time.time():.3f},{frame.body}'
