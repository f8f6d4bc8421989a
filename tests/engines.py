"""Engines in this process for live tests; each must have ended well at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from monitor import broker as broker_room
from monitor import models
from monitor.broker import Broker
from monitor.engine import Engine, Options
from monitor.records import FeedRecord
from monitor.store import Store
from tests.conftest import wait_until

Start = Callable[..., Engine]


@contextmanager
def engines() -> Iterator[Start]:
    """``start(url, result_backend=…, source=…, **options)``: an engine that has connected.

    Without more said the result backend is the broker, when that is a Redis. ``source``: ``source(broker)``.
    """
    started: list[Engine] = []

    def start(url: str, *, source: Callable[[Broker], Any] | None = None, **options: Any) -> Engine:
        own = url if url.startswith("redis") else None
        broker = Broker(url, result_backend=options.pop("result_backend", own))
        broker_room.configure(broker)
        made = source(broker) if source is not None else None
        one = Engine(Options(broker=broker, store=Store(), source=made, **options))
        one.start()
        started.append(one)
        wait_until(lambda: one.feed.connected, what="the engine's connection")
        return one

    yield start
    for one in started:
        assert one.stop(20)
        assert not one.failed
        assert not one.crashes
        one.options.broker.close()


def feed() -> FeedRecord:
    """What the engine last stored of itself."""
    return msgspec.convert(models.Feed.objects.get(pk=1).data, FeedRecord)
