"""Whether a command did what it was for: by looking, never by what the reply said.

A shrink may answer an error and still shrink; a revoke may answer ok and stop nothing. A ``Verdict`` says
what Umbel saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from monitor.control.orders import Order
from monitor.models import ControlRecord

Effect = ControlRecord.Effect


class Grade(IntEnum):
    """How well the effect on one target is proved."""

    UNKNOWN = -1  # could not look
    NOT = 0
    HALF = 1
    SEEN = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one target."""

    target: str
    grade: Grade
    text: str
    settled: bool = False  # no later look can say more

    def as_dict(self) -> dict[str, Any]:
        seen = {Grade.SEEN: True, Grade.NOT: False}.get(self.grade)
        return {"target": self.target, "seen": seen, "text": self.text}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The findings of one look; ``final`` when no later look can be better."""

    findings: Sequence[Finding]

    @property
    def final(self) -> bool:
        return all(one.grade is Grade.SEEN or one.settled for one in self.findings)

    @property
    def effect(self) -> str:
        grades = [one.grade for one in self.findings]
        if grades and min(grades) is Grade.SEEN:
            return Effect.VERIFIED
        if any(grade >= Grade.HALF for grade in grades):
            return Effect.PARTLY
        return Effect.UNVERIFIED if Grade.UNKNOWN in grades or not grades else Effect.NONE


def answered(order: Order, worker: str) -> bool:
    """Whether that worker said yes to what was sent."""
    return any(reply.ok and reply.worker == worker for reply in order.replies)
