"""What still stands of the revokes of an act, and its withdrawal: of all its batches at once."""

from __future__ import annotations

import time
import uuid

from django.db import transaction

from monitor.acts.making import WITHDRAW, tell
from monitor.acts.models import ActTarget, BulkAct
from monitor.control import Actor, Command, Refused, refuse
from monitor.control.commands import need_operator
from monitor.control.performing import noted
from monitor.control.revokes.standing import WITHDRAWN
from monitor.models import ControlRecord, StandingRevoke

State = BulkAct.State


def batches(act: BulkAct) -> list[uuid.UUID]:
    """The records of its commands; of an act that is still sent more will follow."""
    found = ActTarget.objects.filter(act=act, batch__isnull=False).order_by()
    return [batch for batch in found.values_list("batch", flat=True).distinct() if batch]


def stands(records: list[uuid.UUID]) -> int | None:
    """Tasks that Umbel tells workers of again when they restart; None where it never told of any."""
    found = StandingRevoke.objects.filter(record__in=records)
    return found.filter(moot_at=None).count() or (0 if found.exists() else None)


def withdraw(act: BulkAct, actor: Actor, reason: str = "") -> ControlRecord:
    """No worker is told of its revokes any more: one record for all batches. Raises ``Refused``."""
    about = {"act": f"what stands of the {act.words}"}
    command = Command(WITHDRAW, (str(act.pk),), about, reason=reason)
    records = batches(act)
    try:
        need_operator(actor)
        if act.state == State.SENDING:
            raise Refused(
                f"The {act.words} is still being sent: stop it first, then withdraw what stands of it."
            )
        with transaction.atomic():
            standing = StandingRevoke.objects.filter(record__in=records, moot_at=None)
            ended = standing.update(moot_at=time.time())
            if not ended:
                raise Refused(
                    f"Nothing of the {act.words} stands any more: it was withdrawn, or all have ended."
                )
            many = "1 task" if ended == 1 else f"{ended:,} tasks"
            found = noted(command, actor, f"It stood for {many}. {WITHDRAWN}")
    except Refused as refusal:
        refuse(command, actor, str(refusal))
        raise
    _tell(act, records)
    return found


def _tell(act: BulkAct, records: list[uuid.UUID]) -> None:
    from monitor.publish import announce  # the channel layer is for those that have one

    tell(act.pk)
    announce({f"control:{record}" for record in records})
