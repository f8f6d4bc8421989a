"""Events out of a file: a capture of a real cluster's wire, replayed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from monitor.events import decode
from monitor.source.backoff import OnMessage, OnState


class Recording:
    """Replays ``{"messages": [[received_at, channel, payload], …]}``.

    ``speed`` 1 keeps the pauses between messages, 2 halves them, None leaves them out. ``received_at`` is the
    recorded time, so a replay is the same each time. After the last message it waits for ``stop``, unless
    ``once``.
    """

    def __init__(self, path: str | Path, *, speed: float | None = None, once: bool = False) -> None:
        self.path = Path(path)
        self.speed, self.once = speed, once
        self._stopped = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, on_message: OnMessage, on_state: OnState) -> None:
        self._loop = asyncio.get_running_loop()
        messages = json.loads(self.path.read_text())["messages"]
        on_state(True, "")
        before: float | None = None
        for number, (at, channel, payload) in enumerate(messages):
            if self._stopped.is_set():
                return
            if "celeryev" not in channel and "events" not in channel:
                continue
            pause = (at - before) / self.speed if self.speed and before is not None else 0.0
            if pause > 0:
                await asyncio.sleep(pause)
            elif number % 500 == 499:
                await asyncio.sleep(0)
            before = at
            on_message(decode(payload.encode()), at)
        if not self.once:
            await self._stopped.wait()

    def stop(self) -> None:
        """End ``run`` soon; from any thread."""
        if self._loop is None or self._loop.is_closed():
            self._stopped.set()
        else:
            self._loop.call_soon_threadsafe(self._stopped.set)
