"""What became of tasks that were sent: taken by a worker, waiting and where, or not known."""

from __future__ import annotations

import time
from collections.abc import Mapping

from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from monitor import messages
from monitor.broker import current
from monitor.control.asking import Unreachable
from monitor.control.commands import Message
from monitor.control.inspecting import Seen, holders_of
from monitor.control.orders import Order
from monitor.control.verifying import Finding, Grade
from monitor.models import Task, Worker
from monitor.records import ENDED, LOST, RECEIVED, REVOKED, STARTED

# Seconds after sending from which on messages and workers are looked through, where no event has come.
LOOK_AFTER = 1.5


def arrived(order: Order, sent_at: float, seen: Mapping[str, Seen]) -> list[Finding]:
    """Whether each was taken by a worker, or waits, and where."""
    rows = {row.uuid: row for row in Task.objects.filter(uuid__in=[m.uuid for m in order.messages])}
    findings, open_ = [], []
    for message in order.messages:
        finding = _by_events(message, rows.get(message.uuid))
        if finding is None:
            open_.append(message)
        else:
            findings.append(finding)
    if open_ and time.time() - sent_at < LOOK_AFTER:
        return findings + [Finding(one.uuid, Grade.UNKNOWN, "No event of it has come yet.") for one in open_]
    return findings + _elsewhere(open_)


# private, in the order of use


def _by_events(message: Message, row: Task | None) -> Finding | None:
    """What events say; None when they do not say enough."""
    if row is None:
        return None
    if row.state == REVOKED and not row.terminated:
        why = "It expired before it was run" if row.expired else "A worker skipped it: it is revoked"
        return Finding(message.uuid, Grade.NOT, f"{why}.")
    if row.state in ENDED and row.state != LOST and row.started_at is None:
        return Finding(message.uuid, Grade.SEEN, f"It ended before it began: {row.state}.")
    if row.state in ENDED and row.state != LOST:
        where = f" on {row.worker}" if row.worker else ""
        return Finding(message.uuid, Grade.SEEN, f"It ran{where}: {row.state}.")
    if row.state == STARTED:
        return Finding(message.uuid, Grade.SEEN, f"It runs on {row.worker}.")
    if row.state == RECEIVED:
        held = " and holds it until its time" if message.eta and message.eta > time.time() else ""
        return Finding(message.uuid, Grade.SEEN, f"{row.worker} has taken it{held}.")
    if row.worker:
        return Finding(message.uuid, Grade.SEEN, f"{row.worker} has taken it: {row.state}.")
    return None


def _elsewhere(open_: list[Message]) -> list[Finding]:
    """Those of which no worker has told: asked of the broker, the workers and the result backend."""
    if not open_:
        return []
    broker = current()
    consumers: dict[str, list[str]] = {}
    for hostname, queues in Worker.objects.filter(status="online", is_beat=False).values_list(
        "hostname", "queues"
    ):
        for queue in queues if isinstance(queues, list) else ():
            consumers.setdefault(queue, []).append(hostname)
    held: dict[str, str] = {}
    ended: dict[str, str] = {}
    uuids = [one.uuid for one in open_]
    try:
        ended = {one.uuid: one.state for one in broker.read_results(uuids)}
        hosts = sorted({host for one in open_ for host in consumers.get(one.queue, ())})
        held = holders_of(uuids, hosts) if hosts else {}
        places: dict[str, tuple[int, int]] = {}
        for queue in {one.queue for one in open_}:
            places |= messages.places(broker, queue, uuids)
    except (OSError, KombuError, RedisError, Unreachable) as error:
        why = f"No event of it came, and the broker cannot be asked: {broker.explain(error)}"
        return [Finding(one.uuid, Grade.UNKNOWN, why) for one in open_]
    found = []
    for one in open_:
        who = consumers.get(one.queue, [])
        if one.uuid in ended:
            text = f"It ended with {ended[one.uuid]}: so says the result backend."
            found.append(Finding(one.uuid, Grade.SEEN, text))
        elif one.uuid in held:
            found.append(Finding(one.uuid, Grade.SEEN, f"{held[one.uuid]} holds it."))
        else:
            found.append(Finding(one.uuid, Grade.HALF, _waits(one, places.get(one.uuid), who)))
    return found


def _waits(message: Message, place: tuple[int, int] | None, who: list[str]) -> str:
    if place is not None:
        text = f"It waits in {message.queue}, at place {place[0]:,} of {place[1]:,}"
    else:
        text = f"The broker took it for {message.queue}; no worker has told of it yet"
    if not who:
        return f"{text}. No online worker consumes {message.queue}: it waits until one does."
    return f"{text}. {_many(who)} {message.queue}."


def _many(who: list[str]) -> str:
    return f"{who[0]} consumes" if len(who) == 1 else f"{len(who)} workers consume"
