"""What still stands of a revoke."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from monitor.control.revokes.keeping import beyond
from monitor.models import StandingRevoke, StandingStamp


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left of a revoke. ``again``: the last times it was sent again, the newest first."""

    tasks: int
    started: int  # of them, all the same
    ended: int  # of those, terminated as was asked for
    again: list[tuple[str, float]]  # worker, Unix seconds
    beyond: int = 0  # of those that stand, so many are not sent again: there are too many


def of_record(record: UUID) -> Standing | None:
    """Of one command; None when no revoke of it is known."""
    found = StandingRevoke.objects.filter(record=record)
    rows = list(found.values_list("moot_at", "started_at", "again", "ended_at"))
    if not rows:
        return None
    again = {(str(worker), float(at)) for _, _, sent, _ in rows for worker, at in sent}
    stand = [row for row in rows if row[0] is None]
    started = sum(row[1] is not None for row in stand)
    ended = sum(row[3] is not None for row in rows)
    last = sorted(again, key=lambda one: -one[1])[:5]
    return Standing(len(stand), started, ended, last, beyond(record) if stand else 0)


def stamp_of(record: UUID) -> StandingStamp | None:
    """Of one revoke by stamp."""
    return StandingStamp.objects.filter(record=record).first()
