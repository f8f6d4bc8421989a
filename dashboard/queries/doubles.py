"""What needs attention of acts and messages: tasks that ran twice or will, and tasks that no step ended."""

from __future__ import annotations

from urllib.parse import urlencode

from django.urls import reverse
from django.utils.html import format_html

from dashboard.queries import redelivery
from dashboard.queries.feed import Freshness
from dashboard.queries.items import Item
from dashboard.templatetags.words import duration_text, plain
from monitor import models
from monitor.records import STARTED

MOST = 50  # ladders that are looked at
RECENT = 3600.0  # seconds that one which failed is told


def items(fresh: Freshness, now: float) -> list[Item]:
    """All of it; at most one line of each kind."""
    found = (_ran_twice(fresh, now), _handed_out(fresh, now), _climbed(now), _climbing(now))
    return [item for item in found if item is not None]


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
    return _item(1, now - one.at, ("failed", "s-warn"), (title, text, _task(one.uuid)), "Review")


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
    return _item(2, 0.0, ("slow", "s-retry"), (title, text, _task(ahead.uuid)), "Review")


def _climbed(now: float) -> Item | None:
    """A task that was to be ended step by step, and goes on."""
    rows = models.Ladder.objects.filter(gone=False, ended_at__gte=now - RECENT).order_by("-ended_at")[:MOST]
    if not rows:
        return None
    one, many = rows[0], len(rows)
    title = "A task was not ended by any step" if many == 1 else f"{many} tasks were not ended by any step"
    text = format_html("On {}: {}", plain(one.worker), plain(one.outcome))
    return _item(
        0, now - (one.ended_at or now), ("failed", "s-failed"), (title, text, _task(one.uuid)), "Review"
    )


def _climbing(now: float) -> Item | None:
    """Acts under way, so that every operator sees them and can withdraw them."""
    rows = models.Ladder.objects.filter(ended_at=None).order_by("since")[:MOST]
    if not rows:
        return None
    one, many = rows[0], len(rows)
    title = (
        "A task is being ended step by step" if many == 1 else f"{many} tasks are being ended step by step"
    )
    left = max(0.0, one.due_at - now)
    text = format_html(
        "By {}, step {} of {}; the next in <b>{}</b> unless it is gone.",
        plain(one.username),
        one.step,
        len(one.rungs),
        duration_text(left),
    )
    href = _task(one.uuid) if many == 1 else f"{reverse('tasks')}?{urlencode({'state': STARTED})}"
    return _item(3, now - one.since, ("running", "s-running"), (title, text, href), "Watch")


def _item(severity: int, age: float, look: tuple[str, str], said: tuple[str, str, str], act: str) -> Item:
    (state, icon), (title, text, href) = look, said
    return Item(severity, age, state, icon, title, text, title[0].lower() + title[1:], href, act)


def _function(name: str) -> str:
    return plain(name).rpartition(".")[2] or "a task"


def _task(uuid: str) -> str:
    return reverse("task", args=[uuid]) if uuid.strip("./") else reverse("tasks")
