"""Events off any broker but Redis: a kombu consumer in a thread, on a queue of its own that ends with it.

Bodies are handed over raw to ``events.decode_body``: kombu deserialises nothing, so a pickle stays shut.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections import deque
from contextlib import suppress
from typing import Any

from celery.events.event import get_exchange
from kombu.entity import Queue
from kombu.exceptions import KombuError
from kombu.messaging import Consumer
from kombu.transport import virtual

from monitor.broker import CONNECT_TIMEOUT, Broker
from monitor.events import Decoded, decode_body
from monitor.source.backoff import Backoff, OnMessage, OnState

# Messages between the thread and the loop; when full, the thread waits and the broker keeps the rest.
HANDOVER = 5_000
# Messages the broker keeps for us before it drops the oldest, and seconds it keeps the queue when we are
# gone.
QUEUE_LENGTH = 50_000
QUEUE_EXPIRES = 60.0
# Seconds that a subscription may take where kombu only asks for it while it drains.
SUBSCRIBING = 0.25


class ReceiverSource:
    """Binds a queue to the cluster's event exchange and decodes what comes."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._backoff = Backoff()
        self._stopped = threading.Event()
        self._room = threading.Semaphore(HANDOVER)
        self._items: deque[tuple[Decoded, float] | tuple[bool, str]] = deque()
        self._woken = False
        self.connection: Any = None  # the kombu connection while it listens
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, on_message: OnMessage, on_state: OnState) -> None:
        """Listen until ``stop``; a lost connection is told, waited for and made again."""
        self._loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def hand_over() -> None:
            self._woken = False
            while self._items:
                first, second = self._items.popleft()
                if isinstance(first, bool):
                    on_state(first, str(second))
                else:
                    self._room.release()
                    on_message(first, float(second))

        self._hand_over = hand_over
        loop = self._loop
        thread = threading.Thread(
            target=self._listen_on,
            args=(lambda: loop.call_soon_threadsafe(ended.set),),
            name="receiver",
            daemon=True,
        )
        thread.start()
        try:
            await ended.wait()
        finally:
            self._stopped.set()
        hand_over()

    def stop(self) -> None:
        """End ``run`` soon; from any thread."""
        self._stopped.set()

    def _listen_on(self, ended: Any) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    self._listen()
                except self._errors() as error:
                    if not self._stopped.is_set():
                        self._tell(False, self.broker.explain(error))
                self._stopped.wait(self._backoff.delay())
        finally:
            if self._loop is not None and not self._loop.is_closed():
                ended()

    def _listen(self) -> None:
        with self.broker.app.connection_for_read(connect_timeout=CONNECT_TIMEOUT) as connection:
            connection.connect()
            channel = connection.channel()
            with Consumer(
                channel,
                queues=[self._queue(connection)],
                on_message=self._on_message,
                no_ack=True,
                accept=["json"],
            ):
                self._subscribe(connection)
                self._backoff.reset()
                self.connection = connection
                self._tell(True, "")
                while not self._stopped.is_set():
                    try:
                        connection.drain_events(timeout=1.0)
                    except TimeoutError:
                        if connection.supports_heartbeats and connection.get_heartbeat_interval():
                            connection.heartbeat_check()

    def _subscribe(self, connection: Any) -> None:
        """AMQP has confirmed the consumer by now. kombu's own transports (Redis) subscribe in their first
        drain, and what is published before it is lost: a source that said it listens would be wrong."""
        if isinstance(connection.transport, virtual.Transport):
            with suppress(TimeoutError):
                connection.drain_events(timeout=SUBSCRIBING)

    def _queue(self, connection: Any) -> Queue:
        bounds = {"x-max-length": QUEUE_LENGTH, "x-max-length-bytes": 64 * 1024 * 1024}
        return Queue(
            f"celeryev.umbel.{uuid.uuid4().hex}",
            exchange=get_exchange(connection, name=self.broker.exchange),
            routing_key="#",
            durable=False,
            exclusive=True,
            auto_delete=True,
            expires=QUEUE_EXPIRES,
            queue_arguments=bounds if self.broker.transport == "amqp" else None,
        )

    def _on_message(self, message: Any) -> None:
        decoded = decode_body(message.body, message.content_type or "")
        while not self._room.acquire(timeout=0.5):
            if self._stopped.is_set():
                return
        self._add((decoded, time.time()))

    def _tell(self, connected: bool, reason: str) -> None:
        self._add((connected, reason))

    def _add(self, item: tuple[Decoded, float] | tuple[bool, str]) -> None:
        self._items.append(item)
        loop = self._loop
        if not self._woken and loop is not None and not loop.is_closed():
            self._woken = True
            loop.call_soon_threadsafe(self._hand_over)

    def _errors(self) -> tuple[type[BaseException], ...]:
        connection = self.broker.app.connection_for_read()
        return (OSError, KombuError, *connection.connection_errors, *connection.channel_errors)
