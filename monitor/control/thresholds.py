"""From when on a run of a task name counts as slow or stuck, where its past must not say it."""

from __future__ import annotations

import math
import time

from django.db import transaction

from monitor.control.commands import Actor, Command, Refused
from monitor.control.performing import keep
from monitor.models import Task, TaskType, Threshold

LEAST, MOST = 0.01, 90 * 86_400.0  # seconds
NAMES = 2_000  # task names that can have one


def seconds(text: str, what: str) -> float | None:
    """A time as someone typed it; None for nothing. Raises ``Refused``."""
    given = text.strip().removesuffix("s").strip().replace(",", "")
    if not given:
        return None
    try:
        value = float(given) if given.isascii() and "_" not in given else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not LEAST <= value <= MOST:
        raise Refused(
            f"{what}: {text.strip()[:40]!r} is no time from {LEAST} to {MOST:,.0f} seconds. "
            "Nothing was changed."
        )
    return value


def checked(name: str, slow: float | None, stuck: float | None) -> None:
    """Raises ``Refused`` for what cannot be meant."""
    if slow is None and stuck is None:
        raise Refused(
            "No time was given; give seconds for slow, stuck or both, or go back to automatic. "
            "Nothing was changed."
        )
    if slow is not None and stuck is not None and slow > stuck:
        raise Refused(f"Slow after {slow:g} s is later than stuck after {stuck:g} s. Nothing was changed.")
    if not TaskType.objects.filter(name=name).exists() and not Task.objects.filter(name=name).exists():
        raise Refused(f"Umbel knows no task called {name[:120]!r}. Nothing was changed.")
    if not Threshold.objects.filter(name=name).exists() and Threshold.objects.count() >= NAMES:
        raise Refused(f"{NAMES:,} task names have times of their own, which is the most: reset one first.")


def set_to(command: Command, actor: Actor, slow: float | None, stuck: float | None) -> bool:
    """Whether it changed anything. The name is the command's target; its arguments go into the audit log."""
    (name,) = command.targets
    checked(name, slow, stuck)
    with transaction.atomic():
        before = Threshold.objects.select_for_update().filter(name=name).first()
        if before is not None and (before.slow, before.stuck) == (slow, stuck):
            return False
        values = {"slow": slow, "stuck": stuck, "username": actor.username[:150], "at": time.time()}
        Threshold.objects.update_or_create(name=name, defaults=values)
        keep(command, actor, f"Before: {_said(before)}.")
    return True


def reset(command: Command, actor: Actor) -> bool:
    """Back to what the past of the name says; whether there was anything to reset."""
    (name,) = command.targets
    with transaction.atomic():
        before = Threshold.objects.select_for_update().filter(name=name).first()
        if before is None:
            return False
        before.delete()
        keep(command, actor, f"Before: {_said(before)}.")
    return True


def _said(threshold: Threshold | None) -> str:
    if threshold is None:
        return "automatic"
    parts = [
        f"{word} after {value:g} s"
        for word, value in (("slow", threshold.slow), ("stuck", threshold.stuck))
        if value is not None
    ]
    return ", ".join(parts)
