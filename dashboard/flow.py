"""The wire under a socket: a send waits until the browser has read, and little may be said to us.

Daphne's own send returns at once, so that a browser which reads slowly would fill our memory instead of its
own outbox, where a newer frame takes the place of an older one.
"""

from __future__ import annotations

import asyncio
from typing import Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer  # type: ignore[import-untyped]


@implementer(IPushProducer)
class Drain:
    """Told by Twisted when the unsent bytes of a connection pass 64 KiB, and when they are gone."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()
        self.is_open.set()

    def pauseProducing(self) -> None:
        self.is_open.clear()

    def resumeProducing(self) -> None:
        self.is_open.set()

    def stopProducing(self) -> None:
        self.is_open.set()


MOST_HEARD = 64 * 1024  # bytes of a message from a browser; longer ones end its socket with 1009


class Backpressure:
    """Wraps the socket's application; under another server than Daphne it changes nothing."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        # Daphne's send is a partial over the connection's protocol.
        protocol = next(iter(getattr(send, "args", ())), None)
        transport = getattr(protocol, "transport", None)
        if transport is None:
            await self.app(scope, receive, send)
            return
        drain = Drain()
        # Until the upgrade the connection's producer was its HTTP channel, which has ended.
        transport.unregisterProducer()
        transport.registerProducer(drain, True)

        async def steady(message: dict[str, Any]) -> None:
            if message["type"] == "websocket.send":
                await drain.is_open.wait()
            # Autobahn has one limit for both directions, and a list of tasks may be longer than what we hear.
            _limit(protocol, 0)
            try:
                await send(message)
            finally:
                _limit(protocol, MOST_HEARD)

        _limit(protocol, MOST_HEARD)
        await self.app(scope, receive, steady)


def _limit(protocol: Any, size: int) -> None:
    protocol.maxMessagePayloadSize = protocol.maxFramePayloadSize = size
