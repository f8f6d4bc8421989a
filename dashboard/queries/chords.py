"""Chords that wait for their headers, as far as is told of them: by the task that looks after them.

With Redis as result backend the last header sends the body, and until then nothing tells of it. With others
``celery.chord_unlock`` looks again and again; its arguments name the headers, abridged in events and whole in
a worker's answer to inspect, and the body.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monitor.models import Task
from monitor.records import ENDED, FAILURE, LOST, REVOKED, SUCCESS

UNLOCK = "celery.chord_unlock"
LOOKED = 200  # unlocking tasks among which a body is looked for
# Lists or tuples, by the serializer and by who tells.
_ID = re.compile(r"[\[(]'([\w.:@+-]{1,155})', None[\])]")
_ABRIDGED = re.compile(r"\.\.\.[\])]+, None[\])]")


@dataclass(frozen=True, slots=True)
class Chord:
    """``ended`` and ``failed`` of its headers are None where it is not told which those are."""

    unlock: str  # the task that looks after it
    headers: int
    ended: int | None = None
    failed: int | None = None


def of_unlock(task: Task, details: object) -> Chord | None:
    """Of a task that unlocks, by what its worker told of it; None for any other."""
    if task.name != UNLOCK:
        return None
    ids = list(dict.fromkeys(_ID.findall(_asked(task.uuid, details) or task.kwargs or "")))
    headers = max(len(ids), len(_ABRIDGED.findall(task.kwargs or "")))
    if not headers:
        return None
    if len(ids) < headers:
        return Chord(task.uuid, headers)
    states = Counter(Task.objects.filter(uuid__in=ids).values_list("state", flat=True))
    bad = sum(states[state] for state in (FAILURE, REVOKED, LOST))
    return Chord(task.uuid, headers, states[SUCCESS], bad)


def of_body(uuid: str) -> Chord | None:
    """Of a task that nobody has sent yet."""
    looking = Task.objects.filter(name=UNLOCK).exclude(state__in=ENDED).order_by("-seen_at")
    for task in looking.only("uuid", "name", "args", "kwargs")[:LOOKED]:
        if f"'task_id': '{uuid}'" in (task.args or ""):
            return of_unlock(task, None)
    return None


def _asked(uuid: str, details: object) -> str:
    """Its keyword arguments as its worker lists them."""
    answers: Mapping[str, Any] = details if isinstance(details, dict) else {}
    for command in ("scheduled", "reserved", "active"):
        for item in answers.get(command) or ():
            request = item.get("request", item) if isinstance(item, dict) else {}
            if isinstance(request, dict) and request.get("id") == uuid:
                return str(request.get("kwargs") or "")
    return ""
