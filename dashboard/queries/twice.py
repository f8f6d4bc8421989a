"""Tasks that ran twice, or will be handed out again: for the page of one, and what needs attention."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.html import format_html

from dashboard.queries import redelivery
from dashboard.queries.feed import Freshness, freshness
from dashboard.queries.items import Item, task_page, titled
from dashboard.queries.redelivery import Forecast
from dashboard.queries.task import acks_late
from dashboard.templatetags.words import duration_text, plain
from monitor.cluster.twice import twice
from monitor.models import Task, Worker
from monitor.records import RECEIVED, STARTED
from monitor.store import task_record


@dataclass(frozen=True)
class Ran:
    """Two starts of one attempt."""

    first: str  # worker
    second: str
    first_at: float
    second_at: float
    together: bool

    @property
    def where(self) -> str:
        if self.first == self.second:
            return f"twice on {plain(self.first)}"
        return f"on {plain(self.first)} and on {plain(self.second)}"


@dataclass(frozen=True)
class Twice:
    """What is known of one task; either may be None."""

    ran: Ran | None
    ahead: Forecast | None


def of(uuid: str, now: float) -> Twice | None:
    """None when the task is not known."""
    task = Task.objects.filter(uuid=uuid).defer("traceback", "result").first()
    if task is None:
        return None
    return Twice(_ran(task), _ahead(task, now))


def items(fresh: Freshness, now: float) -> list[Item]:
    """What needs attention of it; at most one line of each kind."""
    return [item for item in (_ran_twice(fresh, now), _handed_out(fresh, now)) if item is not None]


# private, in the order of use


def _ran(task: Task) -> Ran | None:
    if len(task.attempts) < 2:
        return None
    pair = twice(task_record(task))
    if pair is None:
        return None
    first, second, together = pair
    return Ran(first.worker, second.worker, first.started_at or 0.0, second.started_at or 0.0, together)


def _ahead(task: Task, now: float) -> Forecast | None:
    if task.state not in (RECEIVED, STARTED):
        return None
    worker = Worker.objects.filter(hostname=task.worker).first()
    late = acks_late(worker, task.name)
    transport = freshness(now).feed.transport
    return redelivery.forecast(task, worker.details if worker else None, now, transport=transport, late=late)


def _ran_twice(fresh: Freshness, now: float) -> Item | None:
    if not fresh.feed.twice:
        return None
    one, many = fresh.feed.twice[0], len(fresh.feed.twice)
    title = "A task ran twice" if many == 1 else f"{many} tasks ran twice"
    where = " and ".join(dict.fromkeys(plain(worker) for worker in one.workers))
    how = "at the same time" if one.together else "again after it had ended"
    text = format_html(
        "{} was started on <b>{}</b>, {}: its message was handed out again.", _function(one.name), where, how
    )
    return titled(1, now - one.at, ("failed", "s-warn"), (title, text, task_page(one.uuid)), "Review")


def _handed_out(fresh: Freshness, now: float) -> Item | None:
    ahead = redelivery.ahead(fresh, now)
    if ahead is None:
        return None
    many = f"{ahead.many:,}{'+' if ahead.more else ''}"
    title = "A held task may run twice" if ahead.many == 1 else f"{many} held tasks may run twice"
    when = format_html("in <b>{}</b>", duration_text(ahead.at - now)) if ahead.at > now else "by now"
    text = format_html(
        "{} is held for an ETA beyond the visibility timeout ({}): the broker hands it out again {}. "
        "Raise visibility_timeout.",
        _function(ahead.name),
        duration_text(ahead.timeout),
        when,
    )
    return titled(2, 0.0, ("slow", "s-retry"), (title, text, task_page(ahead.uuid)), "Review")


def _function(name: str) -> str:
    return plain(name).rpartition(".")[2] or "a task"
