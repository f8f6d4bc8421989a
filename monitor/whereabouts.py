"""Single messages of a Redis broker, looked for by their task's id or by a stamp: where they are, and what
hangs on them. Only ever read, within the bounds of ``queues``; what they hold leaves here redacted.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from monitor import queues
from monitor.broker import Broker
from monitor.events import UUID_LIMIT, clean

BODY_MOST = 1024 * 1024  # bytes of one body that are parsed
MANY = 50  # names, stamps or values that are kept of one message
STAMP_LIMIT = 255  # characters


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


def find(broker: Broker, uuids: Iterable[str], names: Iterable[str]) -> Search:
    """The messages of these tasks, in these queues or unacknowledged. Raises ``redis.RedisError``."""
    wanted = {uuid: uuid.encode() for uuid in uuids}

    def may_be(raw: bytes) -> bool:
        return any(part in raw for part in wanted.values())

    search = _search(broker, names, may_be)
    search.found = [one for one in search.found if one.uuid in wanted]
    return search


def stamped(broker: Broker, header: str, values: Iterable[str], names: Iterable[str]) -> Search:
    """The messages that bear one of these values under a stamp's header. Raises ``redis.RedisError``."""
    # As JSON writes it: others' text may be in other letters.
    key = json.dumps(header).strip('"').encode()
    wanted = set(values)
    search = _search(broker, names, lambda raw: key in raw)
    search.found = [one for one in search.found if wanted & set(one.stamps.get(header, ()))]
    return search


# private, in the order of use


def _search(broker: Broker, names: Iterable[str], may_be: Callable[[bytes], bool]) -> Search:
    search = Search()
    if broker.transport != "redis":
        search.whole = False
        return search
    look = queues.Look()
    reading = _Reading(broker, look, may_be, search)
    all_ = list(dict.fromkeys(names))
    for name in all_[: queues.MOST_QUEUES]:
        for key in queues.keys(broker, name):
            reading.list(key, name)
    reading.unacknowledged()
    # Where no queue is known none was looked into, and ``queues.names`` ends at its bound.
    search.whole = 0 < len(all_) < queues.MOST_QUEUES and not (look.cut or look.unread)
    return search


class _Reading(queues.Reading):
    """Parses only what may be one of those that are looked for."""

    def __init__(
        self, broker: Broker, look: queues.Look, may_be: Callable[[bytes], bool], search: Search
    ) -> None:
        super().__init__(broker, look)
        self._may_be, self._search = may_be, search

    def take(self, raw: bytes | str, queue: str, where: str) -> None:
        self.count(raw)
        text = raw.encode() if isinstance(raw, str) else raw
        if not self._may_be(text):
            return
        found = _message(text, queue, where, self.broker.redactor.text)
        if found is None:
            self.look.unread += 1
        else:
            self._search.found.append(found)


def _message(raw: bytes, queue: str, where: str, hide: Callable[[str], str]) -> Message | None:
    try:
        told: Any = json.loads(raw)
        if where == "unacknowledged":
            queue = told[2] if isinstance(told[2], str) else ""
            told = told[0]
        headers: Any = told["headers"]
        uuid, name = headers["id"], headers.get("task")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    if not isinstance(uuid, str) or not uuid:
        return None

    def name_of(value: Any) -> str:
        return clean(hide(value)) if isinstance(value, str) else ""

    message = Message(clean(uuid, UUID_LIMIT), where, clean(queue), name_of(name), stamps_in(headers))
    embed = _embed(told)
    if embed is None:
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


def _embed(told: Any) -> dict[str, Any] | None:
    """What protocol 2 carries beside the arguments; None when the body is no JSON, or too large."""
    body = told.get("body")
    if told.get("content-type") != "application/json" or not isinstance(body, str) or len(body) > BODY_MOST:
        return None
    try:
        if (told.get("properties") or {}).get("body_encoding") == "base64":
            body = base64.b64decode(body)
        parts = json.loads(body)
        embed = parts[2]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return embed if isinstance(embed, dict) else None
