"""Rows that hold a text, newest first: from the index of words, and from the rows that are not in it yet.

Words are whole, in any order; one that ends with * stands for all that begin so. What is written together
("bob@shop.example") is found together. The beginning of an id finds its task.
"""

# ruff: noqa: S608 - names of our own tables and columns; every value is a parameter

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.db import connection
from django.db.backends.utils import CursorWrapper

from dashboard.queries import shared
from dashboard.queries.newest import KEYS, TABLE, Found, Param, Place, Wanted, bounds, place_of
from monitor.store import search
from monitor.store.search import INDEX, SECOND, Mark

UNINDEXED = 10_000  # newest rows that are looked through without an index
MANY = 2_000  # from so many on, what was found in them serves for FRESH
FRESH = 0.5  # seconds
IDS = 1_000  # tasks that a beginning of an id may stand for
SHORTEST_START = 4  # letters of a word before its *
# Of the index, from the newest on: each part is four times as wide as the one before, the last is the rest.
# PostgreSQL finds a word in all of it whatever the part.
PARTS = {"sqlite": (1024, 256, 64, 16, 4, 1), "postgresql": (16, 4, 1)}
COMMON = 2_000  # rows with the words, from which on another filter leads
SURE = 64  # up to a 64th is read in any case
PATIENCE = 0.1  # seconds that they may take together

Row = tuple[Any, ...]
_ID = re.compile(r"[0-9a-zA-Z][0-9a-zA-Z-]{3,154}")
_WILD = re.compile(r"([%_\\])")


@dataclass(frozen=True, slots=True)
class Sought:
    """A text as words. ``exact``: what must stand in the row as it was typed."""

    words: tuple[tuple[str, bool], ...]  # with whether it is only the beginning of one
    exact: tuple[str, ...]
    start: str = ""  # of an id

    def holds(self, text: str) -> bool:
        """Whether a row's text has it all."""
        low, there = text.lower(), set(search.words(text))
        return all(part in low for part in self.exact) and all(
            any(other.startswith(word) for other in there) if begins else word in there
            for word, begins in self.words
        )


@dataclass(frozen=True)
class Read(Found):
    """``behind``: how far the index goes, when rows after that could not all be looked through."""

    behind: float | None = None


@dataclass(frozen=True, slots=True)
class _Search:
    columns: Sequence[str]
    asked: Sought
    want: Wanted
    most: int
    mark: Mark | None

    @property
    def way(self) -> str:
        return "ASC" if self.want.after else "DESC"


def sought(text: str) -> Sought | None:
    """None when nothing in it can be looked for: no letter and no digit."""
    words: dict[tuple[str, bool], None] = {}
    exact: list[str] = []
    for chunk in text.split():
        bare = chunk.rstrip("*")
        found = search.words(bare)
        if not found:
            continue
        begins = chunk.endswith("*") and bare[-1].isalnum() and len(found[-1]) >= SHORTEST_START
        words |= dict.fromkeys((word, False) for word in found[:-1])
        words[found[-1], begins] = None
        if bare.lower() != found[-1]:
            exact.append(bare.lower())
    start = text.strip().rstrip("*").lower()
    return Sought(tuple(words), tuple(exact), start if _ID.fullmatch(start) else "") if words else None


def find(columns: Sequence[str], text: str, want: Wanted, most: int) -> Read:
    """At most ``most`` rows: the newest, or those next before or after its place (still newest first)."""
    asked = sought(text)
    if asked is None or not want.lists:
        return Read([])
    one = _Search(columns, asked, want, most, search.mark())
    fresh, whole = _fresh(one)
    rows, on = _indexed(one, one.mark) if one.mark else ([], None)
    place = place_of(columns)
    found = {place(row): row for row in (*rows, *fresh, *_named(one))}
    places = sorted(found, reverse=not want.after)
    if on is not None:
        # Rows beyond where the index was left are the next page's.
        places = [at for at in places if (at < on if want.after else at > on)]
    chosen = [found[at] for at in places[:most]]
    return Read(
        chosen[::-1] if want.after else chosen,
        on if len(chosen) < most else None,
        None if whole else (one.mark.at if one.mark else 0.0),
    )


