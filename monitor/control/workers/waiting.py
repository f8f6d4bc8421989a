"""Shrink when free: a pool becomes smaller once enough of its slots are idle, so that nothing is in the way.

What was asked is in the database and survives a restart of Umbel. It ends when it was done, withdrawn,
overtaken by another command, or when its time is over; each of that is in the audit log.
"""

from __future__ import annotations

import time
import uuid

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from monitor.control.asking import Unreachable
from monitor.control.capabilities import capabilities
from monitor.control.commands import (
    AUTOSCALE,
    GROW,
    KEEP_SIZE,
    MAY_CONTROL,
    SHRINK,
    SHRINK_WHEN_FREE,
    UMBEL,
    Actor,
    Barred,
    Command,
    Perform,
    Refused,
    need_operator,
    nobody_barred,
    whole_number,
)
from monitor.control.inspecting import pool_size, seen_on
from monitor.control.orders import able
from monitor.control.performing import noted, refuse, refused
from monitor.control.workers.pools import MOST_PROCESSES
from monitor.models import ControlRecord, WaitingShrink, Worker
from monitor.redact import DEFAULT

WITHIN = (900, 3600, 4 * 3600, 86_400)  # seconds that it may wait
LOOK_TIMEOUT = 1.0
_NAMESPACE = uuid.UUID("0b9f3f0e-7b61-4f5c-9d5a-3a0c5a1d6e42")


def shrink_when_free(hostname: str, to: int, within: int, actor: Actor, reason: str = "") -> WaitingShrink:
    """Remember it; one a worker, and a new one takes the place of the one before. Raises ``Refused``."""
    command = Command(SHRINK_WHEN_FREE, (hostname,), {"to": to, "within": within}, reason=reason)
    try:
        row = _checked(command, actor)
    except Refused as refusal:
        refuse(command, actor, str(refusal))
        raise
    now = time.time()
    n = (row.size or 0) - to
    slots = "1 slot is" if n == 1 else f"{n} slots are"
    noted(
        command,
        actor,
        f"Nothing is sent yet: Umbel waits until {slots} idle on {hostname}, for {span(within)} at the most.",
    )
    try:
        with transaction.atomic():
            _open(hostname).update(ended_at=now, ended=f"{actor.username} asked for {to} instead.")
            found = WaitingShrink.objects.create(
                worker=hostname, at=now, to=to, until=now + within, pid=row.pid,
                reason=DEFAULT.text(reason)[:500],
                user_id=actor.user_id, username=actor.username, role=actor.role, address=actor.address,
            )  # fmt: skip
    except IntegrityError as error:
        raise Refused(
            f"Somebody else asked for the same of {hostname} at this moment; look again."
        ) from error
    tell(hostname)
    return found


def withdraw(hostname: str, actor: Actor) -> None:
    """It is not done any more. Raises ``Refused`` when nothing waits."""
    command = Command(KEEP_SIZE, (hostname,))
    if actor.role not in MAY_CONTROL:
        raise refused(
            command, actor, f"{actor.username or 'You'} cannot withdraw it: that needs the operator role."
        )
    found = _open(hostname).first()
    if found is None or not _end(found, f"{actor.username} withdrew it.", time.time()):
        raise refused(
            command, actor, f"No shrink waits on {hostname}: it was done, withdrawn, or its time was over."
        )
    asked = f"{found.username} had asked for {found.to}"
    noted(command, actor, f"The pool of {hostname} keeps its size: {asked}, and nothing was sent.")


def look(perform: Perform, now: float, barred: Barred = nobody_barred) -> int:
    """Carry out what can be, end what is over; how many still wait."""
    left = 0
    for one in WaitingShrink.objects.filter(ended_at=None):
        ended = _over(one, now) or _carried_out(one, perform, barred)
        if ended:
            _end(one, ended, now)
        else:
            left += 1
    return left


def identity(one: WaitingShrink) -> uuid.UUID:
    """Of the record of its command: by that it is known again when Umbel stopped before it was ended."""
    return uuid.uuid5(_NAMESPACE, f"{one.worker}\n{one.at!r}\n{one.pk}")


def tell(hostname: str) -> None:
    """Pages of this worker draw anew."""
    from monitor.publish import announce  # the channel layer is for those that have one

    announce({"workers", f"worker:{hostname}"})


