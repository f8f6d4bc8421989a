"""Commands on their way to workers, and the replies on their way back.

On Redis no kombu consumer waits for replies: each one would search the cluster's unacknowledged messages. The
reply address here is a binding and a list of our own, both with a time to live, so nothing stays when Umbel
is killed, and a reply that comes too late finds no binding and is dropped. On other brokers a queue of its
own serves each call.
"""

from __future__ import annotations

import base64
import json
import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.exceptions import KombuError
from kombu.messaging import Consumer, Producer
from msgspec import Struct
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from monitor.broker import CONNECT_TIMEOUT, Broker

# Bytes of one reply that are read; a larger one is an error, not a stall.
REPLY_LIMIT = 16 * 1024 * 1024
# Seconds that the reply address outlives the call on Redis when Umbel dies within it.
ADDRESS_TTL = 5
REPLIES = "umbel.replies"


class Question(Struct, frozen=True):
    """One command, and the workers it is for; ``to`` None is a broadcast."""

    command: str
    arguments: dict[str, Any]
    to: tuple[str, ...] | None


class Unreachable(Exception):
    """The broker could not be asked; ``sent`` says whether the command may have left all the same."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Reply(Struct, frozen=True):
    """What one worker said to one question: ok with a value, or an error with its text."""

    worker: str
    command: str
    ok: bool
    value: Any

    @property
    def text(self) -> str:
        """The reply as one line, not redacted."""
        return self.value if isinstance(self.value, str) else repr(self.value)


def ask(broker: Broker, questions: Sequence[Question], *, timeout: float) -> list[Reply]:
    """Send all ``questions`` at once and gather replies until each worker has answered each, or ``timeout``.

    A broadcast always takes the whole timeout. Raises ``Unreachable``.
    """
    questions = [question for question in questions if question.to is None or question.to]
    if not questions:
        return []
    call = _Call(questions, timeout)
    errors: tuple[type[BaseException], ...] = (OSError, KombuError, RedisError)
    try:
        # Bounded: a web request must not wait for ever for a connection that others hold.
        connection: Connection = broker.app.pool.acquire(block=True, timeout=CONNECT_TIMEOUT)
    except (KombuError, OSError) as error:
        raise Unreachable(f"The broker cannot be reached: {broker.explain(error)}", sent=False) from error
    try:
        errors += tuple(connection.connection_errors) + tuple(connection.channel_errors)
        over = _over_redis if broker.transport == "redis" else _over_queue
        over(broker, connection, call)
    except errors as error:
        connection.collect(0.1)  # made anew by whoever takes it next
        raise Unreachable(f"The broker cannot be reached: {broker.explain(error)}", sent=call.sent) from error
    finally:
        connection.release()
    return call.replies


def look(
    broker: Broker, commands: Mapping[str, dict[str, Any]], to: Sequence[str] | None, *, timeout: float
) -> list[Reply]:
    """Ask what changes nothing, ``{command: arguments}``: a second time when the connection was stale."""
    who = None if to is None else tuple(dict.fromkeys(to))
    questions = [Question(command, arguments, who) for command, arguments in commands.items()]
    try:
        return ask(broker, questions, timeout=timeout)
    except Unreachable:
        return ask(broker, questions, timeout=timeout)


class _Call:
    """One exchange: what is asked, and who has answered so far."""

    def __init__(self, questions: Sequence[Question], timeout: float) -> None:
        self.id = uuid.uuid4().hex
        self.deadline = time.monotonic() + timeout
        self.timeout = timeout
        self.tickets = {uuid.uuid4().hex: question for question in questions}
        # None: a broadcast is among them, and nobody knows how many will answer.
        self.expected: int | None = 0
        for question in questions:
            if question.to is None or self.expected is None:
                self.expected = None
            else:
                self.expected += len(question.to)
        self.replies: list[Reply] = []
        self.seen: set[tuple[str, str]] = set()
        self.sent = False  # true from the moment that bytes may have left

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()

    @property
    def done(self) -> bool:
        return self.left <= 0 or (self.expected is not None and len(self.replies) >= self.expected)

    def publish(self, broker: Broker, channel: Any, exchange: str, routing_key: str) -> None:
        pidbox = Exchange(
            f"{broker.control_exchange}.pidbox", type="fanout", durable=False, delivery_mode="transient"
        )
        producer = Producer(channel, auto_declare=False)
        pidbox(channel).declare()
        for ticket, question in self.tickets.items():
            self.sent = True
            producer.publish(
                {
                    "method": question.command,
                    "arguments": question.arguments,
                    "destination": None if question.to is None else list(question.to),
                    "pattern": None,
                    "matcher": None,
                    "ticket": ticket,
                    "reply_to": {"exchange": exchange, "routing_key": routing_key},
                },
                exchange=pidbox.name,
                # Clock 0: workers take the greatest clock they hear, and ours must never be that.
                headers={"clock": 0, "expires": time.time() + self.timeout},
                serializer="json",
                retry=False,
            )

    def take(self, body: bytes | str, content_type: str, ticket: str | None) -> None:
        """One reply message: ``{hostname: reply}``; anything else is passed over."""
        question = self.tickets.get(ticket or "")
        if question is None or ticket is None:
            return
        if content_type != "application/json" or len(body) > REPLY_LIMIT:
            return
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            return
        for worker, value in answer.items() if isinstance(answer, dict) else ():
            if (worker, ticket) in self.seen or (question.to is not None and worker not in question.to):
                continue
            self.seen.add((worker, ticket))
            self.replies.append(_reply(worker, question.command, value))


def _reply(worker: str, command: str, value: Any) -> Reply:
    if isinstance(value, dict) and len(value) == 1:
        if "error" in value:
            return Reply(worker, command, False, str(value["error"]))
        if "ok" in value:
            return Reply(worker, command, True, value["ok"])
    return Reply(worker, command, True, value)


def _over_redis(broker: Broker, connection: Any, call: _Call) -> None:
    channel = _redis_channel(connection)
    # kombu's client puts a key prefix before the keys of some commands and not of others (EXPIRE, LRANGE).
    binding = f"{broker.key_prefix}{channel.keyprefix_queue % REPLIES}"
    name = f"{REPLIES}.{call.id}"
    queue = f"{broker.key_prefix}{name}"
    member = channel.sep.join([call.id, "", name])
    ttl = int(call.timeout) + ADDRESS_TTL

    def address(client: Any) -> None:
        with client.pipeline(transaction=True) as pipe:
            pipe.sadd(binding, member)
            pipe.expire(binding, ttl)
            # The list exists with a time to live before anyone pushes on it; a push keeps it.
            pipe.rpush(queue, "")
            pipe.expire(queue, ttl + ADDRESS_TTL)
            pipe.execute()

    with channel.conn_or_acquire() as prefixing:
        client = Redis(connection_pool=prefixing.connection_pool)
        _again_when_stale(address, client)
        try:
            call.publish(broker, channel, REPLIES, call.id)
            _gather(client, queue, call)
        finally:
            silent = call.expected is None or len(call.replies) < call.expected
            with client.pipeline(transaction=True) as pipe:
                pipe.srem(binding, member)
                if silent:
                    # A reply may be on its way between a worker's look at the binding and its push.
                    pipe.expire(queue, ADDRESS_TTL)
                else:
                    pipe.delete(queue)
                pipe.execute()


def _redis_channel(connection: Any) -> Any:
    """The channel of a pooled connection; a connection that died in the pool is made again once."""
    try:
        return connection.default_channel
    except (OSError, KombuError, RedisError):
        connection.collect(0.1)
        return connection.default_channel


def _again_when_stale(step: Callable[[Any], None], client: Any) -> None:
    """Do ``step``, which nobody but us can notice, once more after a stale connection."""
    try:
        step(client)
    except (RedisConnectionError, OSError):
        client.connection_pool.disconnect()
        step(client)


def _gather(client: Any, queue: str, call: _Call) -> None:
    taken = 0
    pause = 0.002
    while True:
        # Pushed at the left; the empty string that keeps the list and what was taken are at the right.
        replies = client.lrange(queue, 0, -2 - taken)
        for raw in replies:
            _take_envelope(raw, call)
        if replies:
            taken, pause = taken + len(replies), 0.002
        if call.done:
            return
        time.sleep(min(pause, max(call.left, 0.001)))
        pause = min(pause * 1.5, 0.3)  # healthy workers answer in milliseconds; the silent cost little


def _take_envelope(raw: bytes | str, call: _Call) -> None:
    if len(raw) > 2 * REPLY_LIMIT:
        return
    try:
        envelope = json.loads(raw)
        body = envelope["body"]
        if envelope["properties"].get("body_encoding") == "base64":
            body = base64.b64decode(body)
        call.take(body, envelope["content-type"], envelope["headers"].get("ticket"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return


def _over_queue(broker: Broker, connection: Any, call: _Call) -> None:
    if not connection.connected:
        connection.connect()
    channel = connection.channel()
    exchange = Exchange(
        f"reply.{broker.control_exchange}.pidbox", type="direct", durable=False, delivery_mode="transient"
    )
    queue = Queue(
        f"{REPLIES}.{call.id}",
        exchange=exchange,
        routing_key=call.id,
        durable=False,
        exclusive=True,
        auto_delete=True,
        expires=call.timeout + ADDRESS_TTL,
        max_length=10_000,
    )

    def on_message(message: Any) -> None:
        call.take(message.body, message.content_type or "", (message.headers or {}).get("ticket"))

    try:
        with Consumer(channel, [queue], on_message=on_message, no_ack=True, accept=["json"]):
            call.publish(broker, channel, exchange.name, call.id)
            while not call.done:
                try:
                    connection.drain_events(timeout=max(call.left, 0.001))
                except (TimeoutError, socket.timeout):  # noqa: UP041 kombu raises either
                    break
        queue(channel).delete()
    finally:
        channel.close()
