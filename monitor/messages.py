"""Single messages of a Redis broker, by the ids of their tasks or by a stamp. Only ever read, and bounded as
``queues`` is; other brokers show no message without giving it out, and then nothing is found.

``find`` and ``stamped`` tell where messages are and what hangs on them, redacted, for pages. ``sent`` tells
what tasks were sent with, as their senders wrote it: for sending again, never for a page.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec

from monitor import queues
from monitor.broker import Broker
from monitor.events import UUID_LIMIT, clean

BODY_MOST = 1024 * 1024  # bytes of one body that are parsed for what hangs on the task
MANY = 50  # names, stamps or values that are kept of one message
STAMP_LIMIT = 255  # characters
NEWEST = 500  # messages of a list that are looked through for their places
# Names of Celery's own among the headers of a message; the others are the sender's.
_OWN = """lang task id shadow eta expires group group_index retries timelimit root_id parent_id argsrepr
kwargsrepr origin ignore_result replaced_task_nesting stamped_headers stamps method_name celery_beat_task
periodic_task_name headers compression"""
OWN = frozenset(_OWN.split())


class Message(msgspec.Struct):
    """A task's message. ``hangs``: its body was read, so that what should follow it is known."""

    uuid: str
    where: str  # queue or unacknowledged
    queue: str = ""
    name: str = ""
    stamps: dict[str, list[str]] = {}
    hangs: bool = False
    chain: list[str] = []  # task names, the next one first
    chord: str = ""  # the task that runs when the whole group has succeeded
    callbacks: list[str] = []
    errbacks: list[str] = []


class Search(msgspec.Struct):
    """What was found. ``whole``: the broker was read to its end, so that what is not there is nowhere."""

    found: list[Message] = []
    whole: bool = True

    def of(self, uuid: str) -> Message | None:
        return next((one for one in self.found if one.uuid == uuid), None)


class Sent(msgspec.Struct):
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


def find(broker: Broker, uuids: Iterable[str], names: Iterable[str]) -> Search:
    """The messages of these tasks, in these queues or unacknowledged. Raises ``redis.RedisError``."""
    wanted, hide, search = frozenset(uuids), broker.redactor.text, Search()

    def keep(one: _Envelope) -> bool:
        search.found.append(_message(one, hide))
        return False

    search.whole = _read(broker, names, _by_id(wanted), keep)
    return search


def stamped(broker: Broker, header: str, values: Iterable[str], names: Iterable[str]) -> Search:
    """The messages that bear one of these values under a stamp's header. Raises ``redis.RedisError``."""
    # As JSON writes it: others' text may be in other letters.
    key = json.dumps(header).strip('"').encode()
    wanted, hide, search = set(values), broker.redactor.text, Search()

    def keep(one: _Envelope) -> bool:
        found = _message(one, hide)
        if wanted & set(found.stamps.get(header, ())):
            search.found.append(found)
        return False

    search.whole = _read(broker, names, lambda raw, where: key in raw, keep)
    return search


def sent(broker: Broker, uuids: Iterable[str], names: Iterable[str]) -> dict[str, Sent]:
    """What these tasks were sent with, by id, from these queues and the unacknowledged messages.

    Not redacted: never for a page. Raises ``redis.RedisError``.
    """
    wanted = frozenset(uuids)
    found: dict[str, Sent] = {}

    def keep(one: _Envelope) -> bool:
        told = _sent(one)
        if told is not None:
            found.setdefault(one.uuid, told)
        return len(found) == len(wanted)

    if wanted:
        _read(broker, names, _by_id(wanted), keep)
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
    for key in queues.keys(broker, queue):
        with client.pipeline(transaction=True) as pipe:
            pipe.llen(key)
            pipe.lrange(key, 0, max(NEWEST, 2 * len(wanted)) - 1)
            length, part = pipe.execute()
        for number, raw in enumerate(part):
            if (uuid := _id(raw, "queue")) in wanted:
                at[str(uuid)] = total + length - number
        total += length
    return {uuid: (place, total) for uuid, place in at.items()}


def stamps_in(told: Mapping[str, Any]) -> dict[str, list[str]]:
    """Header and values of a message's headers, or of a result with ``result_extended``, as text."""
    names, held = told.get("stamped_headers"), told.get("stamps")
    found: dict[str, list[str]] = {}
    for name in names[:MANY] if isinstance(names, list) else ():
        value = held.get(name) if isinstance(held, dict) else told.get(name)
        values = value if isinstance(value, list) else [value]
        if isinstance(name, str) and name and value is not None:
            texts = [one if isinstance(one, str) else json.dumps(one, default=str) for one in values[:MANY]]
            found[clean(name, STAMP_LIMIT)] = [clean(text, STAMP_LIMIT) for text in texts]
    return found


# private, in the order of use


class _Envelope(msgspec.Struct):
    """A message of kombu's that is a task's, as it lies there."""

    uuid: str
    where: str
    queue: str
    told: dict[str, Any]
    headers: dict[str, Any]


def _by_id(wanted: frozenset[str]) -> Callable[[bytes, str], bool]:
    written = [uuid.encode() for uuid in wanted]

    def may_be(raw: bytes, where: str) -> bool:
        uuid = _id(raw, where)
        # One that cannot be read may be one of these, if it names it.
        return any(one in raw for one in written) if uuid is None else uuid in wanted

    return may_be