def _checked(command: Command, actor: Actor) -> Worker:
    (hostname,) = command.targets
    need_operator(actor)
    to = whole_number(command.arguments["to"], "The pool size", 1, MOST_PROCESSES)
    if command.arguments["within"] not in WITHIN:
        raise Refused(
            f"It can wait for {', '.join(map(span, WITHIN))}; {command.arguments['within']} s is none."
        )
    able(hostname, SHRINK)
    row = Worker.objects.get(hostname=hostname)
    if not (can := capabilities(row).of(SHRINK)).allowed:
        raise Refused(can.reason)
    if row.size is None:
        raise Refused(
            f"The pool size of {hostname} is not known yet: try again when it has answered inspect."
        )
    if to >= row.size:
        raise Refused(f"{hostname} has {row.size} pool processes: {to} is not fewer. Nothing was noted.")
    return row


def _over(one: WaitingShrink, now: float) -> str:
    """Why there is nothing to wait for any more; '' while there is."""
    if (own := ControlRecord.objects.filter(pk=identity(one)).first()) is not None:
        if own.sent_at is None:
            return own.evidence or "Nothing was sent."
        return "It was sent, and Umbel stopped at that moment; the audit log has what came of it."
    row = Worker.objects.filter(hostname=one.worker).first()
    command = Command(SHRINK_WHEN_FREE, (one.worker,), {"to": one.to})
    if now > one.until:
        text = (
            f"{one.worker} never had enough idle slots in time; nothing was sent. {one.username} had asked."
        )
        noted(command, UMBEL, text, ControlRecord.Effect.NONE)
        return "Its time was over; nothing was sent."
    if row is not None and None not in (row.pid, one.pid) and row.pid != one.pid:
        text = f"{one.worker} was restarted, with a size of its own; nothing was sent."
        noted(command, UMBEL, text, ControlRecord.Effect.NONE)
        return text
    later = ControlRecord.objects.filter(
        command__in=(GROW, SHRINK, AUTOSCALE), at__gt=one.at, sent_at__isnull=False
    )
    for record in later.order_by("at"):
        if record.targets == [one.worker]:
            return f"{record.username} set another size; nothing was sent."
    if row is not None and not capabilities(row).of(SHRINK).allowed and row.status == "online":
        return f"{capabilities(row).of(SHRINK).reason} Nothing was sent."
    if row is not None and row.status == "online" and row.size is not None and row.size <= one.to:
        return f"It has {row.size} already; nothing was sent."
    return ""


def _carried_out(one: WaitingShrink, perform: Perform, barred: Barred) -> str:
    """What came of it, when enough slots are idle by the worker's own word; '' while they are not."""
    row = Worker.objects.filter(hostname=one.worker, status="online").first()
    if row is None or (row.busy is not None and row.busy > one.to):
        return ""
    try:
        seen = seen_on([one.worker], LOOK_TIMEOUT).get(one.worker)
    except Unreachable:
        return ""
    size = pool_size(seen.stats) if seen is not None else None
    if seen is None or size is None or sum(where == "active" for where in seen.tasks.values()) > one.to:
        return ""
    reason = (
        f"When free, as asked for at {time.strftime('%H:%M', time.gmtime(one.at))} UTC. {one.reason}".strip()
    )
    actor = Actor(one.user_id, one.username, one.role, one.address)
    command = Command(SHRINK, (one.worker,), {"to": one.to}, reason=reason)
    if why := barred(actor, command):
        noted(command, UMBEL, f"{why} Nothing was sent.", ControlRecord.Effect.NONE)
        return f"{why} Nothing was sent."
    try:
        perform(command, actor, identity=identity(one))
    except Refused as refusal:
        return str(refusal)
    idle = size - sum(where == "active" for where in seen.tasks.values())
    slots = "1 slot was" if idle == 1 else f"{idle} slots were"
    return f"Sent when {slots} idle; the audit log has what came of it."


def _open(hostname: str) -> QuerySet[WaitingShrink]:
    return WaitingShrink.objects.filter(worker=hostname, ended_at=None)


def _end(one: WaitingShrink, how: str, now: float) -> bool:
    """Whether it was still open: two may end it at once."""
    ended = WaitingShrink.objects.filter(pk=one.pk, ended_at=None).update(ended_at=now, ended=how[:500])
    if ended:
        tell(one.worker)
    return bool(ended)


def span(seconds: int) -> str:
    """In words."""
    return f"{seconds // 60} min" if seconds < 3600 else f"{seconds // 3600} h"
