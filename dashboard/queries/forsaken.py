"""What needs attention of tasks that nobody works: in queues that no worker consumes, and lost ones."""

from __future__ import annotations

from urllib.parse import urlencode

from django.urls import reverse
from django.utils.html import format_html

from dashboard.queries import shared
from dashboard.queries.items import Item
from dashboard.queries.workers import Fleet, span
from dashboard.templatetags.words import duration_text, plain
from monitor.models import SentTask, Task
from monitor.records import LOST

PATIENCE = 15.0  # seconds that a task waits in such a queue before it is told: its worker may be starting
RECENT = 3600.0  # seconds that lost tasks are told
HEARD = 86_400.0  # seconds back to their last events: by those the index has them
MOST = 1_000  # of them that are looked at, the newest
EVERY = 5.0  # seconds that one look serves


def items(fleet: Fleet) -> list[Item]:
    """One line for all queues without a worker, and one for all lost tasks."""
    away = frozenset(worker.hostname for worker in fleet.workers if worker.offline)
    lost = shared.reading("lost", EVERY, lambda: _lost(fleet.now, away))
    return [item for item in (_unconsumed(fleet), lost) if item is not None]


def _unconsumed(fleet: Fleet) -> Item | None:
    """While all online workers have told what they consume: else one that has not may be theirs."""
    online = [worker for worker in fleet.workers if worker.online and not worker.row.is_beat]
    if not online or any(worker.row.inspected_at is None for worker in online):
        return None
    consumed = {queue for worker in online for queue in worker.queues}
    waits = [
        (count, queue, age)
        for queue, count in fleet.waiting.queues.items()
        if queue
        and queue not in consumed
        and (age := span(fleet.waiting.oldest.get(queue), fleet.now) or 0.0) >= PATIENCE
    ]
    if not waits:
        return None
    count, queue, age = max(waits)
    name = plain(queue)
    others = sorted(plain(one) for _, one, _ in waits if one != queue)
    title = f"No worker consumes {name}" if len(waits) == 1 else f"No worker consumes {len(waits)} queues"
    text = format_html(
        "<b>{}</b> in {}, for {}{}. Add the queue on a worker’s page, or start one with -Q {}.",
        "1 task waits" if count == 1 else f"{count:,} tasks wait",
        name,
        duration_text(age),
        f"; others in {', '.join(others[:3])}{' and more' if len(others) > 3 else ''}" if others else "",
        name,
    )
    clause = title[0].lower() + title[1:]
    return Item(1, age, "failed", "s-failed", title, text, clause, reverse("workers"), "Choose a worker")


def _lost(now: float, away: frozenset[str]) -> Item | None:
    """Of workers that are back, and those whose end was not seen: of one that is away its own line tells."""
    rows = Task.objects.filter(state=LOST, seen_at__gte=now - HEARD, ended_at__gte=now - RECENT)
    rows = rows.exclude(worker__in=away)
    found = list(rows.order_by("-seen_at").values_list("uuid", "name", "note", "worker", "ended_at")[:MOST])
    again = SentTask.objects.filter(of__in=[row[0] for row in found], record__sent_at__isnull=False)
    done = set(again.values_list("of", flat=True))
    left = [row for row in found if row[0] not in done]
    if not left:
        return None
    uuid, name, note, worker, ended_at = left[0]
    many = len(left)
    title = "1 task was lost" if many == 1 else f"{many:,} tasks were lost"
    text = format_html(
        "{} on {}: {}. Not run again{}.",
        plain(name).rpartition(".")[2] or "A task",
        plain(worker) or "a worker that is not known",
        plain(note) or "its end was not seen",
        "" if many == 1 else ", nor the others",
    )
    one = many == 1 and uuid.strip("./")
    href = reverse("task", args=[uuid]) if one else f"{reverse('tasks')}?{urlencode({'state': LOST})}"
    age = span(ended_at, now) or 0.0
    return Item(2, age, "lost", "s-lost", title, text, title, href, "Review")
