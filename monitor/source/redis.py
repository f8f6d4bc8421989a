"""Events off a Redis broker: redis-py makes the connection, hiredis reads it, kombu is not in the way.

redis-py would resubscribe in silence after a lost connection, and with it lose events in silence. Here it
only connects (TLS, ACL, Sentinel, unix sockets and URL forms are its business); then the socket is ours, and
its end is seen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import hiredis
from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from monitor.broker import CONNECT_TIMEOUT, Broker, redis_url, sentinel_parts
from monitor.events import Decoded, TaskEvent, WorkerEvent, decode
from monitor.source.backoff import Backoff, OnMessage, OnState
from monitor.source.output import Output, OutputWatch

# Seconds without a byte before a PING is sent, and seconds it may stay unanswered. Workers beat every 2 s, so
# on most clusters neither passes; a half-open connection is found within two heartbeats.
SILENCE = 2.0
PATIENCE = 2.0


class RedisSource:
    """Subscribes to the cluster's event channel and decodes what comes, on the loop of ``run``."""

    def __init__(self, broker: Broker, *, silence: float = SILENCE, patience: float = PATIENCE) -> None:
        self.broker = broker
        self.silence, self.patience = silence, patience
        self._backoff = Backoff()
        self._stopped = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch = OutputWatch()
        self._wire: _Wire | None = None

    @property
    def output(self) -> Output:
        """What Redis holds back for us, as last looked at."""
        return self._watch.output

    async def run(self, on_message: OnMessage, on_state: OnState) -> None:
        """Listen until ``stop``; a lost connection is told, waited for and made again."""
        self._loop = asyncio.get_running_loop()
        while not self._stopped.is_set():
            self._wire = None
            try:
                await self._listen(on_message, on_state)
            except (OSError, RedisError, TimeoutError, ValueError) as error:
                if not self._stopped.is_set():
                    await self._tell(error, on_state)
            if not self._stopped.is_set():
                await _first(self._stopped.wait(), timeout=self._backoff.delay())

    def stop(self) -> None:
        """End ``run`` soon; from any thread."""
        if self._loop is None or self._loop.is_closed():
            self._stopped.set()
        else:
            self._loop.call_soon_threadsafe(self._stopped.set)

    async def _listen(self, on_message: OnMessage, on_state: OnState) -> None:
        pool = _pool(self.broker)  # held: a connection found by Sentinel refers to it weakly
        connection: Connection = pool.make_connection()
        channel, pattern = self.broker.event_channel()
        try:
            async with asyncio.timeout(3 * CONNECT_TIMEOUT):
                await connection.connect()
            wire = _Wire(decode, on_message)
            client = await _client_id(connection)
            wire.take(connection)
            wire.send(b"PSUBSCRIBE" if pattern else b"SUBSCRIBE", channel.encode())
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await wire.subscribed
            self._backoff.reset()
            self._wire = wire
            on_state(True, "")
            is_over = False
            watching = asyncio.ensure_future(self._watch.follow(pool, client, lambda: is_over))
            try:
                while not await _first(self._stopped.wait(), wire.lost.wait(), timeout=self._ask_after(wire)):
                    self._probe(wire)
            finally:
                is_over = True
                watching.cancel()
            if wire.lost.is_set() and not self._stopped.is_set():
                raise wire.reason
        finally:
            await connection.disconnect(nowait=True)

    async def _tell(self, error: Exception, on_state: OnState) -> None:
        """Say that we do not listen, why, and since when: since we last heard, not since we noticed."""
        wire, reason = self._wire, self.broker.explain(error)
        if wire is None:
            on_state(False, reason)
            return
        since = time.time() - (_now() - wire.heard_at)
        if wire.is_closed and (verdict := await self._watch.verdict(_pool(self.broker))):
            # What it read last had waited at Redis, so what was thrown away is as old.
            reason, since = verdict, min(since, wire.last_sent_at)
        on_state(False, reason, since)

    def _ask_after(self, wire: _Wire) -> float:
        return max(
            0.05, (wire.asked_at + self.patience if wire.asked_at else wire.heard_at + self.silence) - _now()
        )

    def _probe(self, wire: _Wire) -> None:
        """Ask when it is silent; give up when the question stays unanswered."""
        now = _now()
        if wire.asked_at and now - wire.asked_at >= self.patience:
            wire.end(
                ConnectionError(f"Redis has been silent for {now - wire.heard_at:.0f} s and answers no PING.")
            )
        elif not wire.asked_at and now - wire.heard_at >= self.silence:
            wire.send(b"PING")
            wire.asked_at = now


