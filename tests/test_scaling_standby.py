"""What a standby heard follows the source that takes over from it, and what it read late as well."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from monitor.engine import standby as standbys
from monitor.engine.standby import Handover, Standby
from tests.conftest import wait_until


class Told:
    """A source that says what a test tells it to."""

    def __init__(self) -> None:
        self.on_message: Any = None
        self.stopped = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    async def run(self, on_message: Any, on_state: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.on_message = on_message
        on_state(True, "")
        await self.stopped.wait()

    def stop(self) -> None:
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.stopped.set)


def test_what_was_heard_and_what_was_read_late_is_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standbys, "LATE", 0.2)
    now = [100.0]
    early, inner = Told(), Told()
    standby = Standby(lambda: early, clock=lambda: now[0])  # type: ignore[arg-type,return-value]
    standby.start()
    wait_until(lambda: early.on_message, what="the standby's start")
    for at, word in ((100.0, "long ago"), (110.0, "before"), (112.0, "just now")):
        now[0] = at
        early.on_message(word, at)
    assert standby.heard_since == 100.0
    heard: list[Any] = []

    async def story() -> None:
        handover = Handover(inner, standby, lambda: 105.0)  # type: ignore[arg-type]
        running = asyncio.create_task(handover.run(lambda *item: heard.append(item), lambda *_: None))
        while len(heard) < 2:
            await asyncio.sleep(0.01)
        early.on_message("late", 111.0)
        while len(heard) < 4:
            await asyncio.sleep(0.01)
        handover.stop()
        await running

    asyncio.run(story())
    assert [word for word, _ in heard] == ["before", "just now", "just now", "late"]
    wait_until(early.stopped.is_set, what="the standby's end")


def test_it_keeps_the_last_seconds_and_no_more_than_so_many() -> None:
    now = [100.0]
    early = Told()
    standby = Standby(lambda: early, kept=10.0, most=3, clock=lambda: now[0])  # type: ignore[arg-type,return-value]
    assert standby.heard_since is None
    standby.start()
    wait_until(lambda: early.on_message, what="the standby's start")
    early.on_message("a", 100.0)
    now[0] = 111.0
    for word in "bcde":
        early.on_message(word, now[0])
    assert [word for word, _ in standby.messages(0.0)] == ["c", "d", "e"]
    assert standby.heard_since == 111.0
    standby.stop()
