"""Where a task would go: whether its queue is there, who consumes it, and whether they know the task."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from monitor import queues, registered
from monitor.broker import Broker, current
from monitor.models import Task, Worker

# Warnings that a person may overrule.
NEW_QUEUE, NOT_REGISTERED, NO_CONSUMER = "new queue", "not registered", "no consumer"
LISTED = 3  # names in one sentence
READ = 20  # workers whose lists of names are read: each may be long


@dataclass(frozen=True, slots=True)
class Route:
    """``exists``: at the broker; None when it does not say. ``waiting``: messages, None likewise."""

    queue: str
    name: str
    exists: bool | None
    waiting: int | None
    consumers: tuple[str, ...]  # online workers
    knowing: tuple[str, ...]  # of them, those that have registered the name
    ignorant: tuple[str, ...]  # of them, those that have not, as they said themselves
    problem: str = ""  # why the broker could not be asked
    transport: str = "redis"

    @property
    def warnings(self) -> dict[str, str]:
        """What speaks against sending it there: a key of those above, and a sentence."""
        found: dict[str, str] = {}
        if self.exists is False:
            how = (
                "RabbitMQ would get a new one, as Celery makes them: durable, classic, without priorities. "
                "A worker that declares it in another way cannot start then."
                if self.transport == "amqp"
                else "The message would wait in a new one until a worker consumes it."
            )
            found[NEW_QUEUE] = f"The broker has no queue called {self.queue!r}. {how}"
        elif not self.consumers:
            found[NO_CONSUMER] = f"No online worker consumes {self.queue!r}: the task waits until one does."
        if self.ignorant and not self.knowing:
            unknown = len(self.consumers) - len(self.ignorant)
            rest = (
                f"; what {unknown} more {'has' if unknown == 1 else 'have'} is not known" if unknown else ""
            )
            found[NOT_REGISTERED] = (
                f"{self.name!r} is not registered on {_listed(self.ignorant)}{rest}. "
                "A worker that does not know a task discards its message."
            )
        return found


def route(name: str, queue: str) -> Route:
    """By what workers said of themselves, and a look at the broker for a queue that nobody consumes."""
    broker = current()
    online = Worker.objects.filter(status="online", is_beat=False).values_list("hostname", "queues")
    consumers = sorted(host for host, consumed in online if isinstance(consumed, list) and queue in consumed)
    knowing, ignorant = list[str](), list[str]()
    read = Worker.objects.filter(hostname__in=consumers[:READ])
    for hostname, details in read.values_list("hostname", "details"):
        names = registered.names(details) if isinstance(details, dict) else None
        if names is not None:
            (knowing if name in names else ignorant).append(hostname)
    exists: bool | None = True if consumers else None
    waiting, problem = None, ""
    try:
        (depth,) = queues.depths(broker, [queue])
        waiting = depth.waiting
        if broker.transport == "amqp":
            # A passive declaration says it plainly.
            exists = waiting is not None
        elif exists is None and broker.transport == "redis":
            exists = bool(waiting) or _is_bound(broker, queue)
    except (OSError, KombuError, RedisError) as error:
        problem = f"The broker cannot be asked: {broker.explain(error)}"
    if exists is False and broker.transport == "redis":
        # A list on Redis is only there while something waits in it.
        exists = Task.objects.filter(queue=queue).exists()
    return Route(
        queue,
        name,
        exists,
        waiting,
        tuple(consumers),
        tuple(sorted(knowing)),
        tuple(sorted(ignorant)),
        problem,
        broker.transport,
    )


def reserved(broker: Broker, queue: str) -> str:
    """Why nothing may be sent to, consumed from or purged of a queue of that name; "" when it may.

    On Redis a queue is the key of its name. A message written to ``unacked`` while that is not there makes it
    a list: every worker then fails at its next message, and loses it.
    """
    own = queue in (broker.exchange, _EVENTS) or queue.endswith(".pidbox")
    own = own or queue.startswith((f"{broker.exchange}.", f"{_EVENTS}.", "umbel.replies"))
    if broker.transport == "redis":
        own = own or queue in (broker.unacked_key, broker.unacked_index_key, broker.unacked_mutex_key)
        results = [f"{broker.result_key_prefix}{begin}" for begin in _RESULTS]
        own = own or queue.startswith(("_kombu.binding.", "umbel.", *results))
    if own:
        return f"{queue!r} is a name that Celery, or Umbel, uses for itself: it is no queue of tasks."
    if broker.transport == "redis":
        try:
            kind: Any = broker.client().type(f"{broker.key_prefix}{queue}")
        except (OSError, RedisError):
            return ""  # what is there and is no list takes no message
        if kind not in (b"none", b"list"):
            return f"{queue!r} is a key of the broker that holds something else ({kind.decode()}): no queue."
    return ""


# What events are sent under unless it is set; keys of a Redis result backend.
_EVENTS = "celeryev"
_RESULTS = ("celery-task-meta-", "celery-taskset-meta-", "chord-unlock-")


def _is_bound(broker: Broker, queue: str) -> bool:
    """Whether kombu has declared it: under an exchange of its own name, or under Celery's default."""
    client, suffix = broker.client(), f"{broker.priority_separator}{queue}".encode()
    for exchange in (queue, "celery"):
        members: Any = client.smembers(f"{broker.key_prefix}_kombu.binding.{exchange}")
        if any(member.endswith(suffix) for member in members):
            return True
    return False


def _listed(names: Iterable[str]) -> str:
    some = list(names)
    more = f" and {len(some) - LISTED} more" if len(some) > LISTED else ""
    return ", ".join(some[:LISTED]) + more
