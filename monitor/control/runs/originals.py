"""What a task was sent with, and how that is known: its message, its worker, its result, or its events.

Values are not redacted, for they are sent again; ``Part.shown`` is what a page may show of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from celery.utils.saferepr import saferepr
from kombu.exceptions import KombuError
from kombu.utils.json import loads
from redis.exceptions import RedisError

from monitor import messages, redact
from monitor.arguments import Unreadable, named, positional, read, unfit
from monitor.broker import Broker, current
from monitor.control.asking import Unreachable
from monitor.control.inspecting import inputs_of
from monitor.events import TEXT_LIMIT, clean
from monitor.messages import Sent
from monitor.models import Task, Worker
from monitor.records import ENDED, LOST, RECEIVED, STARTED
from monitor.results import Inputs

T = TypeVar("T")
MOST = 500  # tasks at once
# Where arguments come from, in words.
SOURCES = {
    "message": "the task’s message at the broker",
    "worker": "the worker that holds the task",
    "result": "the task’s result, which holds them (result_extended)",
    "events": "the task’s events",
}


@dataclass(frozen=True, slots=True)
class Part:
    """Args or kwargs: the value, or why there is none (a clause with the arguments as its subject)."""

    value: Any = None
    shown: Any = None  # the same shape, with [hidden] in the place of secrets
    why: str = ""

    @property
    def known(self) -> bool:
        return not self.why


@dataclass(frozen=True, slots=True)
class Original:
    """A task as it was sent, as far as that can be known."""

    uuid: str
    name: str
    queue: str = ""  # "": not known
    state: str = ""
    source: str = ""  # a key of SOURCES, "" when nothing tells its arguments
    args: Part = field(default_factory=lambda: Part(why=_UNTOLD))
    kwargs: Part = field(default_factory=lambda: Part(why=_UNTOLD))
    priority: int | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    stamps: Mapping[str, Any] = field(default_factory=dict)
    time_limit: float | None = None
    soft_time_limit: float | None = None
    # What its sender shows in place of the arguments, where that is not the arguments themselves.
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    troubles: tuple[str, ...] = ()  # what could not be asked

    @property
    def why(self) -> str:
        """Why it cannot be sent again as it was: a sentence; "" when it can."""
        for what, part in (("args", self.args), ("kwargs", self.kwargs)):
            if part.why:
                return f"Its {what} {part.why}."
        if not self.name:
            return "The name of the task is not known."
        if not self.queue:
            return "The queue it was sent to is not known: no task-sent event of it was seen."
        return ""


_UNTOLD = "are not known: no event told them"


def original(uuid: str) -> Original | None:
    """One task; None when history has none of that id. Raises nothing when the broker is away."""
    return originals([uuid]).get(uuid)


def originals(uuids: Iterable[str]) -> dict[str, Original]:
    """The tasks of history among these, each by its best source."""
    wanted = list(dict.fromkeys(uuids))[:MOST]
    rows = {
        row.uuid: row
        for row in Task.objects.filter(uuid__in=wanted).only(
            "uuid", "name", "state", "queue", "worker", "args", "kwargs"
        )
    }
    broker, troubles = current(), _Troubles()
    held = [row for row in rows.values() if row.state not in ENDED or row.state == LOST]
    found = troubles.unless("the broker", broker, lambda: _messages(broker, held)) or {}
    taken = [row for row in held if row.uuid not in found and row.state in (RECEIVED, STARTED)]
    told = troubles.unless("its worker", broker, lambda: _from_workers(taken)) or {}
    left = [uuid for uuid in rows if uuid not in found and uuid not in told]
    kept = troubles.unless("the result backend", broker, lambda: broker.read_inputs(left)) or {}
    sources = _Sources(found, told, kept, tuple(troubles.said))
    return {uuid: sources.of(row) for uuid, row in rows.items()}


class _Troubles:
    """Sources that could not be asked: the next one is, and it is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def unless(self, what: str, broker: Broker, ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except (RedisError, OSError, KombuError, Unreachable) as error:
            self.said.append(f"Umbel could not ask {what}: {broker.explain(error)}")
            return None


def _messages(broker: Broker, held: Sequence[Task]) -> dict[str, Sent]:
    if not held:
        return {}
    queues = {row.queue for row in held if row.queue}
    if any(not row.queue for row in held):
        for consumed in Worker.objects.filter(is_beat=False).values_list("queues", flat=True):
            queues |= {queue for queue in consumed or () if isinstance(queue, str)}
    return messages.sent(broker, [row.uuid for row in held], sorted(queues))


def _from_workers(taken: Sequence[Task]) -> dict[str, dict[str, Any]]:
    hosts = sorted({row.worker for row in taken if row.worker})
    online = list(
        Worker.objects.filter(hostname__in=hosts, status="online").values_list("hostname", flat=True)
    )
    return inputs_of([row.uuid for row in taken], online) if online else {}


class _Queues:
    """Which queue a routing key names, and which one a worker's tasks can only come from."""

    def __init__(self) -> None:
        self._workers: dict[str, list[str]] | None = None

    def of(self, row: Task, *keys: str) -> str:
        if row.queue:
            return str(row.queue)
        if self._workers is None:
            listed = Worker.objects.filter(is_beat=False).values_list("hostname", "queues")
            self._workers = {
                name: [queue for queue in queues or () if isinstance(queue, str)] for name, queues in listed
            }
        known = {queue for queues in self._workers.values() for queue in queues}
        for key in keys:
            if key and key in known:
                return key
        own = self._workers.get(row.worker, [])
        return own[0] if len(own) == 1 else ""


@dataclass(slots=True)
class _Sources:
    """What was found of some tasks, by id."""

    found: Mapping[str, Sent]
    workers: Mapping[str, Mapping[str, Any]]
    results: Mapping[str, Inputs]
    troubles: tuple[str, ...]
    queues: _Queues = field(default_factory=_Queues)

    def of(self, row: Task) -> Original:
        """The best that is known of one."""
        found = self.found.get(row.uuid)
        if found is not None and found.args is not None and found.kwargs is not None:
            return self._of_message(row, found, found.args, found.kwargs)
        told, kept = self.workers.get(row.uuid, {}), self.results.get(row.uuid)
        known = self._known(row, told, kept)
        args, kwargs = told.get("args"), told.get("kwargs")
        if isinstance(args, list) and isinstance(kwargs, dict):
            return _given(known, "worker", args, kwargs, row)
        if kept is not None:
            return _given(known, "result", kept.args, kept.kwargs, row)
        own, by_name = _event_part(row.args, positional), _event_part(row.kwargs, named)
        if found is not None and not (own.known or by_name.known):
            own = by_name = Part(why=found.why)
        source = "events" if own.known or by_name.known else ""
        return replace(known, args=own, kwargs=by_name, source=source)

    def _of_message(self, row: Task, found: Sent, args: list[Any], kwargs: dict[str, Any]) -> Original:
        return Original(
            row.uuid,
            row.name or found.name,
            found.queue if found.waits else self.queues.of(row, found.queue),
            row.state,
            "message",
            _part(args, row.args),
            _part(kwargs, row.kwargs),
            found.priority,
            found.headers,
            found.stamps,
            found.time_limit,
            found.soft_time_limit,
            # The sender's own words, in which nothing is redacted: they go into the new message.
            found.argsrepr if not agrees(found.argsrepr, args) else None,
            found.kwargsrepr if not agrees(found.kwargsrepr, kwargs) else None,
            self.troubles,
        )

    def _known(self, row: Task, told: Mapping[str, Any], kept: Inputs | None) -> Original:
        routing = told.get("delivery_info")
        routing = routing if isinstance(routing, dict) else {}
        priority = routing.get("priority")
        return Original(
            row.uuid,
            row.name or (kept.name if kept else "") or str(told.get("name") or ""),
            self.queues.of(row, str(routing.get("routing_key") or ""), kept.queue if kept else ""),
            row.state,
            priority=priority if type(priority) is int and 0 <= priority <= 255 else None,
            troubles=self.troubles,
        )


def _given(known: Original, source: str, args: list[Any], kwargs: dict[str, Any], row: Task) -> Original:
    return replace(
        known,
        source=source,
        args=_part(args, row.args),
        kwargs=_part(kwargs, row.kwargs),
        argsrepr=row.args if not agrees(row.args, args) else None,
        kwargsrepr=row.kwargs if not agrees(row.kwargs, kwargs) else None,
    )


def _part(value: Any, told: str | None) -> Part:
    if reason := unfit(value):
        return Part(why=reason)
    if not agrees(told, value):
        # Its sender shows something else: so does Umbel.
        return Part(value, redact.HIDDEN)
    return Part(value, redact.DEFAULT.value(value))


def _event_part(told: str | None, of: Callable[[str], Any]) -> Part:
    if told is None:
        return Part(why=_UNTOLD)
    try:
        value = of(told)
    except Unreadable as problem:
        return Part(why=str(problem))
    reason = unfit(value)
    return Part(why=reason) if reason else Part(value, value)


def agrees(told: str | None, value: Any) -> bool:
    """Whether a repr, as events have it, tells this value, and not what its sender wants shown instead.

    A sender may set ``argsrepr`` to keep arguments out of events and logs. In doubt it is taken for that.
    """
    if told is None:
        return True
    try:
        if read(told) == value:
            return True
    except Unreadable:
        pass
    try:
        native = loads(json.dumps(value))
    except (ValueError, TypeError, RecursionError):
        return False
    forms = [native, tuple(native)] if isinstance(native, list) else [native]
    for form in forms:
        for text in (saferepr(form, 1024), repr(form), saferepr(form, TEXT_LIMIT)):
            if _plain(clean(redact.DEFAULT.text(text), TEXT_LIMIT)) == _plain(told):
                return True
    head = _plain(told.split("...", 1)[0]).rstrip(",") if "..." in told else ""
    whole = _plain(redact.DEFAULT.text(saferepr(native, None, 64)))
    return len(head) > LEAST and whole.startswith(head)


LEAST = 16  # characters of a text that was cut, from which on it is told by its beginning


def _plain(text: str) -> str:
    """A tuple is a list in JSON."""
    return text.translate(_BRACKETS).replace(",]", "]").replace(" ", "")


_BRACKETS = str.maketrans("()", "[]")
