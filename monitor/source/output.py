"""What Redis holds back for our subscription, and whether it cut us off for reading too slowly.

Redis ends a subscriber's connection, without a word, when more than ``client-output-buffer-limit pubsub``
waits for it. A second connection asks once a second how much does, and after a loss how often Redis has done
that; only CLIENT LIST, CONFIG GET and INFO are used, and what Redis does not let us ask stays unknown.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from redis.asyncio import Connection
from redis.exceptions import RedisError, ResponseError

EVERY = 1.0  # seconds between two looks
PATIENCE = 2.0  # seconds for one answer
VERDICT = 1.5  # seconds in which the cause of a loss must be found: the loss itself is told after that
# Without Redis's own count (before 7.0): so much of the limit waited when last looked at.
NEARLY = 0.5
MEGABYTE = 1024 * 1024


class Output(Struct):
    """Bytes that wait for us at Redis, the bytes at which it cuts us off (0: never), and how often it did."""

    waiting: int | None = None
    limit: int | None = None
    soft_limit: int | None = None
    cuts: int = 0


class OutputWatch:
    """Keeps ``output`` up to date while a subscription lasts. ``pool`` makes the connections."""

    def __init__(self) -> None:
        self.output = Output()
        self._counted: int | None = None  # Redis's own count of such cuts, when we began to listen
        self._server = ""  # and which run of Redis that was

    async def follow(self, pool: Any, client: int, is_over: Callable[[], bool]) -> None:
        """Look at our connection ``client`` until ``is_over`` or cancelled."""
        connection: Connection | None = None
        self.output.waiting = None
        try:
            # Asked each time: a cancellation in the midst of redis-py may come out as a lost connection.
            while not is_over():
                try:
                    if connection is None:
                        connection = pool.make_connection()
                        await self._begin(connection)
                    await self._look(connection, client)
                except (OSError, RedisError, TimeoutError):
                    self.output.waiting = None
                    if connection is not None:
                        await connection.disconnect(nowait=True)
                        connection = None
                await asyncio.sleep(EVERY)
        finally:
            if connection is not None:
                await connection.disconnect(nowait=True)

    async def verdict(self, pool: Any) -> str:
        """After a loss: one sentence when we read too slowly for Redis; '' when that is not known."""
        before, server, waiting = self._counted, self._server, self.output.waiting
        connection: Connection = pool.make_connection()
        try:
            async with asyncio.timeout(VERDICT):
                info = await self._info(connection)
                await self._limits(connection)  # who sets it lower cuts us off at once
        except (OSError, RedisError, TimeoutError):
            return ""
        finally:
            await connection.disconnect(nowait=True)
        now, same = info
        if same != server:
            return ""  # Redis itself began anew
        if before is not None and now is not None:
            is_cut = now > before
            self._counted = now
        else:
            limits = [limit for limit in (self.output.limit, self.output.soft_limit) if limit]
            is_cut = bool(limits) and waiting is not None and waiting >= NEARLY * min(limits)
        if not is_cut:
            return ""
        self.output.cuts += 1
        limit = self.output.limit
        at = f"at {limit / MEGABYTE:.3g} MB of unread output" if limit else "over its limit of unread output"
        return f"slow consumer: Redis cut us off {at}."

    # private

    async def _begin(self, connection: Connection) -> None:
        self._counted, self._server = await self._info(connection)
        await self._limits(connection)

    async def _limits(self, connection: Connection) -> None:
        try:
            told = await _ask(connection, "CONFIG", "GET", "client-output-buffer-limit")
        except ResponseError:
            return
        text = _text(told[1] if isinstance(told, list) and len(told) == 2 else _value(told))
        if found := re.search(r"pubsub (\d+) (\d+) (\d+)", text):
            self.output.limit, self.output.soft_limit = int(found[1]), int(found[2])

    async def _look(self, connection: Connection, client: int) -> None:
        try:
            told = _text(await _ask(connection, "CLIENT", "LIST", "ID", str(client)))
        except ResponseError:
            self.output.waiting = None
            return
        found = re.search(r"\bomem=(\d+)", told)
        self.output.waiting = int(found[1]) if found else None

    async def _info(self, connection: Connection) -> tuple[int | None, str]:
        try:
            told = _text(await _ask(connection, "INFO"))
        except ResponseError:
            return None, ""
        count = re.search(r"^client_output_buffer_limit_disconnections:(\d+)", told, re.MULTILINE)
        run = re.search(r"^run_id:(\w+)", told, re.MULTILINE)
        return int(count[1]) if count else None, run[1] if run else ""


async def _ask(connection: Connection, *words: str) -> Any:
    async with asyncio.timeout(PATIENCE):
        await connection.connect()  # does nothing when it is
        await connection.send_command(*words)
        return await connection.read_response()


def _text(told: Any) -> str:
    return told.decode(errors="replace") if isinstance(told, bytes) else str(told)


def _value(told: Any) -> Any:
    return next(iter(told.values()), "") if isinstance(told, dict) else ""
