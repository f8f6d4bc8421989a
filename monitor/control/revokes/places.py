"""Where a task is still found after a command: with a worker, in its queue, unacknowledged, in its process.

Each place is "yes", "no", "part" where not all workers answered, or "" where it could not be looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from monitor import messages, queues
from monitor.broker import current
from monitor.control.inspecting import Seen
from monitor.control.orders import Order
from monitor.messages import Search
from monitor.models import Task

LOOKED = 20  # tasks whose messages are looked for: each look reads the broker
WITH_WORKERS = ("active", "reserved", "scheduled")


def of(order: Order, seen: Mapping[str, Seen]) -> dict[str, dict[str, Any]]:
    """By task that was acted on."""
    uuids = [uuid for uuid in order.command.targets if uuid not in order.skipped]
    search = _search(uuids)
    return {uuid: _of(order, uuid, seen, search) for uuid in uuids}


def _of(order: Order, uuid: str, seen: Mapping[str, Seen], search: Search | None) -> dict[str, str]:
    asked = set(order.destinations) | {order.where[uuid]} if uuid in order.where else set(order.destinations)
    found: dict[str, str] = {}
    pid = order.pids.get(uuid)
    processes = seen[order.where[uuid]].processes if order.where.get(uuid) in seen else None
    if pid is not None:
        found["process"] = "" if processes is None else "yes" if pid in processes else "no"
    answered = [name for name in asked if name in seen]
    for place in WITH_WORKERS:
        here = any(one.tasks.get(uuid) == place for one in seen.values())
        absent = "no" if len(answered) == len(asked) else "part"
        found[place] = "yes" if here else absent if answered else ""
    found["answered"] = f"{len(answered)} of {len(asked)}"
    message = search.of(uuid) if search else None
    for place, where in (("queue", "queue"), ("unacknowledged", "unacknowledged")):
        there = search is not None and any(one.uuid == uuid and one.where == where for one in search.found)
        found[place] = "yes" if there else "no" if search and search.whole else ""
    if message is not None and message.where == "queue":
        found["name"] = message.queue
    return found


def _search(uuids: list[str]) -> Search | None:
    """None when the broker cannot be read so, did not answer, or there are too many to look for."""
    if not uuids or len(uuids) > LOOKED or current().transport != "redis":
        return None
    told = set(Task.objects.filter(uuid__in=uuids).exclude(queue="").values_list("queue", flat=True))
    try:
        # A task whose task-sent event nobody heard may lie in any of them.
        return messages.find(current(), uuids, told | set(queues.names(current())))
    except (RedisError, OSError, KombuError):
        return None
