"""Drain a worker: it stops consuming, finishes what it holds, and is then shut down by who looks on.

Each step is a command of its own, recorded and verified as any other; the ``Drain`` says which belong to it,
so that it survives a restart of Umbel. Until the shutdown it can be undone: the same queues are added again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from django.db import IntegrityError, transaction

from monitor.control.asking import Unreachable
from monitor.control.commands import (
    ADD_CONSUMER,
    CANCEL_CONSUMER,
    DRAIN,
    END_DRAIN,
    MAY_CONTROL,
    SHUTDOWN,
    Actor,
    Command,
    Refused,
    need_operator,
)
from monitor.control.inspecting import queues_of
from monitor.control.orders import LOOK_TIMEOUT, able
from monitor.control.performing import noted, perform, refuse, refused
from monitor.control.workers.drifting import QUEUE
from monitor.control.workers.waiting import tell
from monitor.models import ControlRecord, Drain, Drift, Worker
from monitor.redact import DEFAULT

MOST_QUEUES = 100


def drain(hostname: str, actor: Actor, reason: str = "") -> Drain:
    """Begin: every queue of this worker is cancelled. A drain that is under way is answered as it is.

    What was refused on the way is in ``Drain.refused``. Raises ``Refused`` when nothing was begun.
    """
    command = Command(DRAIN, (hostname,), {}, reason=reason)
    if (found := of_worker(hostname)) is not None and actor.role in MAY_CONTROL:
        return found
    try:
        queues = _checked(command, actor)
    except Refused as refusal:
        refuse(command, actor, str(refusal))
        raise
    row = Worker.objects.get(hostname=hostname)
    text = ", ".join(queues[:8]) or "no queue"
    noted(command, actor, f"Drains {hostname}, which consumed {text}; each command is an entry of its own.")
    try:
        with transaction.atomic():
            found = Drain.objects.create(
                worker=hostname, at=time.time(), pid=row.pid, queues=queues,
                reason=DEFAULT.text(reason)[:500],
                user_id=actor.user_id, username=actor.username, role=actor.role, address=actor.address,
            )  # fmt: skip
    except IntegrityError:
        return Drain.objects.get(worker=hostname, ended_at=None)
    _send(found, CANCEL_CONSUMER, queues, actor)
    return found


def go_on(found: Drain, actor: Actor) -> None:
    """Cancel those of its queues once more that the worker still consumes. Raises ``Refused``."""
    consumed = _consumed(found)
    left = [queue for queue in found.queues if queue in consumed]
    if not left:
        raise Refused(f"{found.worker} consumes none of them any more; nothing was sent.")
    _send(found, CANCEL_CONSUMER, left, actor)


def undo(found: Drain, actor: Actor) -> bool:
    """Add the same queues again; whether all are consumed now, which ends the drain. Raises ``Refused``."""
    command = Command(END_DRAIN, (found.worker,))
    if found.ended_at is not None:
        raise refused(command, actor, f"That drain is over: {found.ended}")
    if (sent := shutdown_of(found)) is not None:
        raise refused(
            command,
            actor,
            f"{sent.username} has shut {found.worker} down: that cannot be undone. It takes its queues again "
            "when it is started.",
        )
    try:
        consumed = _consumed(found)
    except Refused as refusal:
        raise refused(command, actor, str(refusal)) from refusal
    missing = [queue for queue in found.queues if queue not in consumed]
    if not _send(found, ADD_CONSUMER, missing, actor):
        return False
    if _end(found, f"{actor.username} undid it: it consumes its queues again.", time.time()):
        noted(command, actor, f"{found.worker} is not drained any more; its queues were added again.")
    return True


def of_worker(hostname: str) -> Drain | None:
    """The one that is under way."""
    return Drain.objects.filter(worker=hostname, ended_at=None).first()


def shutdown_of(found: Drain) -> ControlRecord | None:
    """The command with which its last step was taken."""
    sent = ControlRecord.objects.filter(command=SHUTDOWN, at__gte=found.at, sent_at__isnull=False)
    return next((record for record in sent.order_by("at") if found.worker in record.targets), None)


def settle(now: float) -> int:
    """End drains whose worker has gone or come anew; how many are under way."""
    left = 0
    for found in Drain.objects.filter(ended_at=None):
        row = Worker.objects.filter(hostname=found.worker).first()
        how = _over(found, row)
        if how and _end(found, how, now):
            # Nobody wants a drained worker back without its queues.
            Drift.objects.filter(worker=found.worker, kind=QUEUE, record_id__in=found.records).delete()
        left += not how
    return left


def _checked(command: Command, actor: Actor) -> list[str]:
    """What it consumes, by its own word."""
    (hostname,) = command.targets
    need_operator(actor)
    able(hostname, CANCEL_CONSUMER)
    queues = _asked(hostname)
    if len(queues) > MOST_QUEUES:
        raise Refused(f"{hostname} consumes {len(queues):,} queues; Umbel drains workers of {MOST_QUEUES}.")
    return sorted(queues)


def _send(found: Drain, name: str, queues: Sequence[str], actor: Actor) -> bool:
    """One command a queue; whether the worker said yes to each.

    One that does not answer is not asked again for each: it may have heard the first all the same.
    """
    refused: dict[str, str] = {}
    records = [str(one) for one in found.records]
    silent = ""
    for queue in queues:
        if silent:
            refused[queue] = f"Not sent: {silent}"
            continue
        arguments: dict[str, Any] = {"queue": queue}
        if name == CANCEL_CONSUMER:
            arguments["last"] = True
        try:
            command = Command(name, (found.worker,), arguments, reason=f"Drain. {found.reason}".strip())
            record = perform(command, actor)
        except Refused as refusal:
            refused[queue] = str(refusal)
            silent = str(refusal) if "did not answer" in str(refusal) else ""
            continue
        records.append(str(record.pk))
        errors = [one["text"] for one in record.replies if one.get("outcome") == "error"]
        if errors:
            refused[queue] = f"{found.worker} refused: {errors[0]}"
        elif record.sent_at is None:
            refused[queue] = silent = record.evidence
        elif any(one.get("outcome") != "ok" for one in record.replies):
            silent = f"{found.worker} did not answer."
        # So far it has come, should Umbel end here.
        Drain.objects.filter(pk=found.pk).update(records=records)
    found.records, found.refused = records, refused
    found.save(update_fields=["records", "refused"])
    tell(found.worker)
    return not refused and not silent


def _consumed(found: Drain) -> set[str]:
    able(found.worker, CANCEL_CONSUMER)
    return _asked(found.worker)


def _asked(hostname: str) -> set[str]:
    try:
        queues = queues_of(hostname, LOOK_TIMEOUT)
    except Unreachable as error:
        raise Refused(f"{error} Nothing was sent.") from error
    if queues is None:
        raise Refused(f"{hostname} did not answer within {LOOK_TIMEOUT:.0f} s; nothing was sent.")
    return queues


def _over(found: Drain, row: Worker | None) -> str:
    """Why it is over; '' while it is not. A worker that is only silent may come back as it was."""
    if row is None:
        return "Nothing is known of that worker any more."
    if None not in (row.pid, found.pid) and row.pid != found.pid:
        return "The worker was restarted: it consumes the queues that it is configured with."
    if row.status == "offline" and shutdown_of(found) is not None:
        return "It was shut down, and is offline."
    if row.status == "offline" and row.reason == "said goodbye":
        return "It said goodbye and is offline, not by a command of Umbel."
    return ""


def _end(found: Drain, how: str, now: float) -> bool:
    ended = Drain.objects.filter(pk=found.pk, ended_at=None).update(ended_at=now, ended=how[:500])
    if ended:
        tell(found.worker)
    return bool(ended)
