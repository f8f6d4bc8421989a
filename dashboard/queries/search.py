"""What the search box finds: tasks by id, task names, workers and queues by a part of their name."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from django.urls import reverse

from monitor import models

LONGEST = 200  # characters of a query
EACH = 6  # hits of each kind
SHORTEST_ID = 4  # characters before ids are looked up


@dataclass(frozen=True)
class Hit:
    """One thing found, and where it is."""

    href: str
    icon: str
    text: str
    note: str
    state: str = ""
    key: str = ""  # who types all of it means this and nothing else


def hits(text: str) -> list[Hit]:
    """Best first: a task of that id, then workers, task names and queues. Nothing for nothing."""
    if not text:
        return []
    return [*_tasks(text), *_workers(text), *_names(text), *_queues(text)]


def meant(found: list[Hit], text: str) -> Hit | None:
    """The task or worker whose whole name was typed."""
    return next((hit for hit in found if hit.key and hit.key.casefold() == text.casefold()), None)


def _tasks(text: str) -> list[Hit]:
    """Ids that begin so: a range, since it can use the index."""
    if len(text) < SHORTEST_ID:
        return []
    low = text.lower()
    rows = models.Task.objects.filter(uuid__gte=low, uuid__lt=low + "\U0010ffff").order_by("uuid")
    if low != text:
        rows |= models.Task.objects.filter(uuid=text)
    return [
        Hit(reverse("task", args=[uuid]), "n-tasks", f"{uuid} {name}", "task", state, key=uuid)
        for uuid, name, state in rows.values_list("uuid", "name", "state")[:EACH]
    ]


def _workers(text: str) -> list[Hit]:
    rows = models.Worker.objects.filter(hostname__icontains=text).order_by("hostname")
    return [
        Hit(reverse("worker", args=[pk]), "n-workers", hostname, f"worker, {status}", key=hostname)
        for pk, hostname, status in rows.values_list("pk", "hostname", "status")[:EACH]
    ]


def _names(text: str) -> list[Hit]:
    rows = models.TaskType.objects.filter(name__icontains=text).order_by("-last_seen_at")
    return [
        Hit(_tasks_with(name=name), "a-filter", name, f"task name, {runs:,} runs")
        for name, runs in rows.values_list("name", "runs")[:EACH]
    ]


def _queues(text: str) -> list[Hit]:
    """Queues that a known worker consumes."""
    consumers: dict[str, int] = {}
    for status, queues in models.Worker.objects.values_list("status", "queues"):
        for queue in queues or []:
            if isinstance(queue, str) and text.casefold() in queue.casefold():
                consumers[queue] = consumers.get(queue, 0) + (status == "online")
    return [
        Hit(_tasks_with(queue=queue), "n-queues", queue, f"queue, {_online(consumers[queue])}")
        for queue in sorted(consumers)[:EACH]
    ]


def _tasks_with(**filters: str) -> str:
    return f"{reverse('tasks')}?{urlencode(filters)}"


def _online(count: int) -> str:
    return f"{count} worker{'' if count == 1 else 's'} online"
