"""Where events come from: a Redis broker, any other broker, or a recording. One contract, for the engine.

A source calls ``on_message(decoded, received_at)`` for each message, or once for several that came together,
and ``on_state(connected, reason)`` whenever it starts to listen (``True, ""``) or finds that it does not:
``False``, one redacted line and, where it knows, since when.
Between a ``False`` and the next ``True`` events may have been lost: no source ever reconnects in silence.
Both are called on the loop of ``run``.
"""

from __future__ import annotations

from typing import Protocol

from monitor.broker import Broker
from monitor.source.backoff import Backoff, OnMessage, OnState
from monitor.source.output import Output
from monitor.source.receiver import ReceiverSource
from monitor.source.recording import Recording
from monitor.source.redis import RedisSource

__all__ = [
    "Backoff",
    "OnMessage",
    "OnState",
    "Output",
    "ReceiverSource",
    "Recording",
    "RedisSource",
    "Source",
    "source_of",
]


class Source(Protocol):
    async def run(self, on_message: OnMessage, on_state: OnState) -> None: ...

    def stop(self) -> None: ...


def source_of(broker: Broker) -> RedisSource | ReceiverSource:
    """The source that suits this broker."""
    return RedisSource(broker) if broker.transport == "redis" else ReceiverSource(broker)
