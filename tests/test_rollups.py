"""Counts and histograms by time, name, worker and queue."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
from django.db import connection, transaction

from monitor import models
from monitor.records import Rollup
from monitor.store import Backlog
from monitor.store.rollups import COUNTS, KEPT, Rollups, added, coalesced, key_of

START = 1_790_000_040


def rollup(key: str = "a", start: int = START, **values: object) -> Rollup:
    return Rollup(60, "name", key, start, **values)  # type: ignore[arg-type]


def add(rollups: Rollups, *increments: Rollup) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        rollups.add(cursor, increments)


def stored() -> dict[tuple[int, str, str, int], Rollup]:
    """What the table holds, as records."""
    found = {}
    for row in models.Rollup.objects.all():
        runtime, wait = ({int(k): v for k, v in h.items()} for h in (row.runtime, row.wait))
        counts = {name: getattr(row, name) for name in COUNTS}
        record = Rollup(row.width, row.by, row.key, row.start, **counts, runtime=runtime, wait=wait)
        found[key_of(record)] = record
    return found


@contextmanager
def reads() -> Iterator[list[int]]:
    """How many rows each reading of the rows before their change asked for."""
    asked: list[int] = []
    real = Rollups._read

    def read(self: Rollups, cursor: object, chunk: list[Rollup]) -> object:
        asked.append(len(chunk))
        return real(self, cursor, chunk)  # type: ignore[arg-type]

    with mock.patch.object(Rollups, "_read", read):
        yield asked


def made_up(rng: random.Random) -> Rollup:
    counts = {name: rng.randrange(3) for name in COUNTS}
    histograms = {
        name: {rng.randrange(-50, 50): rng.randrange(1, 4) for _ in range(rng.randrange(4))}
        for name in ("runtime", "wait")
    }
    by = rng.choice(["all", "name", "worker", "queue"])
    key = "" if by == "all" else rng.choice("abc")
    return Rollup(rng.choice([10, 60]), by, key, START + 60 * rng.randrange(3), **counts, **histograms)


# What was committed is remembered, so these commit.
@pytest.mark.django_db(transaction=True)
class TestAdding:
    def test_increments_add_up_whoever_writes_them(self) -> None:
        rng = random.Random(7)
        writers = [Rollups(), Rollups()]
        said: list[Rollup] = []
        for _ in range(40):
            batch = [made_up(rng) for _ in range(rng.randrange(1, 12))]
            add(rng.choice(writers), *batch)
            said += batch
        assert stored() == {key_of(r): r for r in coalesced(said)}

    def test_one_writer_reads_nothing_of_what_it_wrote(self) -> None:
        rollups = Rollups()
        with reads() as asked:
            for n in range(5):
                add(rollups, rollup(runtime={n: 1}), rollup("b", wait={n: 2}))
        assert asked == []
        assert stored()[60, "name", "a", START].runtime == dict.fromkeys(range(5), 1)

    def test_after_a_restart_a_row_is_read_once(self) -> None:
        add(Rollups(), rollup(runtime={1: 1}))
        again = Rollups()
        with reads() as asked:
            add(again, rollup(runtime={1: 1}), rollup("b"))
            add(again, rollup(runtime={1: 1}))
        assert asked == [1]
        assert stored()[60, "name", "a", START].runtime == {1: 3}

    def test_what_was_rolled_back_is_not_counted(self) -> None:
        rollups = Rollups()
        add(rollups, rollup(received=1, runtime={1: 1}))
        with pytest.raises(ZeroDivisionError), transaction.atomic(), connection.cursor() as cursor:
            rollups.add(cursor, [rollup(received=1, runtime={2: 1}), rollup("new", wait={3: 1})])
            raise ZeroDivisionError
        add(rollups, rollup(received=1, runtime={5: 1}), rollup("new", wait={4: 1}))
        rows = stored()
        assert rows[60, "name", "a", START] == rollup(received=2, runtime={1: 1, 5: 1})
        assert rows[60, "name", "new", START].wait == {4: 1}

    def test_who_was_rolled_back_does_not_take_what_another_wrote_for_its_own(self) -> None:
        one, other = Rollups(), Rollups()
        add(one, rollup(runtime={1: 1}))
        with pytest.raises(ZeroDivisionError), transaction.atomic(), connection.cursor() as cursor:
            one.add(cursor, [rollup(runtime={2: 1})])
            raise ZeroDivisionError
        add(other, rollup(runtime={3: 1}))
        add(one, rollup(runtime={4: 1}))
        assert stored()[60, "name", "a", START].runtime == {1: 1, 3: 1, 4: 1}

    def test_more_than_a_statement_holds(self) -> None:
        rollups = Rollups()
        for _ in range(2):
            add(rollups, *(rollup(f"n{n}", received=1, runtime={n: 1}) for n in range(450)))
        assert models.Rollup.objects.filter(received=2).count() == 450

    def test_memory_is_bounded(self) -> None:
        rollups = Rollups()
        add(rollups, *(rollup(f"n{n}") for n in range(KEPT + 10)))
        assert len(rollups._known) == KEPT


def test_a_backlog_adds_them_up() -> None:
    backlog = Backlog()
    backlog.add([rollup(received=1, runtime={1: 1}), rollup("b", lost=1)])
    backlog.add([rollup(received=2, runtime={1: 1, 2: 1})])
    assert backlog.take() == [
        rollup(received=3, runtime={1: 2, 2: 1}),
        rollup("b", lost=1),
    ]


def test_adding_changes_neither_of_the_two() -> None:
    a, b = rollup(runtime={1: 1}), rollup(runtime={1: 2})
    assert added(a, b).runtime == {1: 3}
    assert (a.runtime, b.runtime) == ({1: 1}, {1: 2})


def test_sqlite_can_return_what_it_wrote() -> None:
    # RETURNING, which Django 5.2 does not ask of SQLite.
    assert sqlite3.sqlite_version_info >= (3, 35)


@pytest.mark.django_db(transaction=True)
def test_a_lifetime_count_that_was_deleted_begins_anew() -> None:
    rollups = Rollups()
    lifetime = Rollup(0, "pair", "a@h\nshop.pay", 0, succeeded=1, runtime={1: 1})
    add(rollups, lifetime)
    add(rollups, lifetime)
    assert stored()[0, "pair", "a@h\nshop.pay", 0].runtime == {1: 2}
    models.Rollup.objects.all().delete()
    add(rollups, lifetime)
    assert list(stored().values()) == [lifetime]