# What is not in the index


def _fresh(one: _Search) -> tuple[list[Row], bool]:
    """Rows heard of since the index was made, and whether all of them were looked through."""
    global _last  # noqa: PLW0603 - one look, for the next that asks the same
    since = one.want.since
    # Not by how far the index goes: rows that came into it meanwhile are found twice, and shown once.
    key = (one.asked, replace(one.want, since=None if since is None else int(since)))
    last = _last
    if not shared.kept or last is None or last.key != key or time.monotonic() - last.at > FRESH:
        began = time.monotonic()
        places, many = _look(one)
        last = _Look(key, began, places, many <= UNINDEXED)
        # Few are looked through again: what changes then is seen at once.
        _last = last if many > MANY else None
    return _rows(one, last.places[: one.most]), last.whole


def _look(one: _Search) -> tuple[list[Place], int]:
    """Where rows hold it that are not in the index, in the order asked for; how many rows there are."""
    terms, values = bounds(one.want)
    if one.mark:
        terms.append("(seen_at, id) > (%s, %s)")
        values += [one.mark.at, one.mark.task]
    filters, wanted = _filters(one.want)
    like, patterns = _like([*one.asked.exact, *(word for word, _ in one.asked.words)])
    inner = ", ".join(dict.fromkeys([*KEYS, *search.TEXTS, *one.want.columns]))
    where = f"WHERE {' AND '.join(terms)}" if terms else ""
    newest = f"SELECT {inner} FROM {TABLE} {where} ORDER BY seen_at {one.way} LIMIT {UNINDEXED}"
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT seen_at, id, {search.text_of()} FROM ({newest}) AS s WHERE {filters} AND {like}",
            [*values, *wanted, *patterns],
        )
        places = sorted((at, key) for at, key, text in cursor.fetchall() if one.asked.holds(text))
        cursor.execute(
            f"SELECT COUNT(*) FROM (SELECT 1 AS one FROM {TABLE} {where} LIMIT {UNINDEXED + 1}) AS c", values
        )
        return places if one.want.after else places[::-1], cursor.fetchone()[0]


def _rows(one: _Search, places: Sequence[Place]) -> list[Row]:
    """The rows there, as they are by now; the time finds them where ids have no index."""
    if not places:
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(one.columns)} FROM {TABLE} "
            f"WHERE seen_at >= %s AND id IN ({', '.join(['%s'] * len(places))})",
            [min(at for at, _ in places), *(key for _, key in places)],
        )
        return list(cursor.fetchall())


@dataclass(frozen=True, slots=True)
class _Look:
    """What was found where nothing is indexed yet, when, for whoever asks the same at that moment."""

    key: object
    at: float
    places: list[Place]
    whole: bool


_last: _Look | None = None


def _like(parts: Sequence[str], prefix: str = "") -> tuple[str, list[Param]]:
    """A condition that every row with these in its text fulfils, and few others."""
    terms: list[str] = []
    params: list[Param] = []
    like = "ILIKE" if connection.vendor == "postgresql" else "LIKE"
    for part in dict.fromkeys(parts):
        # SQLite folds the case of ASCII alone.
        forms = [part] if part.isascii() else list(dict.fromkeys([part, part.upper(), part.title()]))
        # Column by column: a text of them all would have to be made for every row.
        terms.append(
            " OR ".join(f"{prefix}{c} {like} %s ESCAPE '\\'" for c in reversed(search.TEXTS) for _ in forms)
        )
        params += ["%" + _WILD.sub(r"\\\1", form) + "%" for _ in search.TEXTS for form in forms]
    return " AND ".join(f"({term})" for term in terms), params


# What is in it


