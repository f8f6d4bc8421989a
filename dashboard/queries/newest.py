"""Rows that a filter shows, by their last event, off the indexes: as quick at ten million rows as at ten.

An index holds one filter and the time. A filter with several values (states, names by a pattern) is read as
so many short lists and merged. Of two different filters the narrower one leads, and the other is held
against its newest ``STRETCH`` rows: what lies beyond is not guessed at but left for the next page.
"""

# ruff: noqa: S608 - names of our own tables and columns; every value is a parameter

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Any

from django.db import connection

from dashboard.forms.tasks import SPANS, TaskFilter
from monitor.models import Task
from monitor.records import SUCCESS

STRETCH = 5_000  # rows of the leading filter that others are held against
LISTS = 64  # that are merged at most
PATTERN = 1_000  # task names that a pattern is held against

Place = tuple[float, int]  # seen_at, id
Param = str | float | int

TABLE = Task._meta.db_table
KEYS = ("seen_at", "id")


@dataclass(frozen=True)
class Found:
    """Values of the columns asked for, the newest first. ``on``: where to go on, None at the end of all."""

    rows: list[tuple[Any, ...]]
    on: Place | None = None


@dataclass(frozen=True)
class Wanted:
    """A filter as conditions in SQL: each of ``lists`` is one list off an index, ``rest`` holds for all."""

    lists: tuple[tuple[tuple[str, Param], ...], ...]  # (column, value) pairs
    since: float | None = None
    until: float | None = None
    before: Place | None = None
    after: Place | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column for column, _ in self.lists[0]) if self.lists else ()


def wanted(asked: TaskFilter, now: float) -> Wanted:
    """What is asked for but its text, ``stuck`` and pages by number."""
    since = now - SPANS[asked.span] if asked.span else asked.since
    columns: dict[str, list[Param]] = {
        "exception_type": [asked.error] if asked.error else [],
        "state": [*asked.states],
        "worker": [asked.worker] if asked.worker else [],
        "queue": [asked.queue] if asked.queue else [],
        "name": [*names(asked.name)] if asked.name else [],
    }
    if SUCCESS in asked.states:
        # Of filters that are equally wide as far as was counted, the first leads: most tasks succeed.
        columns["state"] = columns.pop("state")
    choices = [[(c, value) for value in values] for c, values in columns.items() if values]
    if asked.name and not columns["name"]:
        return Wanted(())
    return Wanted(tuple(product(*choices))[:LISTS], since, asked.until, asked.before, asked.after)


def names(pattern: str) -> list[str]:
    """Task names that it stands for: ``shop.*`` for all that begin so, ``*add`` for all that hold it."""
    bare = pattern.strip("*")
    if bare == pattern:
        return [pattern]
    inside, low = pattern.startswith("*"), bare.lower()
    with connection.cursor() as cursor:
        cursor.execute(_NAMES, ["" if inside else bare])
        known = [str(row[0]) for row in cursor.fetchall()]
    found = (name for name in known if (low in name.lower() if inside else name.startswith(bare)))
    return list(islice(found, LISTS))


# From one name to the next on the index, however many tasks have it.
_NAMES = f"""WITH RECURSIVE found(name) AS (
    SELECT MIN(name) FROM {TABLE} WHERE name >= %s
    UNION ALL SELECT (SELECT MIN(t.name) FROM {TABLE} AS t WHERE t.name > found.name) FROM found
    WHERE found.name IS NOT NULL
) SELECT name FROM found WHERE name IS NOT NULL LIMIT {PATTERN}"""


def newest(columns: Sequence[str], want: Wanted, most: int) -> Found:
    """At most ``most`` rows: the newest, or those next before or after its place (still newest first)."""
    if not want.lists:
        return Found([])
    lead = _lead(want)
    query, params = _lists(columns, want, most, lead)
    with connection.cursor() as cursor:
        cursor.execute(f"{query} ORDER BY {_order(want)} LIMIT {most}", params)
        rows = cursor.fetchall()
        on = None
        if len(rows) < most and lead and not want.after:
            # Not enough in the stretch; whether there is more beyond is the next page's to find.
            cursor.execute(*_end(want, lead))
            on = max(((float(at), int(key)) for at, key in cursor.fetchall()), default=None)
            if on is not None:
                place = place_of(columns)
                rows = [row for row in rows if place(row) >= on]
    return Found(rows[::-1] if want.after else rows, on)


