"""What waits for one socket: at most one frame of each region, the newest; and how it leaves."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from dashboard.fragments import Page

WAITING = 64  # Frames that wait for one slow socket; more than any page has regions.


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One region as it is now: a JSON object, encoded once for all its readers."""

    region: str
    body: str


@dataclass(slots=True, eq=False)
class Message:
    """Some frames, as JSON; ``framed`` is the same as bytes on the wire, made by the first that needs it."""

    text: str
    framed: bytes = b""


@dataclass(slots=True, eq=False)
class Beat:
    """One round of sending. Sockets that are owed the same share one message."""

    now: float = field(default_factory=time.time)  # Unix seconds
    number: int = field(default_factory=itertools.count(1).__next__)
    messages: dict[tuple[int, tuple[Frame, ...]], Message] = field(default_factory=dict)

    def message(self, after: int, frames: tuple[Frame, ...]) -> Message:
        """What to say to those whose last message was number ``after``."""
        known = self.messages.get((after, frames))
        if known is None:
            bodies = ",".join([frame.body for frame in frames])
            known = self.messages[after, frames] = Message(
                f'{{"seq":{self.number},"after":{after},"now":{self.now:.3f},"frames":[{bodies}]}}'
            )
        return known


class Wire(Protocol):
    """A connection that can be written to at once, without a runner in between."""

    is_open: bool  # nothing waits to be read at the other end
    on_open: Callable[[], None] | None  # called when it opens again

    def write(self, message: Message) -> None: ...


@dataclass(slots=True, eq=False)
class Outbox:
    """Frames that wait for one socket: the newest of each region, the oldest dropped beyond a limit.

    With a wire they leave in ``flush``; without one, ``next`` gives them to whoever sends.
    """

    page: Page
    session: str = ""
    wire: Wire | None = None
    seq: int = 0  # the number of its last message
    skipped: int = 0  # frames that a newer one of their region overtook
    dropped: int = 0  # frames let go beyond the limit
    closed: str = ""  # why the hub wants the socket closed
    allowed_at: float = 0.0  # monotonic; the hub sends no message before it
    sent_at: float = 0.0  # monotonic; the last message
    urgent: bool = False  # holds a frame of a region that is drawn as often as messages leave
    late: bool = False  # something waits that could not be sent in its turn
    _waiting: OrderedDict[str, Frame] = field(default_factory=OrderedDict)
    _message: Message | None = None
    _asked: bool = False
    _filled: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        if self.wire:
            self.wire.on_open = self._catch_up

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def put(self, frame: Frame) -> None:
        if self._waiting.pop(frame.region, None) is not None:
            self.skipped += 1
        self._waiting[frame.region] = frame
        if len(self._waiting) > WAITING:
            self._waiting.popitem(last=False)
            self.dropped += 1
            self.seq = -1  # No message of the browser's: it sees the gap and asks for a snapshot.

    def flush(self, beat: Beat) -> bool:
        """Sends what waits, if the other end has read what came before; otherwise it stays."""
        if not self._waiting or self.closed:
            return False
        if not (self.wire.is_open if self.wire else self._asked):
            self.late = True
            return False
        self.late = False
        message = beat.message(self.seq, tuple(self._waiting.values()))
        self._waiting.clear()
        self.seq = beat.number
        if self.wire:
            self.wire.write(message)
        else:
            self._asked = False
            self._message = message
            self._filled.set()
        return True

    def close(self, reason: str) -> None:
        self.closed = reason
        self._filled.set()

    async def next(self) -> str | None:
        """The text of the next message, or None when the socket is to close. With a wire, only that."""
        self._asked = True
        self._catch_up()
        while self._message is None and not self.closed:
            self._filled.clear()
            await self._filled.wait()
        message, self._message = self._message, None
        return None if self.closed or message is None else message.text

    def _catch_up(self) -> None:
        if self.late:
            self.flush(Beat())
