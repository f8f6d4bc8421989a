"""Tasks that are ended step by step: which steps there are before, and how far one has come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse
from django.utils.html import format_html

from dashboard.queries.blast import Hit
from dashboard.queries.items import Item, task_page, titled
from dashboard.templatetags.words import duration_text, plain
from monitor.control import Plan, plan
from monitor.control.revokes import ladders
from monitor.control.revokes.ladders import Rung
from monitor.models import Ladder, Task, Worker
from monitor.records import STARTED

MOST = 50  # that are looked at for what needs attention
RECENT = 3600.0  # seconds that one which failed is told


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


def items(now: float) -> list[Item]:
    """What needs attention of them; at most one line of each kind."""
    return [item for item in (_climbed(now), _climbing(now)) if item is not None]


# private, in the order of use


def _plan(task: Task) -> Plan:
    return plan(task, Worker.objects.filter(hostname=task.worker).first())


def _climbed(now: float) -> Item | None:
    """A task that was to be ended step by step, and goes on."""
    rows = Ladder.objects.filter(gone=False, ended_at__gte=now - RECENT).order_by("-ended_at")[:MOST]
    if not rows:
        return None
    one, many = rows[0], len(rows)
    title = "A task was not ended by any step" if many == 1 else f"{many} tasks were not ended by any step"
    text = format_html("On {}: {}", plain(one.worker), plain(one.outcome))
    age = now - (one.ended_at or now)
    return titled(0, age, ("failed", "s-failed"), (title, text, task_page(one.uuid)), "Review")


def _climbing(now: float) -> Item | None:
    """Under way, so that every operator sees them and can withdraw them."""
    rows = Ladder.objects.filter(ended_at=None).order_by("since")[:MOST]
    if not rows:
        return None
    one, many = rows[0], len(rows)
    title = (
        "A task is being ended step by step" if many == 1 else f"{many} tasks are being ended step by step"
    )
    text = format_html(
        "By {}, step {} of {}; the next in <b>{}</b> unless it is gone.",
        plain(one.username),
        one.step,
        len(one.rungs),
        duration_text(max(0.0, one.due_at - now)),
    )
    href = task_page(one.uuid) if many == 1 else f"{reverse('tasks')}?{urlencode({'state': STARTED})}"
    return titled(3, now - one.since, ("running", "s-running"), (title, text, href), "Watch")
