"""Send tasks: to a queue by its name, and once. What became of them is ``arriving``'s to see.

Nothing is declared but a queue that a person has confirmed: a message goes to the default exchange with the
queue as its routing key, which on RabbitMQ and on Redis alike reaches that queue and no other.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from celery.events.dispatcher import EventDispatcher
from django.db import IntegrityError
from kombu.entity import Exchange, Queue
from kombu.messaging import Producer

from monitor.arguments import hides, unfit
from monitor.broker import Broker, current
from monitor.control.asking import Reply
from monitor.control.commands import Command, Message, Refused
from monitor.control.connected import BROKER, connected
from monitor.control.orders import Order
from monitor.control.runs.routes import NEW_QUEUE, NO_CONSUMER, NOT_REGISTERED, Route, reserved, route
from monitor.models import ControlRecord, SentTask, Task

CONFIRM_TIMEOUT = 5.0  # seconds for a broker to say that it has a message
LATEST = 366 * 86_400.0  # seconds that an ETA or an expiry may be away
KNOWN = (NEW_QUEUE, NOT_REGISTERED, NO_CONSUMER)

log = logging.getLogger(__name__)


def stated(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments: which warnings were overruled."""
    despite = given.get("despite") or ()
    return {"despite": [key for key in KNOWN if key in despite]} if despite else {}


def order(command: Command) -> Order:
    """What can be sent; what cannot is left out with its reason. Raises ``Refused`` when nothing is left."""
    if {one.uuid for one in command.messages} != set(command.targets):
        raise Refused("No task was given, so nothing was sent.")
    despite = set(command.arguments.get("despite") or ())
    order = Order(command, [], {}, asked=(BROKER,))
    taken = set(Task.objects.filter(uuid__in=command.targets).values_list("uuid", flat=True))
    taken |= set(SentTask.objects.filter(uuid__in=command.targets).values_list("uuid", flat=True))
    routes: dict[tuple[str, str], Route] = {}
    barred: dict[str, str] = {}
    now = time.time()
    for message in command.messages:
        if message.uuid in taken:
            order.skipped[message.uuid] = f"There is a task {message.uuid} already: it was not sent again."
            continue
        reason = wrong(message, now)
        if not reason:
            if message.queue not in barred:
                barred[message.queue] = reserved(current(), message.queue)
            reason = barred[message.queue] and f"{barred[message.queue]} Nothing was sent."
        if not reason:
            way = (message.name, message.queue)
            if way not in routes:
                routes[way] = route(*way)
            warnings = routes[way].warnings
            # That nobody consumes it is no reason: a worker may come.
            reason = next(
                (warnings[k] for k in (NEW_QUEUE, NOT_REGISTERED) if k in warnings and k not in despite), ""
            )
            reason = reason and f"{reason} Nothing was sent."
        if reason:
            order.skipped[message.uuid] = reason
    order.messages = tuple(one for one in command.messages if one.uuid not in order.skipped)
    if not order.messages:
        first = next(iter(order.skipped.values()))
        many = len(command.messages)
        text = first if many == 1 else f"None of these {many} tasks can be sent. The first: {first}"
        raise Refused(text, order.skipped)
    order.create = tuple(
        sorted({way.queue for way in routes.values() if NEW_QUEUE in way.warnings and NEW_QUEUE in despite})
    )
    order.arguments = described(order.messages, despite)
    return order


def wrong(message: Message, now: float) -> str:
    """What is wrong with a message in itself: a sentence; "" when nothing is."""
    for what, text in (("task", message.name), ("queue", message.queue)):
        if not text.strip() or len(text) > 255 or not text.isprintable():
            return f"{text[:60]!r} is not the name of a {what}."
    if not isinstance(message.args, list) or not isinstance(message.kwargs, dict):
        return "Args are a list, and kwargs an object."
    for what, value in (("args", message.args), ("kwargs", message.kwargs)):
        if reason := unfit(value):
            return f"The {what} {reason}."
        if hides(value):
            return f"The {what} hold what Umbel hides in place of a value; type the value."
    if message.priority is not None and not 0 <= message.priority <= 255:
        return f"A priority is from 0 to 9; {message.priority} is not."
    for what, at in (("ETA", message.eta), ("expiry", message.expires)):
        if at is not None and not (math.isfinite(at) and abs(at - now) <= LATEST):
            return f"The {what} is more than a year away."
    if message.expires is not None and message.expires <= max(now, message.eta or now):
        return "The task would expire before it starts: give a later expiry, or none."
    return ""


