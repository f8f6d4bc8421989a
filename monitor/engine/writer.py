"""The engine's one thread that talks to the database, and what it does when the database fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import structlog

from monitor.deltas import Record
from monitor.records import TaskRecord
from monitor.redact import Redactor
from monitor.store import Backlog, Store

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0  # seconds between tries of a failed write
BATCH = 20_000  # records: rows and the counts of what happened to them are committed together

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Writer:
    """Runs ``store`` in a thread that owns its connection; what could not be written is kept and retried."""

    def __init__(self, store: Store, backlog: Backlog, redactor: Redactor) -> None:
        self.store, self.backlog, self.redactor = store, backlog, redactor
        self.failures = 0
        self.error = ""
        self._pause = FIRST_PAUSE
        self._again_at = 0.0
        self._thread = ThreadPoolExecutor(1, "umbel-writer")

    async def flush(self, now: float, *, at_once: bool = False) -> list[Record]:
        """Write what waits, batch by batch, until all is written or the database fails.

        Returns what was committed. ``at_once`` does not wait for the pause after a failure.
        """
        if time.monotonic() < self._again_at and not at_once:
            return []
        written: list[Record] = []
        try:
            if self.store.doubtful:
                batch = self.backlog.take(BATCH)  # as it was tried
                committed = await self._call(self.store.was_written)
                log.info("a write that nobody answered was looked up", committed=committed)
                if committed:
                    self.backlog.done()
                    written += batch
                else:
                    self.backlog.put_back()
        except Exception as error:  # noqa: BLE001 - the edge: asked again after the pause
            self._failed("was written", error)
            return []
        while batch := self.backlog.take(BATCH):
            writing = asyncio.ensure_future(self._call(self.store.write, batch, now))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                # The thread goes on all the same: what it writes must not be written again.
                await asyncio.wait({writing})
                if writing.exception() is None:
                    self.backlog.done()
                raise
            except Exception as error:  # noqa: BLE001 - the edge: whatever the fault, the batch is kept
                if not self.store.doubtful:
                    self.backlog.put_back()
                self._failed("write", error)
                break
            self.backlog.done()
            written += batch
            self._worked()
        return written

    async def load(self, uuids: Iterable[str]) -> list[TaskRecord] | None:
        """These tasks as last known: written, or still waiting to be. None: the database could not say."""
        wanted = list(uuids)
        if time.monotonic() < self._again_at:
            return None
        try:
            stored = await self._call(self.store.load, wanted)
        except Exception as error:  # noqa: BLE001 - the edge: asked again at the next tick
            self._failed("load", error)
            return None
        waiting = self.backlog.tasks(wanted)
        return [*waiting.values(), *(record for record in stored if record.uuid not in waiting)]

    async def read(self, what: Callable[..., T], *values: Any, otherwise: T) -> T:
        """Any other call of the store; ``otherwise`` when the database fails."""
        try:
            return await self._call(what, *values)
        except Exception as error:  # noqa: BLE001 - the edge: counted, shown, and the engine goes on
            self._failed(what.__name__, error)
            return otherwise

    async def close(self) -> None:
        await self._call(self.store.close)
        self._thread.shutdown()

    async def _call(self, what: Callable[..., T], *values: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, what, *values)

    def _failed(self, what: str, error: Exception) -> None:
        self.failures += 1
        self.error = self.redactor.text(f"{type(error).__name__}: {error}")[:300]
        self._again_at = time.monotonic() + self._pause
        log.error("store failed", call=what, error=self.error, failures=self.failures, again_in=self._pause)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _worked(self) -> None:
        if self.error:
            log.info("store works again", failures=self.failures)
        self.error, self._pause, self._again_at = "", FIRST_PAUSE, 0.0
