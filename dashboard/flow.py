"""The wire under a socket: written to at once while the browser keeps up, and little may be said to us.

Daphne's own send takes four to five times as long as the bytes need (a coroutine, Autobahn's framing and
logging, a turn of Twisted's reactor), and returns at once, so that a browser which reads slowly would fill
our memory instead of its own outbox, where a newer frame takes the place of an older one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer  # type: ignore[import-untyped]

from dashboard.outbox import Message

# What the scope of a socket holds: its wire, if it has one, and the server's own send. The wrappers that
# Channels puts around that look for changes of the session, of which a frame makes none.
WIRE, SEND = "umbel.wire", "umbel.send"


@implementer(IPushProducer)
class DaphneWire:
    """A WebSocket connection under Daphne, of which Twisted says when bytes wait and when they are gone."""

    def __init__(self, protocol: Any) -> None:
        self.is_open = True
        self.drained = asyncio.Event()
        self.drained.set()
        self.on_open: Callable[[], None] | None = None
        self._protocol = protocol
        self._transport = transport = protocol.transport
        # Until the upgrade the connection's producer was its HTTP channel, which has ended.
        transport.unregisterProducer()
        transport.registerProducer(self, True)
        # Over TLS there is no such thing: bytes must be encrypted first.
        self._write_some = getattr(transport, "writeSomeData", None)

    def write(self, message: Message) -> None:
        """Sends it whole: what the connection does not take at once waits here, and closes the wire."""
        protocol = self._protocol
        if protocol.state != protocol.STATE_OPEN:
            return
        if not message.framed:
            message.framed = protocol.factory.prepareMessage(message.text.encode(), False).payloadHybi
        sent: object = 0
        if self.is_open and self._write_some is not None and not protocol.send_queue:
            sent = self._write_some(message.framed)
        # An error is no number; Twisted meets it again, and ends the connection.
        taken = sent if isinstance(sent, int) else 0
        if taken < len(message.framed):
            protocol.sendData(message.framed[taken:])
            self.wait()

    def wait(self) -> None:
        """Nothing is written before what Twisted holds has gone.

        By itself it tells its producer of 64 KiB only; but what waits there is old, and in the outbox new.
        """
        if self.is_open and self._write_some is not None:
            self._transport.producerPaused = True
            self.pauseProducing()

    def pauseProducing(self) -> None:
        self.is_open = False
        self.drained.clear()

    def resumeProducing(self) -> None:
        self.is_open = True
        self.drained.set()
        if self.on_open is not None:
            self.on_open()

    def stopProducing(self) -> None:
        """The connection has ended: nothing is written any more, and nothing waits for it."""
        self.is_open = False
        self.drained.set()


MOST_HEARD = 64 * 1024  # bytes of a message from a browser; longer ones end its socket with 1009


class Backpressure:
    """Wraps the socket's application; under another server than Daphne it changes nothing."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        # Daphne's send is a partial over the connection's protocol.
        protocol = next(iter(getattr(send, "args", ())), None)
        if getattr(protocol, "transport", None) is None:
            await self.app(scope | {SEND: send}, receive, send)
            return
        wire = DaphneWire(protocol)

        async def steady(message: dict[str, Any]) -> None:
            if message["type"] == "websocket.send":
                await wire.drained.wait()
            # Autobahn has one limit for both directions, and a list of tasks may be longer than what we hear.
            _limit(protocol, 0)
            try:
                await send(message)
            finally:
                _limit(protocol, MOST_HEARD)
            if message["type"] == "websocket.accept":
                # The answer to the handshake comes first.
                wire.wait()

        _limit(protocol, MOST_HEARD)
        await self.app(scope | {WIRE: wire, SEND: steady}, receive, steady)


def _limit(protocol: Any, size: int) -> None:
    protocol.maxMessagePayloadSize = protocol.maxFramePayloadSize = size
