"""Who may write: one at a time, the next one soon, and never one who was."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connection, connections, transaction

from monitor.engine.leader import LEADER, STANDBY, Leader
from monitor.engine.lease import Deposed, Lease, Term
from monitor.models import Lease as Row
from tests.conftest import PATIENCE, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

LASTS = 1.0  # seconds


def lease(holder: str, lasts: float = LASTS) -> Lease:
    return Lease(holder=holder, lasts=lasts)


def taken(one: Lease) -> Term:
    term = one.take()
    assert term is not None
    return term


def elsewhere(work: Callable[[], Any]) -> Any:
    """In a thread, and so on a connection, of its own."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    return found[0]


class TestLease:
    def test_one_holds_it(self) -> None:
        first, second = lease("a:1:x"), lease("b:2:y")
        term = taken(first)
        assert term.epoch == 1
        assert second.take() is None
        assert second.look().holder == "a:1:x"
        assert 0 < second.look().left <= LASTS

    def test_renewed_it_lasts(self) -> None:
        first, second = lease("a:1:x"), lease("b:2:y")
        term = taken(first)
        until = time.monotonic() + 2 * LASTS
        while time.monotonic() < until:
            assert first.renew(term)
            assert second.take() is None
            threading.Event().wait(LASTS / 4)

    def test_what_was_not_renewed_is_taken_with_the_next_number(self) -> None:
        first, second = lease("a:1:x"), lease("b:2:y")
        old = taken(first)
        new = wait_until(second.take, LASTS + 1)
        assert (new.epoch, new.former) == (2, "a:1:x")
        assert LASTS <= new.silent < LASTS + 5
        first._renewed = 0.0
        assert not first.renew(old)
        assert old.over.is_set()
        assert "was silent" in second.look().note

    def test_what_ran_out_is_still_its_holders_while_nobody_takes_it(self) -> None:
        """A database that was away for everybody deposes nobody."""
        first = lease("a:1:x", lasts=0.05)
        term = taken(first)
        wait_until(lambda: first.look().left < 0, 5)
        first._renewed = 0.0
        assert first.renew(term)
        assert first.look().left > 0

    def test_given_back_it_is_free_at_once(self) -> None:
        first, second = lease("a:1:x"), lease("b:2:y")
        first.release(taken(first))
        new = taken(second)
        assert (new.epoch, new.former, new.silent) == (2, "", 0.0)
        assert "handed over by a:1:x" in second.look().note

    def test_giving_back_what_another_holds_changes_nothing(self) -> None:
        first, second = lease("a:1:x", lasts=0.05), lease("b:2:y")
        old = taken(first)
        wait_until(second.take, 5)
        first.release(old)
        assert second.look().holder == "b:2:y"

    def test_a_dead_holder_on_this_machine_is_not_waited_for(self) -> None:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait(60)
        first = lease(f"here:{gone.pid}:x", lasts=60)
        taken(first)
        assert lease("here:1:y").take() is not None

    def test_a_living_one_is(self) -> None:
        taken(lease(f"here:{os.getpid()}:x", lasts=60))
        assert lease("here:1:y").take() is None

    def test_the_number_of_another_machines_process_says_nothing(self) -> None:
        first = lease("there:999999:x", lasts=60)
        first.machine = "another"
        taken(first)
        assert lease("here:1:y").take() is None

    def test_of_many_that_try_at_once_one_gets_it(self) -> None:
        lease("first:1:x").look()
        won: list[Term] = []
        ready = threading.Barrier(6)

        def try_it(number: int) -> None:
            one = lease(f"h{number}:1:x", lasts=60)
            ready.wait(30)
            try:
                if term := one.take():
                    won.append(term)
            finally:
                one.close()

        threads = [threading.Thread(target=try_it, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [term.epoch for term in won] == [1]


class TestFence:
    def test_a_write_of_the_holder_passes(self) -> None:
        one = lease("a:1:x")
        term = taken(one)
        with transaction.atomic(), connection.cursor() as cursor:
            one.fence(term, cursor)

    def test_a_write_of_who_was_is_refused(self) -> None:
        first, second = lease("a:1:x", lasts=0.05), lease("b:2:y")
        old = taken(first)
        wait_until(second.take, 5)
        with pytest.raises(Deposed), transaction.atomic(), connection.cursor() as cursor:
            first.fence(old, cursor)
        assert old.over.is_set()

    def test_nobody_takes_it_while_a_write_is_under_way(self) -> None:
        """The write of the old holder is wholly before the new one, or not at all."""
        first, second = lease("a:1:x", lasts=0.2), lease("b:2:y")
        term = taken(first)
        if connection.vendor == "sqlite":
            connection.cursor().execute("PRAGMA busy_timeout = 100")
        with transaction.atomic(), connection.cursor() as cursor:
            first.fence(term, cursor)

            def attempt() -> Any:
                wait_until(lambda: second.look().left < 0, 5)
                if connection.vendor == "sqlite":
                    connection.cursor().execute("PRAGMA busy_timeout = 100")
                try:
                    return second.take()
                except OperationalError as error:
                    return error

            assert not isinstance(elsewhere(attempt), Term)
        assert wait_until(lambda: elsewhere(second.take), 5).epoch == 2

    def test_who_froze_in_the_middle_of_a_write_is_cut_off(self) -> None:
        if connection.vendor != "postgresql":
            return  # SQLite has one writer: a frozen one holds the file, whoever it is
        first, second = lease("a:1:x", lasts=0.2), lease("b:2:y")
        term = taken(first)
        with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
            first.fence(term, cursor)
            began = time.monotonic()
            new = wait_until(lambda: elsewhere(second.take), 5)
            assert time.monotonic() - began < 4 * PATIENCE
            assert new.epoch == 2
            cursor.execute("SELECT 1")
        connections.close_all()


class Work:
    """What a leader does, as a list of what happened."""

    def __init__(self, name: str, story: list[str]) -> None:
        self.name, self.story = name, story
        self.reason = ""

    def begin(self, term: Term) -> None:
        self.story.append(f"{self.name} begins {term.epoch}")

    def end(self, graceful: bool) -> None:
        self.story.append(f"{self.name} {'ends' if graceful else 'drops it'}")

    def failed(self) -> str:
        return self.reason


@pytest.fixture
def story() -> list[str]:
    return []


@pytest.fixture
def led(story: list[str]) -> Iterator[Callable[[str], Leader]]:
    started: list[Leader] = []

    def start(name: str) -> Leader:
        one = Leader(lease(f"{name}:1:x"), Work(name, story))
        started.append(one)
        one.start()
        return one

    yield start
    for one in started:
        assert one.stop(30)


class TestLeader:
    def test_one_leads_and_the_other_stands_by(self, led: Callable[[str], Leader]) -> None:
        first = led("a")
        wait_until(lambda: first.role == LEADER)
        second = led("b")
        wait_until(lambda: second.role == STANDBY)
        assert second.held_by == "a:1:x"

    def test_a_stop_hands_over_at_once(self, led: Callable[[str], Leader], story: list[str]) -> None:
        first = led("a")
        wait_until(lambda: first.role == LEADER)
        second = led("b")
        wait_until(lambda: second.role == STANDBY)
        assert first.stop(30)
        wait_until(lambda: second.role == LEADER)
        assert second.term is not None
        assert second.term.former == ""
        assert story == ["a begins 1", "a ends", "b begins 2"]

    def test_who_lost_the_lease_drops_the_work_and_stands_by(
        self, led: Callable[[str], Leader], story: list[str]
    ) -> None:
        first = led("a")
        wait_until(lambda: first.role == LEADER)
        Row.objects.update(holder="z:1:z", epoch=7, expires_at=time.time() + 3600)
        wait_until(lambda: first.role == STANDBY)
        assert story == ["a begins 1", "a drops it"]
        Row.objects.update(holder="", expires_at=0)
        wait_until(lambda: first.role == LEADER)
        assert story[-1] == "a begins 8"

    def test_work_that_ends_by_itself_ends_the_leader_and_frees_the_lease(
        self, led: Callable[[str], Leader]
    ) -> None:
        first = led("a")
        wait_until(lambda: first.role == LEADER)
        first.post.reason = "out of luck"  # type: ignore[attr-defined]
        wait_until(lambda: not first.alive)
        assert first.failed == "out of luck"
        assert Row.objects.get().holder == ""

    def test_a_connection_that_was_cut_deposes_nobody(self, led: Callable[[str], Leader]) -> None:
        if connection.vendor != "postgresql":
            return  # SQLite has no connection to cut
        first = led("a")
        wait_until(lambda: first.role == LEADER)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        expires = Row.objects.get().expires_at
        wait_until(lambda: Row.objects.get().expires_at > expires + LASTS)
        assert first.role == LEADER
        assert Row.objects.get().epoch == 1
