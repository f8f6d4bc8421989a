"""The API's searches: the part of Flower's language that an index answers, by the search of the tasks page.

Words are whole and may stand in any order; ``need*`` is all that begin so. What follows ``args:``,
``kwargs:`` or ``result:`` must stand in that part, and a ``"phrase"`` must stand as it was typed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from dashboard.queries import newest, text
from dashboard.queries.newest import Param, Place, Wanted
from monitor import models
from monitor.records import STATES
from monitor.store import search as index

LONGEST = 255  # characters
SCANNED = 10_000  # rows with all words that are held against the rest of what is asked
NAMES = 64  # task names or workers that a part of one may stand for
QUALIFIERS = ("name", "state", "worker")
PARTS = ("args", "kwargs", "result")

_TERM = re.compile(r'\s*(?:(\w+):)?("(?:[^"\\]|\\.)*"|[^\s"()]+)|\s*([()])')
_COLUMNS = (*newest.KEYS, "uuid", "received_at", *index.TEXTS)
Row = tuple[Any, ...]


class SearchError(ValueError):
    """A search that Umbel cannot read."""


@dataclass(frozen=True)
class Search:
    """What was typed. All of it must be so."""

    words: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()  # as they stand in the row
    parts: tuple[tuple[str, str], ...] = ()  # (column, what it holds)
    qualified: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What the index is asked for."""
        return " ".join(self.words)

    def holds(self, row: dict[str, Any]) -> bool:
        """Whether a row that has all words is one that was meant."""
        whole = "\n".join(str(row[column] or "") for column in ("uuid", *index.TEXTS)).lower()
        return all(phrase in whole for phrase in self.phrases) and all(
            _in_part(str(row[column] or ""), column, value) for column, value in self.parts
        )


@dataclass(frozen=True)
class Hits:
    """Places of the rows, the newest first. ``partly``: not all that may match was looked at."""

    places: list[Place]
    partly: bool = False


def parsed(search: str) -> Search:
    """Raises ``SearchError`` for what Umbel does not read: OR, parentheses, and text that is too long."""
    words: list[str] = []
    phrases: list[str] = []
    parts: list[tuple[str, str]] = []
    qualified: dict[str, str] = {}
    place = 0
    search = search.strip()
    if len(search) > LONGEST:
        raise SearchError(f"Search has {len(search):,} characters; {LONGEST} are the most.")
    while place < len(search):
        term = _TERM.match(search, place)
        if term is None or term[3]:
            raise SearchError(f"Search cannot be read at position {place}.")
        qualifier, quoted = (term[1] or "").lower(), term[2].startswith('"')
        value = re.sub(r"\\(.)", r"\1", term[2][1:-1]) if quoted else term[2]
        if not qualifier and value.endswith(":") and value[:-1].lower() in (*QUALIFIERS, *PARTS):
            raise SearchError(f"Search qualifier requires a value at position {place}.")
        if not qualifier and not quoted and value == "OR":
            raise SearchError(f"Search with OR is not read by Umbel, at position {place}.")
        if qualifier in QUALIFIERS:
            qualified[qualifier] = value
        elif qualifier in PARTS:
            words += value.replace("=", " ").split() if qualifier == "kwargs" else value.split()
            parts.append((qualifier, value.lower()))
        elif quoted:
            words += value.split()
            phrases.append(value.lower())
        elif value != "AND" or qualifier:
            words.append(f"{term[1]}:{value}" if qualifier else value)
        place = term.end()
    found = Search(tuple(words), tuple(phrases), tuple(parts), qualified)
    if words and text.sought(found.text) is None:
        raise SearchError("Search has no letter and no digit, so there is nothing to look for.")
    return found


def columns(search: Search, worker: str, name: str, state: str) -> dict[str, list[Param]] | None:
    """Values that columns may have, by filters and qualifiers together; None when nothing can match."""
    chosen: dict[str, list[Param]] = {}
    for column, exact, part, known in (
        ("worker", worker, search.qualified.get("worker", ""), _workers),
        ("name", name, search.qualified.get("name", ""), _names),
        ("state", state, search.qualified.get("state", "").upper(), lambda part: [part]),
    ):
        # What is typed whole may be of a worker or a name that is not listed any more.
        values = [exact] if exact else list(dict.fromkeys([part, *known(part)])) if part else []
        if part and column != "state":
            values = [value for value in values if part.lower() in value.lower()]
        elif part:
            values = [value for value in values if value == part]
        if column == "state":
            values = [value for value in values if value in STATES]
        if (exact or part) and not values:
            return None
        if values:
            chosen[column] = [*values]
    return chosen


def find(
    search: Search,
    chosen: dict[str, list[Param]],
    since: float | None,
    wanted: Callable[[dict[str, Any]], bool],
    most: int,
) -> Hits:
    """At most ``most`` of the newest that ``wanted`` takes; ``since`` bounds their last event."""
    lists = product(*([(column, value) for value in values] for column, values in chosen.items()))
    want = Wanted(tuple(lists)[: newest.LISTS], since)
    found: list[Place] = []
    scanned, partly = 0, False
    while True:
        ask = min(most, SCANNED) + 1
        read = text.find(_COLUMNS, search.text, want, ask)
        partly |= read.behind is not None
        for row in read.rows:
            one = dict(zip(_COLUMNS, row, strict=True))
            if search.holds(one) and wanted(one):
                found.append((one["seen_at"], one["id"]))
        scanned += len(read.rows)
        on = read.on or (newest.place_of(_COLUMNS)(read.rows[-1]) if len(read.rows) >= ask else None)
        if len(found) >= most or on is None:
            return Hits(found[:most], partly)
        if scanned >= SCANNED:
            return Hits(found[:most], True)
        want = replace(want, before=on)


def _names(part: str) -> list[str]:
    names = models.TaskType.objects.filter(name__icontains=part).order_by("-last_seen_at")
    return list(names.values_list("name", flat=True)[:NAMES])


def _workers(part: str) -> list[str]:
    workers = models.Worker.objects.filter(hostname__icontains=part).order_by("hostname")
    return list(workers.values_list("hostname", flat=True)[:NAMES])


def _in_part(held: str, column: str, value: str) -> bool:
    low = held.lower()
    key, equal, rest = value.partition("=")
    if column == "kwargs" and equal and key.isidentifier():
        # A pair, as Python writes it.
        pair = rf"""['"]{re.escape(key)}['"]: (['"]?){re.escape(rest)}\1[,}}]"""
        return re.search(pair, low) is not None
    return value.rstrip("*") in low


def rows_at(places: Sequence[Place], fields: Sequence[str]) -> list[models.Task]:
    """The tasks at these places, in their order; the time finds the row where ids have no index."""
    found: dict[int, models.Task] = {}
    for start in range(0, len(places), 500):
        part = places[start : start + 500]
        rows = models.Task.objects.filter(seen_at__in=[at for at, _ in part], id__in=[key for _, key in part])
        found |= {row.pk: row for row in rows.only(*fields)}
    return [found[key] for _, key in places if key in found]
