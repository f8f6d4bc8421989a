"""What waits at the broker: depths of queues and, on Redis, the messages themselves. Only ever read.

On Redis a queue is a list, with one more for each priority step; what workers took and have not acknowledged
is a hash of the same messages. Only headers are decoded, never a body; each look is bounded in messages,
bytes and time. Other brokers give a queue's depth by a passive declaration, and no look into it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from kombu.exceptions import KombuError

from monitor.broker import CONNECT_TIMEOUT, Broker
from monitor.events import TEXT_LIMIT, UUID_LIMIT, clean
from monitor.records import Queued
from monitor.redact import Redactor
from monitor.results import seconds

# Bounds of one look: queues, messages of one list, messages and bytes of all, seconds.
MOST_QUEUES, MOST_OF_LIST, MOST_MESSAGES = 200, 10_000, 50_000
MOST_BYTES, MOST_SECONDS = 128 * 1024 * 1024, 10.0
# Messages may be large: bytes that one read should bring, and the least and most messages of one read.
READ_BYTES, READ_LEAST, READ_MOST = 2 * 1024 * 1024, 10, 500


class Depth(msgspec.Struct, frozen=True):
    """How many messages wait in a queue, and who consumes it; None: not known."""

    name: str
    waiting: int | None
    consumers: int | None = None


class Look(msgspec.Struct):
    """The messages found, how many could not be read, and whether a bound cut the look short."""

    found: list[Queued] = []
    unread: int = 0
    cut: bool = False


def names(broker: Broker) -> list[str]:
    """Every queue declared on a Redis broker, sorted; none on others. Raises ``redis.RedisError``."""
    if broker.transport != "redis":
        return []
    client, found = broker.client(), set()
    prefix = f"{broker.key_prefix}_kombu.binding."
    pattern = "".join("\\" + c if c in "*?[]^\\" else c for c in prefix) + "*"
    for number, key in enumerate(client.scan_iter(match=pattern, count=1_000, _type="set")):
        if number >= MOST_QUEUES:
            break
        if key.endswith((b".pidbox", b"celeryev", b"umbel.replies")):
            continue
        for member in client.sscan_iter(key, count=MOST_QUEUES):
            # Routing key, pattern and queue.
            found.add(member.rsplit(broker.priority_separator.encode(), 1)[-1].decode(errors="replace"))
            if len(found) >= MOST_QUEUES:
                break
    return sorted(found)


def depths(broker: Broker, queues: Iterable[str]) -> list[Depth]:
    """The depth of each queue. Raises ``redis.RedisError``, ``OSError`` or ``KombuError``."""
    names = list(dict.fromkeys(queues))[:MOST_QUEUES]
    if broker.transport == "redis":
        return _redis_depths(broker, names)
    if broker.transport == "amqp":
        return [_declared(broker, name) for name in names]
    return [Depth(name, None) for name in names]


def messages(broker: Broker, queues: Iterable[str]) -> Look:
    """Waiting messages, the newest of each queue first, then the unacknowledged ones; none but on Redis.

    Raises ``redis.RedisError``.
    """
    look = Look()
    if broker.transport != "redis":
        return look
    reading = Reading(broker, look)
    for name in list(dict.fromkeys(queues))[:MOST_QUEUES]:
        for key in keys(broker, name):
            reading.list(key, name)
    reading.unacknowledged()
    return look


def keys(broker: Broker, queue: str) -> list[str]:
    """The lists of a queue on Redis: the most urgent first, which is priority 0."""
    steps = ["", *(f"{broker.priority_separator}{step}" for step in broker.priority_steps)]
    return [f"{broker.key_prefix}{queue}{step}" for step in steps]


# private, in the order of use


def _redis_depths(broker: Broker, names: list[str]) -> list[Depth]:
    with broker.client().pipeline(transaction=False) as pipe:
        for name in names:
            for key in keys(broker, name):
                pipe.llen(key)
        lengths = pipe.execute(raise_on_error=False)
    each = 1 + len(broker.priority_steps)
    found = []
    for number, name in enumerate(names):
        parts = lengths[number * each : (number + 1) * each]
        whole = all(isinstance(part, int) for part in parts)
        found.append(Depth(name, sum(parts) if whole else None))
    return found


def _declared(broker: Broker, name: str) -> Depth:
    connection = broker.app.pool.acquire(block=True, timeout=CONNECT_TIMEOUT)
    try:
        # A queue that is not there closes the channel, so each has its own.
        with connection.channel() as channel:
            told = channel.queue_declare(queue=name, passive=True)
        return Depth(name, told.message_count, told.consumer_count)
    except (KombuError, OSError):
        raise
    except tuple(connection.channel_errors):
        return Depth(name, None)
    finally:
        connection.release()


class Reading:
    """One bounded look at a Redis broker; ``take`` is given each message, as it lies there."""

    def __init__(self, broker: Broker, look: Look) -> None:
        self.broker, self.look = broker, look
        self._client = broker.client()
        self._deadline = time.monotonic() + MOST_SECONDS
        self._bytes = 0
        self._messages = 0
        self.is_done = False  # nothing more is looked for

    def list(self, key: str, queue: str) -> None:
        start = 0
        for count in self._helpings(MOST_OF_LIST):
            part: Any = self._client.lrange(key, start, start + count - 1)
            for raw in part:
                self.take(raw, queue, "queue")
            start += len(part)
            if len(part) < count:
                return
        if self._client.llen(key) > start:
            self.look.cut = True

    def unacknowledged(self) -> None:
        cursor: Any = 0
        key = f"{self.broker.key_prefix}{self.broker.unacked_key}"
        for count in self._helpings(MOST_MESSAGES):
            told: Any = self._client.hscan(key, cursor, count=count)
            cursor, part = told
            for raw in part.values():
                self.take(raw, "", "unacknowledged")
            if not cursor:
                return
        self.look.cut = True

    def count(self, raw: bytes | str) -> None:
        """Towards the bounds."""
        self._messages += 1
        self._bytes += len(raw)

    def _helpings(self, most: int) -> Iterator[int]:
        """How many messages to read next, until a bound is met."""
        taken = self._messages
        size = READ_BYTES // READ_LEAST
        while self._messages < MOST_MESSAGES and self._messages - taken < most:
            if self.is_done or self._bytes >= MOST_BYTES or time.monotonic() > self._deadline:
                break
            before, read = self._messages, self._bytes
            yield min(max(READ_BYTES // max(size, 1), READ_LEAST), READ_MOST)
            if self._messages > before:
                size = (self._bytes - read) // (self._messages - before)

    def take(self, raw: bytes | str, queue: str, where: str) -> None:
        self.count(raw)
        found = _queued(raw, queue, where, self.broker.redactor)
        if found is None:
            self.look.unread += 1
        else:
            self.look.found.append(found)


class _Headers(msgspec.Struct):
    """Of a task message of protocol 2; anyone may write anything, so types are looked at one by one."""

    id: Any = None
    task: Any = None
    argsrepr: Any = None
    kwargsrepr: Any = None
    eta: Any = None
    expires: Any = None
    retries: Any = None
    root_id: Any = None
    parent_id: Any = None
    origin: Any = None


class _Message(msgspec.Struct):
    """An envelope of kombu's; its body is passed over."""

    headers: _Headers
    properties: dict[str, Any] = {}


