"""How a batch of an act becomes a command, where it is not the act's own command for its own targets."""

from __future__ import annotations

from collections.abc import Sequence

from monitor.acts.models import ActTarget, BulkAct
from monitor.control import Actor, Command
from monitor.control.runs import again
from monitor.control.runs.originals import originals
from monitor.control.workers import draining
from monitor.models import SentTask

Step = tuple[Command | None, dict[str, str]]  # what is sent, and who is left out of it with why


def as_it_is(act: BulkAct, targets: Sequence[str]) -> Step:
    """The act's command for these targets."""
    return Command(act.command, tuple(targets), dict(act.arguments), reason=act.reason), {}


def itself(act: BulkAct, target: str) -> str:
    """A target is known to its command by its own name."""
    return target


def run_again(act: BulkAct, targets: Sequence[str]) -> Step:
    """New tasks with what these were sent with; those of which that is not known whole are left out."""
    since = SentTask.objects.filter(of__in=list(targets), at__gt=act.read_at, record__sent_at__isnull=False)
    already = set(since.values_list("of", flat=True))
    known = originals(targets)
    skipped: dict[str, str] = {}
    tasks = []
    for target in targets:
        if target in already:
            skipped[target] = "It was run again after the list was read."
        elif target not in known:
            skipped[target] = "It has left Umbel's history since the list was read."
        elif why := again.why_not(known[target]):
            skipped[target] = why
        else:
            tasks.append((known[target], anew(act, target)))
    return again.command_for(tasks, act.reason) if tasks else None, skipped


def anew(act: BulkAct, target: str) -> str:
    """The id of the task that it is run again as: the same however often this act is asked for it."""
    return again.identity(target, f"act {act.pk}")


def drain(act: BulkAct, target: str, actor: Actor) -> tuple[str, str]:
    """Begins the drain of a worker, once: each of its queues is cancelled by a command of its own."""
    found = draining.drain(target, actor, act.reason)
    if found.refused:
        queue, why = next(iter(found.refused.items()))
        return ActTarget.Outcome.REFUSED, f"{queue}: {why}"
    return ActTarget.Outcome.SENT, "It was told to cancel its queues; the effect is not seen yet."
