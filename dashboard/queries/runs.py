"""What the pages that run tasks show: names and queues to choose from, what was run again, what could be."""

from __future__ import annotations

from dataclasses import dataclass, field

from django.db.models import Q

from dashboard.queries import shared
from dashboard.queries.audit import Shown, outcome
from dashboard.queries.workflow import family
from monitor import registered
from monitor.control.runs import again
from monitor.control.runs.originals import SOURCES, Original, originals
from monitor.models import SentTask, Task, TaskType, Worker
from monitor.records import FAILURE

MOST_NAMES, MOST_QUEUES = 2_000, 200
CHOICES = 5.0  # seconds that one reading of all lists of names serves
SHOWN = 20  # times that a task was run again


@dataclass(frozen=True)
class Choices:
    """Task names, and queues with how many online workers consume each."""

    names: list[str]
    queues: list[tuple[str, int]]


@dataclass(frozen=True)
class Sent:
    """A task that Umbel sent, and what came of the command."""

    task: SentTask
    shown: Shown

    @property
    def source(self) -> str:
        """Where its arguments come from, in words."""
        if self.task.edited:
            return "typed by hand"
        return SOURCES.get(self.task.source, "typed by hand")

    @property
    def left(self) -> bool:
        """Whether it was sent at all, as far as is known."""
        return self.task.record.sent_at is not None


@dataclass(frozen=True)
class Runs:
    """What Umbel has to do with a task: who sent it, for which, and what was sent again for it."""

    sent: Sent | None = None
    again: list[Sent] = field(default_factory=list)

    @property
    def times(self) -> int:
        """How often it was run again."""
        return sum(one.left for one in self.again)


@dataclass(frozen=True)
class Member:
    """A failed task of a workflow: what would be sent, or why nothing can be."""

    task: Task
    original: Original
    why: str
    again: SentTask | None  # the last time that it was run again


def choices() -> Choices:
    """Of every online worker, and of history for names that no worker lists."""
    return shared.reading("run choices", CHOICES, _choices)


def _choices() -> Choices:
    names: set[str] = set()
    queues: dict[str, int] = {}
    online = Worker.objects.filter(status="online", is_beat=False).values_list("queues", "details")
    for consumed, details in online[:500]:
        names |= (registered.names(details) if isinstance(details, dict) else None) or frozenset()
        for queue in consumed if isinstance(consumed, list) else ():
            if isinstance(queue, str):
                queues[queue] = queues.get(queue, 0) + 1
    if len(names) < MOST_NAMES:
        names |= set(TaskType.objects.order_by("-last_seen_at").values_list("name", flat=True)[:200])
    return Choices(sorted(name for name in names if name)[:MOST_NAMES], sorted(queues.items())[:MOST_QUEUES])


def usual_queue(name: str) -> str:
    """Where the newest task of that name was sent; "" when nothing tells."""
    return Task.objects.filter(name=name).order_by("-seen_at").values_list("queue", flat=True).first() or ""


def told(uuid: str) -> Task | None:
    """The arguments as events told them, redacted: ``args`` and ``kwargs``."""
    return Task.objects.filter(uuid=uuid).only("uuid", "args", "kwargs").first()


def runs(uuid: str) -> Runs:
    """Of one task."""
    found = SentTask.objects.select_related("record").filter(_of(uuid)).order_by("-at")[: SHOWN + 1]
    told = [Sent(one, outcome(one.record)) for one in found]
    own = next((one for one in told if one.task.uuid == uuid), None)
    return Runs(own, [one for one in told if one is not own][:SHOWN])


def stamp(uuid: str) -> object:
    """What is the same as long as ``runs`` is."""
    seen = "uuid", "record__effect", "record__evidence", "record__sent_at"
    return list(SentTask.objects.filter(_of(uuid)).order_by("-at").values_list(*seen)[: SHOWN + 1])


def _of(uuid: str) -> Q:
    """It, and what ran it again; the index of the latter leaves out tasks that are nobody's."""
    return Q(uuid=uuid) | Q(of=uuid, of__gt="")


def name_of(uuid: str) -> str | None:
    """The task's name as Umbel sent it; None when it did not."""
    sent = again.sent(uuid)
    return sent.name if sent is not None else None


def failed_of(uuid: str) -> dict[str, Task]:
    """The failed tasks of a task's workflow by id, as far as its tree shows them."""
    return {one.uuid: one for one in family(uuid) if one.state == FAILURE}


def failed(uuid: str) -> list[Member]:
    """Each failed task of a task's workflow, and whether it can be run again."""
    tasks = failed_of(uuid)
    found = originals(tasks)
    earlier: dict[str, SentTask] = {}
    for one in SentTask.objects.filter(of__in=list(found), record__sent_at__isnull=False).order_by("at"):
        earlier[one.of] = one
    return [
        Member(task, found[task.uuid], again.why_not(found[task.uuid]), earlier.get(task.uuid))
        for task in tasks.values()
        if task.uuid in found
    ]