def described(messages: Sequence[Message], despite: Iterable[str] = ()) -> dict[str, Any]:
    """What the log keeps: whose task, where to and how; never the arguments."""
    first = messages[0]
    names, queues = sorted({m.name for m in messages}), sorted({m.queue for m in messages})
    told: dict[str, Any] = {
        "task": names[0] if len(names) == 1 else f"{len(names)} names",
        "queue": queues[0] if len(queues) == 1 else f"{len(queues)} queues",
    }
    if len(messages) == 1:
        optional = {
            "of": first.of,
            "arguments": "edited" if first.edited else first.source,
            "priority": first.priority,
            "eta": _written(first.eta),
            "expires": _written(first.expires),
        }
        told |= {key: value for key, value in optional.items() if value not in ("", None)}
    return told | ({"despite": sorted(despite)} if despite else {})


def note(order: Order, record: ControlRecord) -> None:
    """Write down what will be sent, in the transaction of its record: the same id twice is refused."""
    sent = [
        SentTask(
            uuid=one.uuid,
            of=one.of,
            name=one.name,
            queue=one.queue,
            source=one.source,
            edited=one.edited,
            eta=one.eta,
            expires=one.expires,
            record=record,
            at=record.at,
        )
        for one in order.messages
    ]
    try:
        SentTask.objects.bulk_create(sent)
    except IntegrityError as error:
        raise Refused(f"{sent[0].name} is being sent already: it was not sent twice.") from error


def send(order: Order) -> list[Reply]:
    """Publish each message once. Raises ``Unreachable``."""
    broker, sent = current(), list[str]()
    with connected(broker, sent) as (connection, channel):
        _create(broker, channel, order)
        with Producer(channel, auto_declare=False) as producer:
            told = _Told(broker, connection)
            for message in order.messages:
                sent.append(message.uuid)
                event = _publish(broker, producer, message)
                told.tell(event, producer)
    many = len(order.messages)
    text = f"{many} message{'' if many == 1 else 's'} taken"
    return [Reply(BROKER, order.command.name, True, text)]


# private, in the order of use


def _create(broker: Broker, channel: Any, order: Order) -> None:
    """A queue that a person confirmed is made, as Celery makes one that is missing."""
    if broker.transport == "redis":
        return  # a list is there when something is in it; its binding is the workers' business
    for name in order.create:
        Queue(name, Exchange(name, "direct"), name)(channel).declare()


def _publish(broker: Broker, producer: Any, message: Message) -> dict[str, Any]:
    """Send it; the event that tells of it."""
    amqp = broker.app.amqp
    made = amqp.as_task_v2(
        message.uuid,
        message.name,
        message.args,
        message.kwargs,
        eta=_moment(message.eta),
        expires=_moment(message.expires),
        time_limit=message.time_limit,
        soft_time_limit=message.soft_time_limit,
        argsrepr=message.argsrepr,
        kwargsrepr=message.kwargsrepr,
        origin=_name(),
        create_sent_event=True,
    )
    if message.stamps:
        made.headers.update(stamped_headers=list(message.stamps), stamps=dict(message.stamps))
    options: dict[str, Any] = {} if message.priority is None else {"priority": message.priority}
    if broker.transport == "amqp":
        options["mandatory"] = True
    amqp.send_task_message(
        producer,
        message.name,
        made._replace(sent_event=None),  # told apart: when that fails, the task has left all the same
        queue=Queue(message.queue, Exchange(""), message.queue, no_declare=True),
        declare=(),
        retry=False,
        serializer="json",
        headers=dict(message.headers),
        confirm_timeout=CONFIRM_TIMEOUT,
        **options,
    )
    return {**made.sent_event, "queue": message.queue, "exchange": "", "routing_key": message.queue}


class _Told:
    """Tells of what was sent as any client with ``task_send_sent_event`` does."""

    def __init__(self, broker: Broker, connection: Any) -> None:
        self._dispatcher = EventDispatcher(
            connection, _name(), enabled=False, buffer_while_offline=False, app=broker.app
        )
        self._failed = False

    def tell(self, event: dict[str, Any], producer: Any) -> None:
        if self._failed:
            return
        try:
            self._dispatcher.publish("task-sent", event, producer, retry=False)
        except Exception:  # the task is sent: that its event is not must not look like a failure
            self._failed = True
            log.exception("A task was sent, and its task-sent event could not be.")


def _name() -> str:
    return f"umbel{os.getpid()}@{socket.gethostname()}"


def _written(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _moment(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
