"""Revoke by a stamp: every task that bears it, now and later, whatever its id.

A worker notes a stamp in memory alone: without end, and until it restarts; a state file does not keep it, and
no command lists or lifts it. It looks at a task's stamps when it gives the task to its pool: what it holds
for an ETA is discarded then, and so is what is sent later, and with prefork what it has reserved.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import structlog

from monitor.control.asking import Question
from monitor.control.capabilities import TAKES_AT_ONCE, pool_kind
from monitor.control.commands import (
    REVOKE_STAMPED,
    SIGNALS,
    TERMINATE,
    UMBEL,
    Command,
    Perform,
    Refused,
    whole_number,
)
from monitor.control.inspecting import Seen, has_grown, seen_on
from monitor.control.orders import LOOK_TIMEOUT, Order, among, cannot, online_workers
from monitor.control.verifying import Finding, Grade, answered
from monitor.models import ControlRecord, StandingStamp, Task, Worker

HOURS, MOST_HOURS = 24, 30 * 24  # that Umbel sends it again to workers that restart
LONGEST = 255  # characters of a header or a value
RETRY_FIRST, RETRY_MOST = 1.0, 60.0  # seconds until a worker that did not take it is told again
MOST = 1_000  # standing stamps
REMEMBERED = 20  # times that one was sent again

log = structlog.get_logger(__name__)


def stamp_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments: header, value, a signal for tasks that run, and for how long Umbel keeps it up."""
    found: dict[str, Any] = {}
    for key in ("header", "value"):
        text = str(given.get(key, "")).strip()
        if not text or len(text) > LONGEST or not text.isprintable():
            raise Refused(
                f"{text[:60]!r} is no {key} of a stamp: give 1 to {LONGEST} printable characters. "
                "Nothing was sent."
            )
        found[key] = text
    signal = given.get("signal") or ""
    if signal:
        if signal not in SIGNALS:
            raise Refused(
                f"{str(signal)[:40]!r} is not a signal Umbel sends; choose one of {', '.join(SIGNALS)}."
            )
        found["signal"] = signal
    found["hours"] = whole_number(given.get("hours") or HOURS, "The hours", 1, MOST_HOURS)
    return found


def values_of(text: str) -> list[Any]:
    """The value as text and, where it may be a number, true or false, as that: a worker compares by type."""
    try:
        value = json.loads(text)
    except ValueError:
        return [text]
    return [text, value] if isinstance(value, bool | int | float) and json.dumps(value) == text else [text]


def order(command: Command) -> Order:
    """To every worker: each that did not hear of it would run what bears the stamp."""
    online = online_workers()
    if not online:
        raise Refused("No worker is online: nobody would remember the stamp. Revoke when one is.")
    given = command.arguments
    stand = StandingStamp.objects.filter(until__gt=time.time())
    is_new = not stand.filter(header=given["header"], value=given["value"]).exists()
    if is_new and stand.count() >= MOST:
        raise Refused(f"{MOST:,} stamps stand already, and Umbel keeps up no more. Withdraw one first.")
    to = among(command.destinations, online) or tuple(online)
    headers = {given["header"]: values_of(given["value"])}
    found = Order(command, [], dict(given))
    signal = given.get("signal", "")
    if signal:
        found.skipped = {worker: why for worker in to if (why := cannot(worker, TERMINATE))}
    noting = tuple(worker for worker in to if not signal or worker in found.skipped)
    ending = tuple(worker for worker in to if worker not in noting)
    if ending:
        for name, seen in seen_on(ending, LOOK_TIMEOUT).items():
            found.where.update({uuid: name for uuid, how in seen.tasks.items() if how == "active"})
    questions = [
        (noting, {"headers": headers, "terminate": False}),
        (ending, {"headers": headers, "terminate": True, "signal": signal}),
    ]
    found.questions = [Question(REVOKE_STAMPED, arguments, who) for who, arguments in questions if who]
    return found


def noted(order: Order, sent_at: float, seen: Mapping[str, Seen]) -> list[Finding]:
    """What can be seen of it: a worker's word, and the running tasks that it ended."""
    ended = _ended(order, sent_at, seen)
    rows = {row.hostname: pool_kind(row) for row in Worker.objects.filter(hostname__in=seen)}
    found = []
    for worker in order.destinations:
        kind = rows.get(worker, "")
        has = sum(how == "reserved" for how in seen[worker].tasks.values()) if worker in seen else 0
        grown = worker in seen and has_grown(seen[worker].stats)
        taken = _taken(has, kind, grown) if kind in TAKES_AT_ONCE or grown else ""
        found.append(_noted(order, worker, ended.get(worker, []), taken))
    return found


def _taken(has: int, kind: str, grown: bool) -> str:
    if not has:
        return ""
    if grown:
        return f" Of the {has} that it had reserved some may run: its pool grew, and may have them already."
    those = "The task that it had reserved runs" if has == 1 else f"The {has} tasks that it had reserved run"
    return f" {those} all the same, if stamped so: a {kind} pool has such tasks already."


