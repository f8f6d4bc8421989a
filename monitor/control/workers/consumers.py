"""The queues that a worker consumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monitor.broker import current
from monitor.control.asking import Question
from monitor.control.commands import ADD_CONSUMER, Command, Refused
from monitor.control.inspecting import Seen, queues_of
from monitor.control.orders import LOOK_TIMEOUT, Order, able
from monitor.control.runs.routes import reserved
from monitor.control.verifying import Finding, Grade


def queue_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments: the name of a queue, and whether the last one is meant."""
    queue = str(given.get("queue", "")).strip()
    if not queue or len(queue) > 255 or not queue.isprintable():
        raise Refused(f"{queue[:60]!r} is not the name of a queue: give 1 to 255 printable characters.")
    return {"queue": queue, **({"last": True} if given.get("last") is True else {})}


def order(command: Command) -> Order:
    """After a look at what the worker consumes: without a queue it does nothing at all."""
    (worker,) = command.targets
    able(worker, command.name)
    # One that is consumed already can be cancelled.
    if command.name == ADD_CONSUMER and (why := reserved(current(), command.arguments["queue"])):
        raise Refused(f"{why} Nothing was sent.")
    queues = queues_of(worker, LOOK_TIMEOUT)
    if queues is None:
        raise Refused(f"{worker} did not answer within {LOOK_TIMEOUT:.0f} s; nothing was sent.")
    queue, last = command.arguments["queue"], command.arguments.get("last", False)
    if command.name == ADD_CONSUMER:
        if queue in queues:
            raise Refused(f"{worker} consumes {queue!r} already.")
    elif queue not in queues:
        held = ", ".join(sorted(queues)[:6]) or "no queue"
        raise Refused(f"{worker} does not consume {queue!r}; it consumes {held}.")
    elif queues == {queue} and not last:
        raise Refused(
            f"{queue!r} is the last queue of {worker}: without it the worker takes no task. "
            "Say that you mean the last one, or shut the worker down."
        )
    return Order(command, [Question(command.name, {"queue": queue}, (worker,))], dict(command.arguments))


def consumed_as_asked(order: Order, sent_at: float, seen: Mapping[str, Seen]) -> list[Finding]:
    """Whether the queue is among those the worker says it consumes."""
    (worker,) = order.destinations
    queues = seen[worker].queues if worker in seen else None
    if queues is None:
        return [Finding(worker, Grade.UNKNOWN, "It did not answer when Umbel looked at its queues.")]
    wanted = order.command.name == ADD_CONSUMER
    now = ", ".join(sorted(queues)[:8]) or "no queue"
    grade = Grade.SEEN if (order.arguments["queue"] in queues) is wanted else Grade.NOT
    return [Finding(worker, grade, f"It consumes {now}.")]
