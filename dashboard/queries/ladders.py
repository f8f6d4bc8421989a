"""Tasks that are ended step by step: which steps there are before, and how far one has come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dashboard.queries.blast import Hit
from monitor.control import Plan, ladders, plan
from monitor.control.ladders import Rung
from monitor.models import Ladder, Task, Worker


@dataclass(frozen=True)
class Step:
    """One rung: what it does, what came of it, and when it is due."""

    words: str
    at: float | None  # done
    text: str
    record: str  # of the audit log
    due: float | None  # the next one


@dataclass(frozen=True)
class Shown:
    """An act, for the task's page and its toast."""

    ladder: Ladder
    steps: list[Step]

    @property
    def open(self) -> bool:
        return self.ladder.ended_at is None

    @property
    def state(self) -> str:
        if self.open:
            return "running"
        return {True: "succeeded", False: "failed", None: "rejected"}[self.ladder.gone]

    @property
    def title(self) -> str:
        if self.open:
            return "Being ended step by step"
        return {True: "Ended step by step", False: "Not ended by any step", None: "Withdrawn"}[
            self.ladder.gone
        ]


def shown(ladder: Ladder) -> Shown:
    """As it is now."""
    steps, told = [], ladders.told(ladder)
    for number, rung in enumerate(ladder.rungs):
        done = told.get(number, {})
        is_next = number == ladder.step and ladder.ended_at is None
        at, text, record = done.get("at"), str(done.get("text", "")), str(done.get("record", ""))
        words = Rung(**rung).words
        steps.append(
            Step(words, at, text.removeprefix(f"{words}: "), record, ladder.due_at if is_next else None)
        )
    return Shown(ladder, steps)


def of(uuid: str) -> list[Shown]:
    """Of one task, the newest first; those that are over stay to be seen."""
    return [shown(ladder) for ladder in ladders.of(uuid)]


def steps(hit: Hit) -> dict[str, Any]:
    """For the dialog: the steps of its one task, or why there are none."""
    if len(hit.targets) != 1:
        return {}
    return {"steps": _plan(hit.targets[0].row.task), "wait": ladders.WAIT}


def commands(uuid: str = "") -> tuple[str, ...]:
    """What its steps would send: whoever may not do that may not climb."""
    task = Task.objects.filter(uuid=uuid).first()
    return tuple(dict.fromkeys(rung.command for rung in _plan(task).rungs)) if task is not None else ()


def _plan(task: Task) -> Plan:
    return plan(task, Worker.objects.filter(hostname=task.worker).first())