_message = msgspec.json.Decoder(_Message)
# As it lies in the hash: the message, its exchange, its routing key.
_unacknowledged = msgspec.json.Decoder(tuple[_Message, Any, Any])


def _queued(raw: bytes | str, queue: str, where: str, redactor: Redactor) -> Queued | None:
    try:
        if where == "queue":
            message = _message.decode(raw)
        else:
            message, _, key = _unacknowledged.decode(raw)
            queue = key if isinstance(key, str) else ""
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    head = message.headers
    if not isinstance(head.id, str) or not head.id:
        return None
    return Queued(
        uuid=clean(head.id, UUID_LIMIT),
        queue=clean(queue),
        where=where,
        name=_text(head.task) or "",
        args=_shown(head.argsrepr, redactor),
        kwargs=_shown(head.kwargsrepr, redactor),
        eta=seconds(head.eta),
        expires=seconds(head.expires),
        retries=head.retries if type(head.retries) is int and 0 <= head.retries < 2**31 else 0,
        root_id=_text(head.root_id),
        parent_id=_text(head.parent_id),
        sender=_text(head.origin) or "",
    )


def _text(raw: Any) -> str | None:
    return clean(raw, UUID_LIMIT) if isinstance(raw, str) and raw else None


def _shown(raw: Any, redactor: Redactor) -> str | None:
    return clean(redactor.text(raw), TEXT_LIMIT) if isinstance(raw, str) else None
