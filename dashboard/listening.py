"""The web process's one subscription to what changed, and the counts of its hub."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from channels.layers import get_channel_layer

from monitor.publish import GROUP

log = structlog.get_logger(__name__)

ORIGINS = 256  # Processes that publish.
# Channel layers forget a member after a day, and the one in memory a member that slept a minute (a suspended
# laptop). Being a member twice does no harm, and the gap in the numbers brings what was missed.
REJOIN = 30.0
LAYER_RETRY = 1.0
SILENCE = 5.0  # Without a word from the engine; then everything is drawn once, and again after as long.


@dataclass(slots=True)
class Counts:
    """What the hub did since it started."""

    drawn: int = 0
    unchanged: int = 0
    failed: int = 0
    sent: int = 0  # frames handed to sockets
    messages: int = 0  # what they left in
    encoded: int = 0  # messages put together; sockets share them
    heard: int = 0
    gaps: int = 0
    layer_errors: int = 0
    skipped: int = 0  # frames that a slow socket never got, since a newer one came
    dropped: int = 0
    refused: int = 0


class Listener:
    """Hears topics and passes them on; after a gap, all that anybody listens to."""

    def __init__(
        self,
        counts: Counts,
        changed: Callable[[Iterable[str]], None],
        everything: Callable[[], Iterable[str]],
    ) -> None:
        self.listening = asyncio.Event()
        self._counts = counts
        self._changed = changed
        self._everything = everything
        self._heard: OrderedDict[str, int] = OrderedDict()  # the last message's number, by origin

    async def listen(self) -> None:
        """For ever. A layer that fails is joined again."""
        layer = get_channel_layer()
        assert layer is not None, "CHANNEL_LAYERS names no default layer"
        while True:
            try:
                channel = await layer.new_channel()
                await layer.group_add(GROUP, channel)
                # What was said while nobody listened is made up for by drawing everything once.
                self._changed(list(self._everything()))
                self.listening.set()
                await self._receive(layer, channel)
            except Exception as problem:  # noqa: BLE001 - the layer is a network service; the loop must go on
                self._counts.layer_errors += 1
                log.warning("The channel layer failed; listening again soon.", problem=repr(problem))
                # Sockets need not wait for the layer: they get what is in the database.
                self.listening.set()
                await asyncio.sleep(LAYER_RETRY)

    async def _receive(self, layer: Any, channel: str) -> None:
        """What comes; after long silence the subscription is made sure of, and pages are drawn anew.

        The receiving itself is never cut short: a layer over pub/sub takes that for the end of the channel.
        """
        receiving = asyncio.create_task(layer.receive(channel))
        joined = time.monotonic()
        try:
            while True:
                await asyncio.wait({receiving}, timeout=SILENCE if self._heard else REJOIN)
                if receiving.done():
                    self._hear(receiving.result())
                    receiving = asyncio.create_task(layer.receive(channel))
                elif self._heard:
                    # The engine tells something each second: it is gone, or the layer is, without a word.
                    self._changed(list(self._everything()))
                if time.monotonic() - joined > REJOIN:
                    joined = time.monotonic()
                    await layer.group_add(GROUP, channel)
        finally:
            receiving.cancel()

    def _hear(self, message: Mapping[str, Any]) -> None:
        """Passes on what the message names; after a gap in its origin's numbers, everything."""
        self._counts.heard += 1
        origin, number = str(message.get("origin", "")), int(message.get("seq", 0))
        # The first message of another process that is new is number 1; else some were lost before.
        before = self._heard.pop(origin, 0 if self._heard else number - 1)
        self._heard[origin] = number
        if len(self._heard) > ORIGINS:
            self._heard.popitem(last=False)
        topics = set(message.get("topics", ()))
        if number > before + 1:
            self._counts.gaps += 1
            topics |= set(self._everything())
        self._changed(topics)