def _noted(order: Order, worker: str, ended: list[str], taken: str) -> Finding:
    """``taken``: a sentence on what is out of the stamp's reach, or nothing."""
    if not answered(order, worker):
        said = next((reply for reply in order.replies if reply.worker == worker), None)
        if said is not None and "not implement" in said.text:
            text = "It noted the stamp and cannot end a running task: its pool cannot be stopped."
            return Finding(worker, Grade.HALF, text, settled=True)
        text = "It did not say that it noted the stamp: it would run such tasks."
        return Finding(worker, Grade.NOT, text, settled=True)
    text = f"By its own word it discards such tasks until it restarts; workers do not list stamps.{taken}"
    if not order.arguments.get("signal"):
        return Finding(worker, Grade.HALF, text, settled=True)
    if why := order.skipped.get(worker):
        return Finding(worker, Grade.HALF, f"{text} What runs there goes on: {why}", settled=True)
    if ended:
        many = "1 running task was" if len(ended) == 1 else f"{len(ended)} running tasks were"
        return Finding(worker, Grade.SEEN, f"{many} ended: {', '.join(ended[:3])}. {text}")
    here = worker in order.where.values()
    return Finding(worker, Grade.HALF, f"No running task of it was seen to end. {text}", settled=not here)


def _ended(order: Order, sent_at: float, seen: Mapping[str, Seen]) -> dict[str, list[str]]:
    """By worker the tasks that ran there, run there no more, and were revoked since."""
    rows = Task.objects.filter(uuid__in=list(order.where)[:500], seen_at__gte=sent_at)
    found: dict[str, list[str]] = {}
    for uuid, marks in rows.values_list("uuid", "marks"):
        worker = order.where[uuid]
        # A killed greenlet is revoked, and then said to have succeeded.
        if not any(mark and mark[0] == "revoked" and float(mark[5]) >= sent_at for mark in marks):
            continue
        if worker in seen and uuid not in seen[worker].tasks:
            found.setdefault(worker, []).append(uuid)
    return found


def stand(order: Order, record: ControlRecord) -> None:
    """Write down what workers must be told again, in the transaction of the record."""
    given = order.command.arguments
    if record.user_id is None and record.username == UMBEL.username:
        return
    StandingStamp.objects.update_or_create(
        header=given["header"],
        value=given["value"],
        defaults={
            "record": record,
            "since": record.at,
            "until": record.at + given["hours"] * 3600.0,
            "told": {},
            "again": [],
        },
    )


class _Start(NamedTuple):
    """One start of a worker: the next one has forgotten everything."""

    hostname: str
    pid: int | None
    online_at: float


@dataclass(slots=True)
class StampKeeper:
    """Tells workers that restart or come new of the stamps that stand; ``look`` runs in a thread."""

    perform: Perform
    clock: Callable[[], float] = time.time
    _waits: dict[str, tuple[float, float]] = field(default_factory=dict)  # worker -> until when, pause

    def look(self) -> int:
        """One look; how many stand."""
        now = self.clock()
        stand = StandingStamp.objects.filter(until__gt=now).order_by("-since")
        standing = list(stand.select_related("record")[:MOST])
        if not standing:
            return 0
        workers = list(
            Worker.objects.filter(status="online", is_beat=False).values_list("hostname", "pid", "online_at")
        )
        for one in standing:
            if one.record.answered_at is None:
                continue  # it is still being sent
            took = {r["worker"] for r in one.record.replies if r.get("outcome") == "ok"}
            for hostname, pid, online_at in workers:
                self._tell(one, _Start(hostname, pid, online_at or 0.0), hostname in took, now)
        return len(standing)

    def _tell(self, one: StandingStamp, start: _Start, took: bool, now: float) -> None:
        hostname, pid, online_at = start
        told = one.told.get(hostname)
        sent_at = one.record.sent_at or one.record.at
        if told is None and took and online_at <= sent_at:
            one.told[hostname] = [pid, sent_at]
            one.save(update_fields=["told"])
            return
        if told is not None and told[0] == pid and online_at <= told[1]:
            return
        until, pause = self._waits.get(hostname, (0.0, RETRY_FIRST))
        if now < until:
            return
        if not self._send(one, hostname):
            self._waits[hostname] = (now + pause, min(pause * 2, RETRY_MOST))
            return
        self._waits.pop(hostname, None)
        one.told[hostname] = [pid, now]
        one.again = [*one.again, [hostname, now]][-REMEMBERED:]
        one.save(update_fields=["told", "again"])
        from monitor.publish import announce  # the channel layer is for those that have one

        announce({f"control:{one.record_id}"})

    def _send(self, one: StandingStamp, hostname: str) -> bool:
        """Whether it took it. Running tasks are not ended again: it was asked for once."""
        arguments = {"header": one.header, "value": one.value, "hours": 1}
        reason = f"Sent again: {hostname} was started since, and has forgotten it."
        command = Command(
            REVOKE_STAMPED, (f"{one.header}={one.value}",), arguments, (hostname,), reason=reason
        )
        try:
            record = self.perform(command, UMBEL)
        except Refused as refusal:
            log.info("a stamp could not be sent again", worker=hostname, reason=str(refusal))
            return False
        return any(reply.get("outcome") == "ok" for reply in record.replies)