def _indexed(one: _Search, mark: Mark) -> tuple[list[Row], Place | None]:
    """Rows as they were indexed, and the place to go on from when the patience ended first."""
    with connection.cursor() as cursor:
        first, (low, high) = _span(cursor, one.want, mark)
        rows: list[Row] = []
        # Of the processor, where the database is in this thread: a busy machine is no reason to stop.
        clock = time.thread_time if connection.vendor == "sqlite" else time.perf_counter
        began = clock()
        ahead, before = one.want.after is not None, one.want.before
        # Not from the end of the slack: a part may be smaller, and each page is to come further.
        edge = low if ahead else min(high, int(before[0] * SECOND)) if before else high
        parts = PARTS[connection.vendor]
        # The beginning of a word costs the same in a part as in all.
        for part in parts if not any(begins for _, begins in one.asked.words) else parts[-1:]:
            size, since = (mark.place - first) // part + 1, clock()
            edge = min(high, edge + size) if ahead else max(low, edge - size)
            span = (low, edge) if ahead else (edge, high)
            more = replace(one, most=one.most - len(rows))
            rows += (_filtered if _is_common(cursor, one, span) else _matches)(cursor, more, mark, span)
            if len(rows) >= one.most or edge == (high if ahead else low):
                break
            # Never the same rows again; and the next part takes three times as long as those before, or more.
            low, high = (edge + 1, high) if ahead else (low, edge - 1)
            now = clock()
            if part <= SURE and now - began + (now - since) * 3 > PATIENCE:
                return rows, (edge / SECOND, 0)
        return rows, None


def _span(cursor: CursorWrapper, want: Wanted, mark: Mark) -> tuple[int, tuple[int, int]]:
    """The first place of all, and the first and last that may hold what is wanted."""
    cursor.execute(f"SELECT MIN({_PLACE[connection.vendor]}) FROM {INDEX}")
    first = int(cursor.fetchone()[0] or 0)
    low, high = first, mark.place
    if want.since is not None:
        low = max(low, int(want.since * SECOND))
    if want.after is not None:
        low = max(low, int(want.after[0] * SECOND))
    # Places run a little ahead of the time where many tasks had their last event at one moment.
    if want.until is not None:
        high = min(high, int(want.until * SECOND) + SECOND)
    if want.before is not None:
        high = min(high, _own(cursor, want.before) or int(want.before[0] * SECOND) + SECOND)
    return first, (low, max(high, low))


_PLACE = {"sqlite": "rowid", "postgresql": "place"}


def _own(cursor: CursorWrapper, place: Place) -> int | None:
    """Where this task itself stands in the index."""
    table = "monitor_searched" if connection.vendor == "sqlite" else INDEX
    near = int(place[0] * SECOND)
    cursor.execute(
        f"SELECT place FROM {table} WHERE task = %s AND place BETWEEN %s AND %s",
        [place[1], near, near + SECOND],
    )
    row = cursor.fetchone()
    return int(row[0]) if row else None


def _matches(cursor: CursorWrapper, one: _Search, mark: Mark, span: tuple[int, int]) -> list[Row]:
    filters, values = _filters(one.want, "t.")
    terms, limits = bounds(one.want, "t.")
    # A row that changed since is read as it is now, by _fresh.
    terms += ["(t.seen_at, t.id) <= (%s, %s)", filters]
    params = [*limits, mark.at, mark.task, *values]
    if one.asked.exact:
        like, patterns = _like(one.asked.exact, "t.")
        terms.append(like)
        params += patterns
    if connection.vendor == "postgresql":
        join, holds = "JOIN monitor_task AS t ON t.uuid = f.uuid AND t.day = f.day", "f.words @@ %s::tsquery"
    else:
        join, holds = "CROSS JOIN monitor_task AS t ON t.id = f.task", f"f.{INDEX} MATCH %s"
    place = f"f.{_PLACE[connection.vendor]}"
    cursor.execute(
        f"SELECT {', '.join(f't.{column}' for column in one.columns)} FROM {INDEX} AS f {join} "
        f"WHERE {holds} AND {place} BETWEEN %s AND %s AND {' AND '.join(terms)} "
        f"ORDER BY {place} {one.way} LIMIT {one.most}",
        [_match(one), *span, *params],
    )
    return list(cursor.fetchall())