def _read(
    broker: Broker,
    names: Iterable[str],
    may_be: Callable[[bytes, str], bool],
    keep: Callable[[_Envelope], bool],
) -> bool:
    """Gives ``keep`` each message that may be one of those, until it says that this is all it wants.

    Returns whether the broker was read to its end.
    """
    if broker.transport != "redis":
        return False
    reading = _Reading(broker, may_be, keep)
    all_ = list(dict.fromkeys(names))
    for name in all_[: queues.MOST_QUEUES]:
        for key in queues.keys(broker, name):
            if not reading.is_done:
                reading.list(key, name)
    if not reading.is_done:
        reading.unacknowledged()
    # Where no queue is known none was looked into, and ``queues.names`` ends at its bound.
    return 0 < len(all_) < queues.MOST_QUEUES and not (reading.look.cut or reading.look.unread)


class _Reading(queues.Reading):
    """Parses only what may be one of those that are looked for."""

    def __init__(
        self, broker: Broker, may_be: Callable[[bytes, str], bool], keep: Callable[[_Envelope], bool]
    ) -> None:
        super().__init__(broker, queues.Look())
        self._may_be, self._keep = may_be, keep

    def take(self, raw: bytes | str, queue: str, where: str) -> None:
        self.count(raw)
        data = raw.encode() if isinstance(raw, str) else raw
        if self.is_done or not self._may_be(data, where):
            return
        found = _envelope(data, queue, where)
        if found is None:
            self.look.unread += 1
        elif self._keep(found):
            self.is_done = True


class _Ids(msgspec.Struct):
    id: Any = None


class _Head(msgspec.Struct):
    """As much of a message as says whose it is."""

    headers: _Ids


_head = msgspec.json.Decoder(_Head)
# As it lies in the hash: the message, its exchange, its routing key.
_taken = msgspec.json.Decoder(tuple[_Head, Any, Any])


def _id(raw: bytes, where: str) -> str | None:
    """The id of a message's task; other messages may name it as well, as their root or their parent."""
    try:
        head = _head.decode(raw) if where == "queue" else _taken.decode(raw)[0]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return clean(head.headers.id, UUID_LIMIT) if isinstance(head.headers.id, str) else None


def _envelope(raw: bytes, queue: str, where: str) -> _Envelope | None:
    try:
        told: Any = json.loads(raw)
        if where == "unacknowledged":
            queue = told[2] if isinstance(told[2], str) else ""
            told = told[0]
        headers: Any = told["headers"]
        uuid = headers["id"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if not isinstance(headers, dict) or not isinstance(uuid, str) or not uuid:
        return None
    return _Envelope(clean(uuid, UUID_LIMIT), where, queue, told, headers)


def _message(one: _Envelope, hide: Callable[[str], str]) -> Message:
    def name_of(value: Any) -> str:
        return clean(hide(value)) if isinstance(value, str) else ""

    message = Message(
        one.uuid, one.where, clean(one.queue), name_of(one.headers.get("task")), stamps_in(one.headers)
    )
    body = one.told.get("body")
    parts = _parts(one)[0] if isinstance(body, str) and len(body) <= BODY_MOST else None
    # What protocol 2 carries beside the arguments.
    embed = parts[2] if parts is not None and len(parts) > 2 else None
    if not isinstance(embed, dict):
        return message

    def names_of(value: Any) -> list[str]:
        listed = value if isinstance(value, list) else [value] if isinstance(value, dict) else []
        return [name_of(one.get("task")) for one in listed[:MANY] if isinstance(one, dict)]

    message.hangs = True
    # Celery takes the next step from the end of the list.
    message.chain = names_of(embed.get("chain"))[::-1]
    message.chord = next(iter(names_of(embed.get("chord"))), "")
    message.callbacks, message.errbacks = names_of(embed.get("callbacks")), names_of(embed.get("errbacks"))
    return message


def _sent(one: _Envelope) -> Sent | None:
    headers, properties = one.headers, one.told.get("properties")
    name = headers.get("task")
    if not isinstance(name, str) or not isinstance(properties, dict):
        return None
    hard, soft = _pair(headers.get("timelimit"))
    priority = properties.get("priority")
    names, stamps = headers.get("stamped_headers"), headers.get("stamps")
    if not isinstance(names, list) or not isinstance(stamps, dict):
        names, stamps = [], {}
    found = Sent(
        one.uuid,
        name,
        one.queue,
        one.where == "queue",
        priority=priority if type(priority) is int and 0 <= priority <= 255 else None,
        headers={key: value for key, value in headers.items() if key not in OWN and key not in names},
        argsrepr=_text(headers.get("argsrepr")),
        kwargsrepr=_text(headers.get("kwargsrepr")),
        time_limit=hard,
        soft_time_limit=soft,
        stamps={key: stamps[key] for key in names if isinstance(key, str) and key in stamps},
    )
    parts, found.why = _parts(one)
    if parts is not None and len(parts) > 1 and isinstance(parts[0], list) and isinstance(parts[1], dict):
        found.args, found.kwargs = parts[0], parts[1]
    elif parts is not None:
        found.why = UNREADABLE
    return found


UNREADABLE = "cannot be read from the message"


def _parts(one: _Envelope) -> tuple[list[Any] | None, str]:
    """The body; or why it cannot be read: a clause, of which its arguments are the subject."""
    form = one.told.get("content-type")
    if form != "application/json":
        return None, f"are written as {str(form)[:60]}, which Umbel does not read"
    if one.headers.get("compression"):
        return None, "are compressed, which Umbel does not read"
    try:
        body = one.told["body"]
        if (one.told.get("properties") or {}).get("body_encoding") == "base64":
            body = base64.b64decode(body)
        parts = json.loads(body)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None, UNREADABLE
    return (parts, "") if isinstance(parts, list) else (None, UNREADABLE)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _pair(value: Any) -> tuple[float | None, float | None]:
    if not isinstance(value, list) or len(value) != 2:
        return None, None
    hard, soft = (one if isinstance(one, int | float) and 0 < one < 1e9 else None for one in value)
    return hard, soft
