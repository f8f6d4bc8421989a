"""What tasks that look stuck have in common: a worker, a queue, or what they were called with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dashboard.templatetags.words import plain
from monitor.models import Task
from monitor.redact import HIDDEN, WITHHELD

MOST = 500  # stuck tasks that are looked at
LONGEST = 60  # characters of an argument
# Literals, and objects without brackets within, at the start of a repr that may have been cut.
_FIRST = re.compile(
    r"""[(\[]\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|None|True|False|<[^<>]*>)\s*[,)\]]"""
)


@dataclass(frozen=True, slots=True)
class Traits:
    """What one of them may share with the others; "" is what is not known."""

    worker: str = ""
    queue: str = ""
    argument: str = ""


def traits(uuids: Iterable[str]) -> list[Traits]:
    """Of the tasks that history has."""
    rows = Task.objects.filter(uuid__in=list(uuids)[:MOST]).values_list("worker", "queue", "args")
    return [Traits(worker, queue, first_argument(args)) for worker, queue, args in rows]


def first_argument(args: str | None) -> str:
    """The first positional argument as its worker wrote it; "" when there is none to compare."""
    found = _FIRST.match(args or "")
    text = found[1] if found else ""
    return "" if HIDDEN in text or WITHHELD in text or text.strip("'\"") == "" else text


def common(found: Sequence[Traits], workers: int, queues: int) -> str:
    """A sentence on what all of them share, or all but a few; "" when that says nothing.

    ``workers`` and ``queues`` is how many there are: who has only one shares it always.
    """
    if len(found) < 2:
        return ""
    parts = []
    for values, choices, words in (
        ([one.worker for one in found], workers, "run on {}"),
        ([one.queue for one in found], queues, "came through the queue {}"),
        ([one.argument for one in found], 2, "have {} as first argument"),
    ):
        shared = _shared(values) if choices > 1 else None
        if shared is not None:
            parts.append((*shared, words))
    if not parts:
        return ""
    most = max(count for _, count, _ in parts)
    said = [words.format(_short(value)) for value, count, words in parts if count == most]
    who = ("Both" if most == 2 else f"All {most:,}") if most == len(found) else f"{most:,} of {len(found):,}"
    return f"{who} {' and '.join(filter(None, (', '.join(said[:-1]), said[-1])))}."


def _shared(values: Sequence[str]) -> tuple[str, int] | None:
    """The value of all, or of three quarters and at least three."""
    value, count = Counter(values).most_common(1)[0]
    if not value:
        return None
    is_most = count == len(values) or (count >= 3 and count * 4 >= len(values) * 3)
    return (value, count) if is_most else None


def _short(value: str) -> str:
    text = plain(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
