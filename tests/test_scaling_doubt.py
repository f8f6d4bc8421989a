"""A commit that nobody answered: it is asked for before anything is written again, since counts add up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import OperationalError, connection, connections

from monitor import models
from monitor.engine.writer import Writer
from monitor.records import Rollup
from monitor.redact import DEFAULT
from monitor.store import Backlog, Store

pytestmark = pytest.mark.django_db(transaction=True)

AT = 1_700_000_040


class Broken(Store):
    """The connection dies at the next commit, before or after the server has done it."""

    before = after = False

    def write(self, *values: Any) -> None:
        commit: Callable[[], None] = connection.commit

        def dies() -> None:
            if self.before:
                self.before = False
                connections.close_all()
                raise OperationalError("the connection is lost")
            commit()
            if self.after:
                self.after = False
                connections.close_all()
                raise OperationalError("the connection is lost")

        connection.commit = dies  # type: ignore[method-assign]
        try:
            super().write(*values)
        finally:
            del connection.commit  # type: ignore[method-assign]


def counted(store: Store) -> int:
    """What history counts after one started task was written with a failure on the way, and another after."""

    async def story() -> None:
        backlog = Backlog()
        writer = Writer(store, backlog, DEFAULT)
        for _ in range(2):
            backlog.add([Rollup(width=60, by="all", key="", start=AT, started=1)])
            await writer.flush(AT)
        await writer.flush(AT, at_once=True)
        assert not backlog
        assert not store.doubtful
        await writer.close()

    asyncio.run(story())
    return sum(models.Rollup.objects.values_list("started", flat=True))


def test_nothing_is_counted_twice_when_the_answer_to_a_commit_is_lost() -> None:
    if connection.vendor == "sqlite":
        return  # its commits are calls that answer
    store = Broken()
    store.after = True
    assert counted(store) == 2


def test_a_write_that_is_under_way_at_the_end_is_not_written_again() -> None:
    """The engine's parts are cancelled before its last write; a thread that writes goes on."""

    class Slow(Store):
        def __init__(self) -> None:
            super().__init__()
            self.begun, self.go = threading.Event(), threading.Event()

        def write(self, *values: Any) -> None:
            self.begun.set()
            assert self.go.wait(30)
            super().write(*values)

    store = Slow()

    async def story() -> None:
        backlog = Backlog()
        writer = Writer(store, backlog, DEFAULT)
        backlog.add([Rollup(width=60, by="all", key="", start=AT, started=1)])
        flushing = asyncio.create_task(writer.flush(AT))
        await asyncio.to_thread(store.begun.wait, 30)
        flushing.cancel()
        await asyncio.sleep(0)
        store.go.set()
        with pytest.raises(asyncio.CancelledError):
            await flushing
        await writer.flush(AT)
        await writer.close()

    asyncio.run(story())
    assert sum(models.Rollup.objects.values_list("started", flat=True)) == 1


def test_nothing_is_lost_when_the_commit_did_not_happen() -> None:
    store = Broken()
    store.before = True
    assert counted(store) == 2


def test_a_transaction_number_that_was_given_anew_after_a_crash_proves_nothing() -> None:
    if connection.vendor == "sqlite":
        return

    class Reborn(Broken):
        """The server was killed, and its next transaction got the number of the one that was lost."""

        def was_written(self) -> bool:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_current_xact_id()::text")
                (self.doubtful,) = cursor.fetchone()
            return super().was_written()

    store = Reborn()
    store.before = True
    assert counted(store) == 2
