"""A drain step by step, each state as honest as it is known: its queues, what is left to do, and its end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from dashboard.queries import leaving
from dashboard.queries.leaving import Leaving
from dashboard.queries.workers import WorkerView
from monitor import models
from monitor.control.commands import ADD_CONSUMER
from monitor.control.workers import draining
from monitor.models import ControlRecord, Drain
from monitor.records import RECEIVED

RECENT = 86_400.0  # seconds that a drain which is over is still shown
SENT = "Sent"  # the word for a command whose effect is still looked for
Effect = ControlRecord.Effect


@dataclass(frozen=True, slots=True)
class QueueStep:
    """One queue: ``state`` and ``word`` are the design's, ``text`` is what is known."""

    queue: str
    state: str
    word: str
    text: str
    record: Any = None
    others: tuple[str, ...] = ()  # workers that consume it, too


@dataclass(frozen=True, slots=True)
class Held:
    """Tasks held for their ETA, of one queue, and who could take them when this worker ends."""

    queue: str
    tasks: int
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DrainView:
    """``drain`` None: none is under way, nor was lately."""

    drain: Drain | None
    queues: list[QueueStep]
    leaving: Leaving
    held: list[Held]
    shutdown: ControlRecord | None
    consumed: int  # of its queues, as far as is known
    pending: int = 0  # of its queues those whose command Umbel still looks after

    @property
    def open(self) -> bool:
        return self.drain is not None and self.drain.ended_at is None

    @property
    def left(self) -> int:
        """Tasks that it still works off: held ones come back only when it ends."""
        return len(self.leaving.running) + self.leaving.reserved

    @property
    def undoable(self) -> bool:
        return self.open and self.shutdown is None

    @property
    def ready(self) -> bool:
        """Whether nothing speaks against the last step."""
        return self.undoable and not self.consumed and not self.pending and not self.left


def drain(view: WorkerView) -> DrainView:
    """The one under way, or else the last one of a day."""
    found = draining.of_worker(view.hostname)
    if found is None:
        late = Drain.objects.filter(worker=view.hostname, ended_at__gt=view.now - RECENT)
        found = late.order_by("-ended_at").first()
    steps = _steps(view, found) if found is not None else []
    pending = sum(one.word == SENT for one in steps)
    consumed = sum(one.word not in (SENT, "Cancelled") for one in steps)
    shutdown = draining.shutdown_of(found) if found is not None and found.ended_at is None else None
    return DrainView(found, steps, leaving.leaving(view), _held(view), shutdown, consumed, pending)


def _steps(view: WorkerView, found: Drain) -> list[QueueStep]:
    records = ControlRecord.objects.filter(pk__in=found.records).order_by("at")
    last = {str(record.arguments.get("queue")): record for record in records}
    others = consumers(view.hostname, found.queues)
    return [
        QueueStep(queue, *_state(view, found, queue, last.get(queue)), others.get(queue, ()))
        for queue in found.queues
    ]


def _state(
    view: WorkerView, found: Drain, queue: str, record: ControlRecord | None
) -> tuple[str, str, str, Any]:
    refused = found.refused.get(queue)
    if refused:
        return "failed", "Refused", str(refused), record.pk if record else None
    if record is None:
        if queue not in view.queues and (view.row.inspected_at or 0.0) > found.at:
            return "succeeded", "Cancelled", "It does not list it any more, not by this drain.", None
        return "warn", "Not sent", "Umbel ended before it was sent. It is consumed as before.", None
    back = record.command == ADD_CONSUMER
    if record.effect == Effect.PENDING:
        return "running", SENT, "Umbel looks whether it took effect.", record.pk
    if record.effect == Effect.VERIFIED:
        # What somebody did since is seen in what the worker lists now.
        told = (view.row.inspected_at or 0.0) > (record.completed_at or 0.0) + 1.0
        if told and (queue in view.queues) is not back:
            other = "It is consumed again" if not back else "It is not consumed any more"
            return (
                "warn",
                "Still consumed" if not back else "Cancelled",
                f"{other}: somebody changed it since.",
                record.pk,
            )
        word = "Added again" if back else "Cancelled"
        return "succeeded", word, str(record.evidence), record.pk
    return "warn", "Not confirmed", str(record.evidence), record.pk


def consumers(hostname: str, queues: list[str]) -> dict[str, tuple[str, ...]]:
    """Online workers beside this one, by queue, as far as they said what they consume."""
    rows = models.Worker.objects.filter(status="online", is_beat=False).exclude(hostname=hostname)
    found: dict[str, list[str]] = {queue: [] for queue in queues}
    for name, listed in rows.values_list("hostname", "queues"):
        for queue in set(listed if isinstance(listed, list) else ()) & found.keys():
            found[queue].append(str(name))
    return {queue: tuple(sorted(names)) for queue, names in found.items()}


def _held(view: WorkerView) -> list[Held]:
    later = models.Task.objects.filter(state=RECEIVED, worker=view.hostname, eta__gt=view.now)
    counts = Counter(later.values_list("queue", flat=True)[:5_000])
    others = consumers(view.hostname, list(counts))
    return [Held(queue, count, others.get(queue, ())) for queue, count in sorted(counts.items())]
