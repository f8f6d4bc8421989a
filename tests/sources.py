"""What tests of sources share: a listener that remembers, and events as workers send them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from monitor.events import Decoded
from tests.conftest import PATIENCE


class Heard:
    """What a source said."""

    def __init__(self) -> None:
        self.types: list[str] = []
        self.uuids: list[str] = []
        self.malformed = 0
        self.reasons: list[str] = []
        self.states: list[tuple[bool, str]] = []
        self.since: list[float | None] = []
        self.times: list[float] = []
        self.threads: set[int] = set()

    def on_message(self, decoded: Decoded, at: float) -> None:
        import threading

        self.threads.add(threading.get_ident())
        self.times.append(at)
        self.types += [event.type for event in decoded.events]
        self.uuids += [getattr(event, "uuid", "") for event in decoded.events]
        self.malformed += decoded.malformed
        self.reasons += decoded.reasons

    def on_state(self, connected: bool, reason: str, since: float | None = None) -> None:
        self.states.append((connected, reason))
        self.since.append(since)

    @property
    def connected(self) -> bool:
        return bool(self.states) and self.states[-1][0]

    def __repr__(self) -> str:
        return f"{len(self.types)} events, {self.malformed} malformed, {self.states}"


async def until(true: Callable[[], Any], timeout: float = 10.0, said: Callable[[], object] = str) -> None:
    timeout *= PATIENCE
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, f"did not come within {timeout} s: {said()}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def listening(source: Any, timeout: float = 15.0, heard: Heard | None = None) -> AsyncIterator[Heard]:
    heard = heard or Heard()
    runner = asyncio.create_task(source.run(heard.on_message, heard.on_state))
    try:
        await until(lambda: heard.connected or runner.done(), timeout)
        yield heard
    finally:
        source.stop()
        await asyncio.wait_for(runner, 15)


def event(kind: str, number: int = 0, **fields: Any) -> dict[str, Any]:
    base = {
        "type": kind,
        "hostname": "w@test",
        "pid": 7,
        "clock": number,
        "utcoffset": 0,
        "timestamp": time.time(),
    }
    return base | ({"uuid": f"id-{number}"} if kind.startswith("task-") else {}) | fields


def enveloped(body: Any) -> dict[str, Any]:
    """As kombu writes it on Redis."""
    return {
        "body": json.dumps(body),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {},
        "properties": {"body_encoding": "utf-8"},
    }


def run(coroutine: Awaitable[None]) -> None:
    async def main() -> None:
        await coroutine

    asyncio.run(main())