def _is_common(cursor: CursorWrapper, one: _Search, span: tuple[int, int]) -> bool:
    """Whether so many rows there hold the words that the other filter had better lead; on SQLite."""
    if connection.vendor == "postgresql" or len(one.want.lists) != 1 or len(one.want.columns) != 1:
        return False
    cursor.execute(
        f"SELECT COUNT(*) FROM (SELECT rowid FROM {INDEX} WHERE {INDEX} MATCH %s "
        f"AND rowid BETWEEN %s AND %s LIMIT {COMMON + 1})",
        [_match(one), *span],
    )
    return bool(cursor.fetchone()[0] > COMMON)


def _filtered(cursor: CursorWrapper, one: _Search, mark: Mark, span: tuple[int, int]) -> list[Row]:
    """As ``_matches``, by the filter's own index, and no row is read but those that have both."""
    ((column, value),) = one.want.lists[0]
    terms, limits = bounds(one.want, "t.")
    if column == "exception_type":
        terms.append("t.exception_type > ''")  # its index has no others
    like, patterns = _like(one.asked.exact, "t.") if one.asked.exact else ("1 = 1", [])
    # Places run a little ahead of the time.
    low, high = span[0] / SECOND - 1, span[1] / SECOND + 2e-6
    cursor.execute(
        f"SELECT {', '.join(f't.{column}' for column in one.columns)} FROM {TABLE} AS t "
        f"CROSS JOIN monitor_searched AS s ON s.task = t.id WHERE t.{column} = %s "
        f"AND t.seen_at BETWEEN %s AND %s AND {' AND '.join([*terms, '(t.seen_at, t.id) <= (%s, %s)'])} "
        f"AND s.place IN (SELECT rowid FROM {INDEX} WHERE {INDEX} MATCH %s AND rowid BETWEEN %s AND %s) "
        f"AND {like} ORDER BY t.seen_at {one.way}, t.id {one.way} LIMIT {one.most}",
        [value, low, high, *limits, mark.at, mark.task, _match(one), *span, *patterns],
    )
    return list(cursor.fetchall())


def _match(one: _Search) -> str:
    """The words in the index's own language; those of a filter narrow it, since they are indexed too."""
    words = list(one.asked.words)
    if len(one.want.lists) == 1:
        words += [
            (word, False)
            for column, value in one.want.lists[0]
            if column in search.TEXTS
            for word in search.words(str(value))
        ]
    if connection.vendor == "postgresql":
        return " & ".join(f"'{word}'{':*' if begins else ''}" for word, begins in dict.fromkeys(words))
    return " AND ".join(f'"{word}"{" *" if begins else ""}' for word, begins in dict.fromkeys(words))


# Ids, and filters


def _named(one: _Search) -> list[Row]:
    """Tasks whose id begins so."""
    start = one.asked.start
    if not start:
        return []
    terms, limits = bounds(one.want)
    filters, values = _filters(one.want)
    where = " AND ".join(["uuid >= %s", "uuid < %s", *terms, filters])
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(one.columns)} FROM {TABLE} WHERE {where} ORDER BY uuid LIMIT {IDS}",
            [start, start + "\U0010ffff", *limits, *values],
        )
        return list(cursor.fetchall())


def _filters(want: Wanted, prefix: str = "") -> tuple[str, list[Param]]:
    """The other filters as one condition, which no index of the table is to serve."""
    terms: list[str] = ["1 = 1"]
    params: list[Param] = []
    for column in want.columns:
        values = list(dict.fromkeys(value for pairs in want.lists for key, value in pairs if key == column))
        terms.append(f"{_BARE[connection.vendor]}{prefix}{column} IN ({', '.join(['%s'] * len(values))})")
        params += values
    return " AND ".join(terms), params


_BARE = {"sqlite": "+", "postgresql": ""}
