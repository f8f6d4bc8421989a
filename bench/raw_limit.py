"""The raw limit: read, decode, count, throw away; no state, no history. What Python can do at most."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from typing import Any
from urllib.parse import unquote, urlsplit

import hiredis
import msgspec


class Envelope(msgspec.Struct, gc=False):
    body: bytes  # base64 is undone while the envelope is parsed


class Event(msgspec.Struct, gc=False):
    type: str
    hostname: str
    timestamp: float
    clock: int
    pid: int
    uuid: str = ""
    name: str | None = None
    args: str | None = None
    kwargs: str | None = None
    retries: int | None = None
    eta: str | None = None
    expires: str | None = None
    root_id: str | None = None
    parent_id: str | None = None
    queue: str | None = None
    routing_key: str | None = None
    result: str | None = None
    runtime: float | None = None
    exception: str | None = None
    traceback: str | None = None
    terminated: bool | None = None
    requeue: bool | None = None
    processed: int | None = None
    active: int | None = None


class Reading(asyncio.Protocol):
    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._reader = hiredis.Reader()
        self._envelope = msgspec.json.Decoder(Envelope)
        self._events: msgspec.json.Decoder[list[Event] | Event] = msgspec.json.Decoder(list[Event] | Event)
        self.kinds: Counter[str] = Counter()
        self.seen = 0
        self.connected = False

    def connection_made(self, transport: Any) -> None:
        if self._url.password:
            password = unquote(self._url.password).encode()
            transport.write(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n" % (len(password), password))
        transport.write(b"PSUBSCRIBE /0.celeryev/*\r\n")

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (item := self._reader.gets()) is not False:
            if item.__class__ is not list or len(item) != 4:
                self.connected = True
                continue
            found = self._events.decode(self._envelope.decode(item[3]).body)
            for event in found if isinstance(found, list) else (found,):
                self.kinds[event.type] += 1
                self.seen += 1

    def connection_lost(self, error: Exception | None) -> None:
        self.connected = False


async def read(url: str, final: str) -> None:
    parts, loop, stopping = urlsplit(url), asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    _, reading = await loop.create_connection(lambda: Reading(url), parts.hostname or "", parts.port or 6379)
    while not stopping.is_set():
        status = {
            "seen": reading.seen,
            "waiting": 0,
            "lost": 0,
            "cpu": time.process_time(),
            "at": time.time(),
        }
        print(json.dumps(status | {"extra": {"connected": reading.connected}}), flush=True)
        await asyncio.sleep(0.25)
    with open(final, "w") as file:  # noqa: PTH123 - at the very end
        json.dump(reading.kinds, file)


if __name__ == "__main__":
    asyncio.run(read(os.environ["BENCH_BROKER"], sys.argv[1]))
