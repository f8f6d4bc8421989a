"""What tests of the hub share: regions that say what a test tells them, sockets, and waits."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from channels.layers import InMemoryChannelLayer

from dashboard.fragments import Page, Region
from dashboard.hub import Hub
from dashboard.outbox import Message, Outbox
from monitor.publish import GROUP

HERE = Page("here")

THERE = Page("there")


@dataclass(frozen=True)
class Told(Region):
    """A region that shows whatever the test tells it, without a template."""

    def draw(self, page: Page) -> str:
        return f'\n<div id="{self.name}">{self.context(page)["text"]}</div>\n'


class Board:
    """What the regions show, and how often each was drawn."""

    def __init__(self) -> None:
        self.text = "one"
        self.draws: list[tuple[str, str]] = []
        self.threads: set[str] = set()
        self.inside = self.most_inside = 0
        self.seconds = 0.0  # of waiting
        self.work = 0.0  # seconds of processor
        self.broken = False
        self._lock = threading.Lock()

    def region(self, name: str = "board", **more: Any) -> Region:
        def context(page: Page) -> Mapping[str, Any]:
            with self._lock:
                self.draws.append((page.view, name))
                self.threads.add(threading.current_thread().name)
                self.inside += 1
                self.most_inside = max(self.most_inside, self.inside)
            time.sleep(self.seconds)
            done = time.thread_time() + self.work
            while time.thread_time() < done:
                pass
            text = self.text
            with self._lock:
                self.inside -= 1
            if self.broken:
                raise RuntimeError("no such table")
            return {"text": text}

        return Told(name, context, more.pop("topics", ("tasks",)), every=more.pop("every", 0.0), **more)


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await story()

    asyncio.run(bounded())


async def message(outbox: Outbox) -> dict[str, Any]:
    async with asyncio.timeout(10):
        text = await outbox.next()
    assert text is not None
    got: dict[str, Any] = json.loads(text)
    return got


_RECEIVED: dict[Outbox, list[dict[str, Any]]] = {}


async def frame(outbox: Outbox) -> dict[str, Any]:
    """The next frame of a socket, with the numbers of the message that it came in."""
    received = _RECEIVED.setdefault(outbox, [])
    if not received:
        got = await message(outbox)
        received += [got | frame for frame in got["frames"]]
    return received.pop(0)


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


async def silent(outbox: Outbox, seconds: float = 0.15) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await outbox.next()
    except TimeoutError:
        return True
    return False


def say(layer: InMemoryChannelLayer, *topics: str, seq: int = 0, origin: str = "") -> Awaitable[None]:
    message = {"type": "umbel.changed", "topics": list(topics), "seq": seq, "origin": origin}
    sent: Awaitable[None] = layer.group_send(GROUP, message)
    return sent


class Fast:
    """A wire that takes all at once, or nothing, and remembers what it took."""

    def __init__(self, is_open: bool = True) -> None:
        self.is_open = is_open
        self.on_open: Callable[[], None] | None = None
        self.messages: list[Message] = []
        self.times: list[float] = []

    def write(self, message: Message) -> None:
        self.messages.append(message)
        self.times.append(time.monotonic())

    @property
    def texts(self) -> list[str]:
        """What each frame said, in order."""
        return [frame["content"] for one in self.messages for frame in json.loads(one.text)["frames"]]

    def open(self) -> None:
        self.is_open = True
        assert self.on_open is not None
        self.on_open()


def quiet(hub: Hub) -> bool:
    """Whether any change would be drawn at once."""
    now = time.monotonic()
    return all(not live.dirty and not live.drawing and live.due < now for live in hub._lives.values())


async def joined(hub: Hub, count: int = 1, page: Page = HERE) -> list[Fast]:
    """Sockets with a wire that have their first frames."""
    wires = [Fast() for _ in range(count)]
    for wire in wires:
        await hub.join(Outbox(page, wire=wire))
    await until(lambda: all(wire.messages for wire in wires))
    return wires
