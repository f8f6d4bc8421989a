"""What Umbel looks after once it was asked for: revokes and stamps that stand, ladders that are climbed."""

from __future__ import annotations

from collections.abc import Callable

from monitor.control.commands import Actor, Barred, Command, nobody_barred
from monitor.control.keeping import Keeper
from monitor.control.ladders import Climber
from monitor.control.stamps import StampKeeper
from monitor.models import ControlRecord

Look = Callable[[], int]


def standing(perform: Callable[[Command, Actor], ControlRecord], barred: Barred = nobody_barred) -> Look:
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
