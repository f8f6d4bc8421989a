"""Every read of notes: those on a task and its name, on a worker, and the history of one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlencode

from django.db.models import Q
from django.urls import reverse

from dashboard.models import Note
from monitor.models import ControlRecord, Task, TaskType, Worker

TOPIC = "notes"  # some note was written, changed or removed
MOST = 50  # on one subject
LONGEST = 2_000  # characters of one
HISTORY = 50  # entries of one note


@dataclass(frozen=True, slots=True)
class About:
    """What a note is on; ``key`` is how forms name it."""

    on: str
    subject: str

    @property
    def key(self) -> str:
        return f"{self.on}:{self.subject}"

    @property
    def label(self) -> str:
        if self.on == Note.On.NAME:
            return f"every {self.subject.rpartition('.')[2]}"
        return str(Note.On(self.on).label)

    @property
    def said(self) -> str:
        """ "task 3fa2b1c0", "worker w1@host", "task name shop.add"."""
        words = {"task": f"task {self.subject[:8]}", "worker": f"worker {self.subject}"}
        return words.get(self.on, f"task name {self.subject}")

    @classmethod
    def of(cls, key: str) -> About | None:
        """None for what names nothing."""
        on, _, subject = key.replace("\0", "").partition(":")
        return cls(on, subject) if on in Note.On.values and subject else None

    @property
    def exists(self) -> bool:
        """Whether Umbel knows it."""
        if self.on == Note.On.WORKER:
            return Worker.objects.filter(hostname=self.subject).exists()
        if self.on == Note.On.TASK:
            return Task.objects.filter(uuid=self.subject).exists()
        known = TaskType.objects.filter(name=self.subject).exists()
        return known or Task.objects.filter(name=self.subject).exists()

    @property
    def url(self) -> str:
        """Its page; "" for a worker that is no longer known."""
        if self.on == Note.On.TASK:
            return reverse("task", args=[self.subject]) if self.subject.strip("./") else ""
        if self.on == Note.On.WORKER:
            pk = Worker.objects.filter(hostname=self.subject).values_list("pk", flat=True).first()
            return reverse("worker", args=[pk]) if pk else ""
        return f"{reverse('tasks')}?{urlencode({'name': self.subject})}"


def of_task(uuid: str, name: str | None = None) -> list[About]:
    """The task, and its name when it has one; which is read when it is not given."""
    if name is None:
        name = Task.objects.filter(uuid=uuid).values_list("name", flat=True).first()
    return [About("task", uuid), *([About("name", name)] if name else [])]


def of_worker(pk: int) -> list[About]:
    """The worker, when it is known."""
    name = Worker.objects.filter(pk=pk).values_list("hostname", flat=True).first()
    return [About("worker", name)] if name else []


def of_name(name: str) -> list[About]:
    """A whole task name, as the filter has it; nothing for a pattern or a name that nobody knows."""
    about = About("name", name)
    return [about] if name and "*" not in name and about.exists else []


def notes(about: Iterable[About]) -> list[Note]:
    """Newest first; bounded, since each subject holds ``MOST`` at most."""
    asked = Q(pk__in=[])
    for one in about:
        asked |= Q(on=one.on, subject=one.subject)
    return list(Note.objects.filter(asked).order_by("-at", "-pk")[: 2 * MOST])


def about(note: Note) -> About:
    """What it is on."""
    return About(note.on, note.subject)


def history(pk: int) -> list[ControlRecord]:
    """What the audit log has of a note, newest first."""
    records = ControlRecord.objects.filter(command__in=("note_add", "note_change", "note_remove"))
    return list(records.filter(arguments__note=str(pk)).exclude(effect="refused").order_by("-at")[:HISTORY])