def count(want: Wanted, most: int) -> int:
    """How many match, wherever they stand, counted to ``most`` and within the stretch."""
    if not want.lists:
        return 0
    want = replace(want, before=None, after=None)
    lead = _lead(want)
    if lead:
        query, params = _lists(KEYS, want, most, lead)
        query = f"SELECT 1 AS one FROM ({query}) AS l"
    else:
        wheres = [_where(pairs, want) for pairs in want.lists]
        query = " UNION ALL ".join(f"SELECT 1 AS one FROM {TABLE} {where}" for where, _ in wheres)
        params = [value for _, values in wheres for value in values]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM ({query} LIMIT {most}) AS c", params)
        return int(cursor.fetchone()[0])


def bounds(want: Wanted, prefix: str = "") -> tuple[list[str], list[Param]]:
    """Conditions on the last event, and their values."""
    terms: list[str] = []
    params: list[Param] = []
    for sign, bound in ((">=", want.since), ("<=", want.until)):
        if bound is not None:
            terms.append(f"{prefix}seen_at {sign} %s")
            params.append(bound)
    for sign, place in (("<", want.before), (">", want.after)):
        if place is not None:
            terms.append(f"({prefix}seen_at, {prefix}id) {sign} (%s, %s)")
            params += place
    return terms, params


def place_of(columns: Sequence[str]) -> Callable[[tuple[Any, ...]], Place]:
    """Where a row of these columns stands in the order of all."""
    at, key = columns.index("seen_at"), columns.index("id")
    return lambda row: (row[at], row[key])


def _lists(columns: Sequence[str], want: Wanted, most: int, lead: str) -> tuple[str, list[Param]]:
    """One SELECT a list, together."""
    parts: list[str] = []
    params: list[Param] = []
    order, shown = f"ORDER BY {_order(want)}", ", ".join(columns)
    for pairs in want.lists:
        first = [pair for pair in pairs if not lead or pair[0] == lead]
        rest = [pair for pair in pairs if pair not in first]
        where, values = _where(first, want)
        params += [*values, *(value for _, value in rest)]
        if rest:
            inner = ", ".join(dict.fromkeys([*columns, *KEYS, *(column for column, _ in rest)]))
            others = " AND ".join(f"{column} = %s" for column, _ in rest)
            stretch = f"SELECT {inner} FROM {TABLE} {where} {order} LIMIT {STRETCH}"
            query = f"SELECT {shown} FROM ({stretch}) AS s WHERE {others} {order} LIMIT {most}"
        else:
            query = f"SELECT {shown} FROM {TABLE} {where} {order} LIMIT {most}"
        parts.append(f"SELECT * FROM ({query}) AS l")
    return " UNION ALL ".join(parts), params


def _where(pairs: Sequence[tuple[str, Param]], want: Wanted) -> tuple[str, list[Param]]:
    terms, params = bounds(want)
    terms += [f"{column} = %s" for column, _ in pairs]
    params += [value for _, value in pairs]
    if any(column == "exception_type" for column, _ in pairs):
        terms.append("exception_type > ''")  # its index has no others
    return f"WHERE {' AND '.join(terms)}" if terms else "", params


def _lead(want: Wanted) -> str:
    """The narrowest of several filters; "" when one index serves all."""
    if len(want.columns) < 2:
        return ""
    sizes: dict[str, int] = {}
    with connection.cursor() as cursor:
        for column in want.columns:
            sizes[column] = 0
            for value in _values(want, column):
                where, params = _where([(column, value)], replace(want, before=None, after=None))
                cursor.execute(
                    f"SELECT COUNT(*) FROM (SELECT 1 AS one FROM {TABLE} {where} LIMIT {STRETCH + 1}) AS c",
                    params,
                )
                sizes[column] += int(cursor.fetchone()[0])
    return min(want.columns, key=lambda column: sizes[column])


def _end(want: Wanted, lead: str) -> tuple[str, list[Param]]:
    """The last row of each stretch that is full."""
    parts: list[str] = []
    params: list[Param] = []
    for value in _values(want, lead):
        where, values = _where([(lead, value)], want)
        last = f"SELECT seen_at, id FROM {TABLE} {where} ORDER BY {_order(want)} LIMIT 1 OFFSET {STRETCH - 1}"
        parts.append(f"SELECT * FROM ({last}) AS e")
        params += values
    return " UNION ALL ".join(parts), params


def _values(want: Wanted, column: str) -> list[Param]:
    return list(dict.fromkeys(value for pairs in want.lists for key, value in pairs if key == column))


def _order(want: Wanted) -> str:
    way = "ASC" if want.after else "DESC"
    return f"seen_at {way}, id {way}"
