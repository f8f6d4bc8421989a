"""Purge a queue: what waits in it is deleted at the broker, counted before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from monitor import queues
from monitor.broker import Broker, current
from monitor.control.asking import Reply, Unreachable
from monitor.control.commands import Command, Refused, whole_number
from monitor.control.connected import BROKER, connected, unreachable
from monitor.control.inspecting import Seen
from monitor.control.orders import Order
from monitor.control.runs.routes import reserved
from monitor.control.verifying import Finding, Grade

MOST = 10**9 - 1
# So many more messages than were shown are no other queue than the one that was meant.
NEAR, SHARE = 100, 0.25


def shown(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments: how many messages the operator was shown, if any."""
    if given.get("count") in (None, ""):
        return {}
    return {"count": whole_number(given["count"], "The number of messages", 0, MOST)}


def depth(broker: Broker, queue: str) -> int | None:
    """Messages that wait; None when the broker does not say, or has no such queue. Raises ``Unreachable``."""
    try:
        (found,) = queues.depths(broker, [queue])
    except (OSError, KombuError, RedisError) as error:
        raise unreachable(broker, error, sent=False) from error
    return found.waiting


def order(command: Command) -> Order:
    """After a count: an empty queue, or one that has changed since it was shown, is not purged."""
    (queue,) = command.targets
    if not queue.strip() or len(queue) > 255 or not queue.isprintable():
        raise Refused(f"{queue[:60]!r} is not the name of a queue.")
    if why := reserved(current(), queue):
        raise Refused(f"{why} Nothing was deleted.")
    waiting = depth(current(), queue)
    if waiting is None:
        raise Refused(f"The broker does not say how many messages wait in {queue!r}, or has no such queue.")
    if waiting == 0:
        raise Refused(f"{queue!r} is empty: nothing waits in it.")
    was = command.arguments.get("count")
    if was is not None and waiting > was + max(NEAR, SHARE * was):
        raise Refused(
            f"{waiting:,} messages wait in {queue!r} now, and you were shown {was:,}. "
            "Nothing was deleted; look again."
        )
    return Order(command, [], {"count": waiting}, asked=(BROKER,), before=waiting)


def purge(order: Order) -> list[Reply]:
    """Delete what waits. Raises ``Unreachable``."""
    broker, (queue,) = current(), order.command.targets
    begun: list[str] = []
    with connected(broker, begun) as (_, channel):
        begun.append(queue)
        removed = channel.queue_purge(queue)
    text = f"{removed:,} message{'' if removed == 1 else 's'} deleted"
    return [Reply(BROKER, order.command.name, True, text)]


def emptied(order: Order, sent_at: float, seen: Mapping[str, Seen]) -> list[Finding]:
    """What waits now: new messages come all the time, and workers give some back."""
    (queue,) = order.command.targets
    told = order.replies[0].text if order.replies else "The broker did not say how many were deleted"
    try:
        waiting = depth(current(), queue)
    except Unreachable:
        waiting = None
    if waiting is None:
        return [Finding(queue, Grade.UNKNOWN, f"{told}; the broker did not say what waits now.")]
    if waiting == 0:
        return [Finding(queue, Grade.SEEN, f"{told}; none waits now.")]
    return [
        Finding(queue, Grade.HALF, f"{told}; {waiting:,} wait now: sent since, or given back by a worker.")
    ]