class _Wire(asyncio.Protocol):
    """The subscribed socket: bytes in, decoded messages out."""

    def __init__(self, decode: Callable[[bytes], Decoded], on_message: OnMessage) -> None:
        loop = asyncio.get_running_loop()
        self.subscribed: asyncio.Future[None] = loop.create_future()
        self.lost = asyncio.Event()
        self.reason: Exception = ConnectionError("Redis closed the connection.")
        self.heard_at = _now()
        self.asked_at = 0.0  # when the PING without an answer was sent; 0 when none is out
        self.is_closed = False  # by Redis
        # When the last event was sent, by our clock: senders' clocks are compared by their least lateness.
        self.last_sent_at = time.time()
        self._least_late = float("inf")
        self._read_at = 0.0  # when bytes last came
        self._decode, self._on_message = decode, on_message
        self._reader = hiredis.Reader(notEnoughData=False)
        self._transport: asyncio.Transport | None = None

    def take(self, connection: Connection) -> None:
        """From here on the bytes of redis-py's connection come to us."""
        writer = connection._writer
        if writer is None:
            raise ConnectionError("Redis closed the connection.")
        transport: Any = writer.transport
        transport.set_protocol(self)
        transport.resume_reading() if not transport.is_reading() else None
        self._transport = transport

    def send(self, *words: bytes) -> None:
        if self._transport is not None:
            parts = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
            self._transport.write(b"*%d\r\n%s" % (len(words), parts))

    def end(self, reason: Exception) -> None:
        if not self.lost.is_set():
            self.reason = reason
            self.lost.set()
        if not self.subscribed.done():
            self.subscribed.set_exception(reason)
            self.subscribed.exception()  # waited for or not, it has been looked at
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """The events of all messages that came together go on together: each step has a price."""
        self.heard_at = _now()
        self.asked_at = 0.0
        reader, decode = self._reader, self._decode
        received_at = time.time()
        events: list[TaskEvent | WorkerEvent] = []
        try:
            reader.feed(data)
            while (reply := reader.gets(False)) is not False:
                if type(reply) is list and reply and reply[0] in _MESSAGE:
                    decoded = decode(reply[-1])
                    events += decoded.events
                    if decoded.malformed or decoded.ignored:
                        decoded.events = ()
                        self._on_message(decoded, received_at)
                else:
                    self._other(reply)
        except hiredis.ProtocolError as error:
            self.end(ConnectionError(f"Redis sent what is not its protocol: {error}"))
        if events:
            self._on_message(Decoded(events), received_at)
            if stamp := events[-1].timestamp:
                self._least_late = min(self._least_late, received_at - stamp)
                self.last_sent_at = stamp + self._least_late
        self._gather(len(data))

    def _gather(self, size: int) -> None:
        """While much comes, let more of it come before it is read: each reading has a price of its own."""
        transport, before, self._read_at = self._transport, self._read_at, self.heard_at
        if transport is not None and size < _MUCH and self.heard_at - before < 2 * _GATHER:
            transport.pause_reading()
            asyncio.get_running_loop().call_later(_GATHER, transport.resume_reading)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = not self.lost.is_set()
        self.end(
            exc
            or ConnectionError("Redis closed the connection: it stopped, or Umbel read too slowly for it.")
        )

    def _other(self, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            self.end(ConnectionError(f"Redis refused: {reply}"))
        elif isinstance(reply, list) and reply and reply[0] in (b"psubscribe", b"subscribe"):
            if self.subscribed.done():
                self.end(
                    ConnectionError("Redis confirmed the subscription again: events between may be lost.")
                )
            else:
                self.subscribed.set_result(None)


_MESSAGE = (b"pmessage", b"message")
_GATHER = 0.01  # seconds
_MUCH = 65_536  # bytes read at once that are worth a reading
_now = time.monotonic


def _pool(broker: Broker) -> Any:
    limits: dict[str, Any] = {
        "socket_timeout": CONNECT_TIMEOUT,
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "client_name": "umbel",
    }
    if urlsplit(broker.url).scheme == "sentinel":
        hosts, master, kwargs = sentinel_parts(broker.url, broker.options)
        sentinel_kwargs = {**limits, **dict(broker.options.get("sentinel_kwargs") or {})}
        found = Sentinel(hosts, sentinel_kwargs=sentinel_kwargs, **limits, **kwargs)
        return found.master_for(master).connection_pool
    if isinstance(broker.ssl, dict):
        limits.update(broker.ssl)
    return ConnectionPool.from_url(redis_url(broker.url), **limits)


async def _client_id(connection: Connection) -> int:
    """How Redis calls this connection; 0 when it does not say."""
    try:
        await connection.send_command("CLIENT", "ID")
        told = await connection.read_response()
    except ResponseError:
        return 0
    return told if isinstance(told, int) else 0


async def _first(*waits: Any, timeout: float) -> bool:
    """Whether one of ``waits`` came to its end within ``timeout`` seconds."""
    runners = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(runners, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for runner in runners:
            runner.cancel()
