"""What Umbel looks after once it was asked for: revokes and stamps that stand, ladders that are climbed.

Workers that took a revoke keep it until they restart: nothing takes it from them. But Umbel tells it to no
other any more once it is withdrawn, so a restart cures what was revoked by mistake.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from django.db import transaction

from monitor.control.commands import Actor, Barred, Command, Perform, Refused, need_operator, nobody_barred
from monitor.control.performing import noted, refuse
from monitor.control.revokes.keeping import Keeper
from monitor.control.revokes.ladders import Climber
from monitor.control.revokes.stamps import StampKeeper
from monitor.models import ControlRecord, StandingRevoke, StandingStamp

Look = Callable[[], int]


def standing(perform: Perform, barred: Barred = nobody_barred) -> Look:
    """One look at all of it, for the engine that leads; how much stands. One that fails stops no other."""
    looks: tuple[Look, ...] = (
        Keeper(perform, barred=barred).look,
        StampKeeper(perform).look,
        Climber(perform, barred=barred).look,
    )

    def look() -> int:
        failed: Exception | None = None
        stands = 0
        for one in looks:
            try:
                stands += one()
            except Exception as error:  # noqa: BLE001 - raised again once the others have looked
                failed = error
        if failed is not None:
            raise failed
        return stands

    return look


def withdrawal(record: uuid.UUID, reason: str = "") -> Command:
    """The command that withdraws what stands of a revoke. Raises ``Refused`` when nothing does."""
    stamp = StandingStamp.objects.filter(record=record, until__gt=time.time()).first()
    if stamp is not None:
        return Command("withdraw", (f"{stamp.header}={stamp.value}",), {"what": "stamp"}, reason=reason)
    stands = StandingRevoke.objects.filter(record=record, moot_at=None).order_by("pk")
    uuids = tuple(stands.values_list("uuid", flat=True))
    if not uuids:
        raise Refused("Nothing of it stands any more: it was withdrawn, its time is over, or all have ended.")
    return Command("withdraw", uuids, {"what": "revoke"}, reason=reason)


def withdraw(record: uuid.UUID, command: Command, actor: Actor) -> ControlRecord:
    """No worker is told of it any more, and nothing is ended for it. Raises ``Refused``."""
    try:
        need_operator(actor)
        now = time.time()
        with transaction.atomic():
            ended = StandingStamp.objects.filter(record=record, until__gt=now).update(until=now)
            ended += StandingRevoke.objects.filter(record=record, moot_at=None).update(moot_at=now)
            if not ended:
                raise Refused("Nothing of it stands any more; somebody else may have withdrawn it just now.")
            found = noted(command, actor, WITHDRAWN)
    except Refused as refusal:
        refuse(command, actor, str(refusal))
        raise
    _tell(record)
    return found


WITHDRAWN = (
    "Umbel tells no worker of it any more, and terminates nothing for it. Workers that took it keep it until "
    "they restart."
)


def _tell(record: uuid.UUID) -> None:
    from monitor.publish import announce  # the channel layer is for those that have one

    announce({"controls", f"control:{record}"})
