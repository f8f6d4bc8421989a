"""Whole messages at a Redis broker, by the ids of their tasks: what a task was sent with. Only ever read.

Other brokers show no message without giving it out, and then this finds none.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from monitor.broker import Broker
from monitor.queues import MOST_BYTES, MOST_OF_LIST, MOST_SECONDS, keys

AT_ONCE = 200  # messages in one read
# Names of Celery's own among the headers of a message; the others are the sender's.
_OWN = """lang task id shadow eta expires group group_index retries timelimit root_id parent_id argsrepr
kwargsrepr origin ignore_result replaced_task_nesting stamped_headers stamps method_name celery_beat_task
periodic_task_name headers compression"""
OWN = frozenset(_OWN.split())


class Found(msgspec.Struct):
    """A task's message as its sender wrote it; not redacted: for sending again, never for a page."""

    uuid: str
    name: str
    queue: str  # where it lies, or its routing key
    waits: bool  # in a queue; else a worker took it and has not acknowledged it
    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None
    why: str = ""  # why there are no arguments: a clause, of which they are the subject
    priority: int | None = None
    headers: dict[str, Any] = {}  # the sender's own
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    stamps: dict[str, Any] = {}


def find(broker: Broker, uuids: Collection[str], queues: Iterable[str]) -> dict[str, Found]:
    """The messages of these tasks, by id, in these queues and among the unacknowledged ones.

    Bounded as a look of ``queues`` is. Raises ``redis.RedisError``.
    """
    found: dict[str, Found] = {}
    if broker.transport != "redis" or not uuids:
        return found
    client = broker.client()
    wanted = frozenset(uuids)
    deadline, read = time.monotonic() + MOST_SECONDS, 0

    def take(raw: bytes, queue: str, waits: bool) -> None:
        nonlocal read
        read += len(raw)
        if _id(raw, waits) in wanted and (one := _found(raw, queue, waits)):
            found.setdefault(one.uuid, one)

    def is_over() -> bool:
        return len(found) == len(wanted) or read > MOST_BYTES or time.monotonic() > deadline

    for queue in dict.fromkeys(queues):
        for key in keys(broker, queue):
            for start in range(0, MOST_OF_LIST, AT_ONCE):
                part: Any = client.lrange(key, start, start + AT_ONCE - 1)
                for raw in part:
                    take(raw, queue, True)
                if is_over():
                    return found
                if len(part) < AT_ONCE:
                    break
    cursor: Any = 0
    while True:
        told: Any = client.hscan(f"{broker.key_prefix}{broker.unacked_key}", cursor, count=AT_ONCE)
        cursor, some = told
        for raw in some.values():
            take(raw, "", False)
        if not cursor or is_over():
            return found


def places(broker: Broker, queue: str, uuids: Collection[str]) -> dict[str, tuple[int, int]]:
    """By id, the place of a message in its queue from 1, the next to be taken, and how many wait there.

    Only the newest are looked through. Messages of a more urgent priority go first. Raises
    ``redis.RedisError``.
    """
    if broker.transport != "redis":
        return {}
    client, wanted = broker.client(), frozenset(uuids)
    at: dict[str, int] = {}
    total = 0
    for key in keys(broker, queue):
        with client.pipeline(transaction=True) as pipe:
            pipe.llen(key)
            pipe.lrange(key, 0, max(NEWEST, 2 * len(wanted)) - 1)
            length, part = pipe.execute()
        for number, raw in enumerate(part):
            if (uuid := _id(raw, waits=True)) in wanted:
                at[str(uuid)] = total + length - number
        total += length
    return {uuid: (place, total) for uuid, place in at.items()}


NEWEST = 500  # messages of a list that are looked through


class _Ids(msgspec.Struct):
    id: Any = None


class _Head(msgspec.Struct):
    """As much of a message as says whose it is."""

    headers: _Ids


_head = msgspec.json.Decoder(_Head)
# As it lies in the hash: the message, its exchange, its routing key.
_taken = msgspec.json.Decoder(tuple[_Head, Any, Any])


def _id(raw: bytes, waits: bool) -> Any:
    """The id of a message's task; other messages may name it as well, as their root or their parent."""
    try:
        found = _head.decode(raw).headers.id if waits else _taken.decode(raw)[0].headers.id
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def _found(raw: bytes, queue: str, waits: bool) -> Found | None:
    try:
        told = json.loads(raw)
        message = told if waits else told[0]
        headers, properties = message["headers"], message["properties"]
        uuid, name = headers["id"], headers["task"]
        if not waits:
            queue = str(told[2])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if not (isinstance(uuid, str) and isinstance(name, str) and isinstance(properties, dict)):
        return None
    hard, soft = _pair(headers.get("timelimit"))
    priority = properties.get("priority")
    names = headers.get("stamped_headers")
    stamps = headers.get("stamps")
    if not isinstance(names, list) or not isinstance(stamps, dict):
        names, stamps = [], {}
    one = Found(
        uuid,
        name,
        queue,
        waits,
        priority=priority if type(priority) is int and 0 <= priority <= 255 else None,
        headers={key: value for key, value in headers.items() if key not in OWN and key not in names},
        argsrepr=_text(headers.get("argsrepr")),
        kwargsrepr=_text(headers.get("kwargsrepr")),
        time_limit=hard,
        soft_time_limit=soft,
        stamps={key: stamps[key] for key in names if isinstance(key, str) and key in stamps},
    )
    one.args, one.kwargs, one.why = _body(message, headers, properties)
    return one


def _body(
    message: dict[str, Any], headers: dict[str, Any], properties: dict[str, Any]
) -> tuple[list[Any] | None, dict[str, Any] | None, str]:
    form = message.get("content-type")
    if form != "application/json":
        return None, None, f"are written as {str(form)[:60]}, which Umbel does not read"
    if headers.get("compression"):
        return None, None, "are compressed, which Umbel does not read"
    try:
        body = message["body"]
        if properties.get("body_encoding") == "base64":
            body = base64.b64decode(body)
        args, kwargs, *_ = json.loads(body)
    except (ValueError, LookupError, TypeError, RecursionError, binascii.Error):
        return None, None, "cannot be read from the message"
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        return None, None, "cannot be read from the message"
    return args, kwargs, ""


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _pair(value: Any) -> tuple[float | None, float | None]:
    if not isinstance(value, list) or len(value) != 2:
        return None, None
    hard, soft = (one if isinstance(one, int | float) and 0 < one < 1e9 else None for one in value)
    return hard, soft
