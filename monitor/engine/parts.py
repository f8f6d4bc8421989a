"""The parts that an engine runs side by side: a crash of one is logged, counted, shown, and it runs again."""

from __future__ import annotations

import asyncio
import ctypes
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from monitor.redact import Redactor

KEEP_EVERY, LOOK_SHARE = 1.0, 10.0  # seconds between two looks, or so many times what one takes
RESTART_MOST = 30.0  # seconds until a part that crashed runs again, at most

log = structlog.get_logger(__name__)
Part = Callable[[], Coroutine[Any, Any, None]]


class Parts:
    """Keeps parts running on the current loop; ``crashes`` counts by name."""

    def __init__(self, redactor: Redactor) -> None:
        self.crashes: dict[str, int] = {}
        self._redactor = redactor

    def keep(self, name: str, part: Part) -> asyncio.Task[None]:
        """Run it until it ends by itself or is cancelled."""

        async def keep() -> None:
            pause = 0.5
            while True:
                try:
                    await part()
                    return
                except Exception as error:  # noqa: BLE001 - the edge: one part's crash is not the engine's
                    self.crashed(name, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, RESTART_MOST)

        return asyncio.get_running_loop().create_task(keep(), name=name)

    def crashed(self, part: str, error: Exception) -> None:
        """Count it; the first few and then every thousandth go to the log, while it is being handled."""
        count = self.crashes[part] = self.crashes.get(part, 0) + 1
        if count <= 3 or count % 1000 == 0:
            reason = self._redactor.text(f"{type(error).__name__}: {error}")
            log.error("part crashed", part=part, error=reason, count=count, traceback=self.traceback())

    def traceback(self) -> str:
        """Of the error that is being handled, redacted."""
        return self._redactor.text(traceback.format_exc())


def every(seconds: float, work: Callable[[], Awaitable[None]]) -> Part:
    """A part that does its work, pauses, and does it again."""

    async def for_ever() -> None:
        while True:
            await work()
            await asyncio.sleep(seconds)

    return for_ever


def keeping(look: Callable[[], object]) -> Part:
    """A part that looks in a thread of its own, once a second, and seldom when a look takes long."""

    async def for_ever() -> None:
        loop, thread = asyncio.get_running_loop(), ThreadPoolExecutor(1, "umbel-keeper")
        try:
            while True:
                began = time.monotonic()
                await loop.run_in_executor(thread, look)
                await asyncio.sleep(max(KEEP_EVERY, LOOK_SHARE * (time.monotonic() - began)))
        finally:
            thread.shutdown(wait=False, cancel_futures=True)

    return for_ever


def acting(look: Callable[[], float]) -> Part:
    """A part that looks in a thread of its own, again after as many seconds as the last look said."""

    async def for_ever() -> None:
        loop, thread = asyncio.get_running_loop(), ThreadPoolExecutor(1, "umbel-acts")
        try:
            while True:
                await asyncio.sleep(await loop.run_in_executor(thread, look))
        finally:
            thread.shutdown(wait=False, cancel_futures=True)

    return for_ever


def give_back() -> bool:
    """Memory that was freed goes back to the system: the C library keeps it, in holes, for each thread.

    Measured: of 198 MiB under load 31 are such holes. Only glibc has this; whether it gave some.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError):
        return False
