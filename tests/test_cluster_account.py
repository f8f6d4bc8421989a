"""The account always balances, whatever comes; what is known of workers is bounded; lag is free of skew."""

from __future__ import annotations

import pytest

from monitor.cluster import Limits
from monitor.events import Decoded
from tests.fleets import Fleet


def test_whatever_comes_the_account_balances() -> None:
    fleet = Fleet()
    fleet.beat()
    fleet.start()
    fleet.cluster.count(Decoded(malformed=2, ignored=1, reasons=["a", "b", "c"]))
    fleet.cluster.drop(5, "queue was full")
    for n in range(200):
        fleet.cluster.count(Decoded(malformed=1, reasons=[f"reason {n}"]))
    accounting = fleet.cluster.accounting
    assert accounting.balanced
    assert (accounting.received, accounting.dropped, accounting.malformed) == (210, 5, 202)
    assert len(accounting.refused) <= 65
    assert accounting.refused["other reasons"] > 100


def test_fifty_thousand_names_of_workers_are_bounded_and_counted() -> None:
    fleet = Fleet(Limits(workers=50))
    for n in range(500):
        fleet.beat(f"w{n}@host")
    feed = fleet.cluster.feed(fleet.now)
    assert (feed.workers_known, feed.limits["workers"]) == (50, 450)
    assert feed.accounting.balanced


def test_offline_workers_make_room_for_new_ones() -> None:
    fleet = Fleet(Limits(workers=2))
    fleet.beat("a@h")
    fleet.beat("a@h", kind="offline")
    fleet.beat("b@h")
    fleet.cluster.drain(fleet.now)
    fleet.beat("c@h")
    assert set(fleet.cluster.workers.known) == {"b@h", "c@h"}


def test_lag_is_free_of_skew_and_shows_delay() -> None:
    fleet = Fleet()
    fleet.skew = 300.0
    for _ in range(50):
        fleet.now += 0.1
        fleet.beat()
    lag = fleet.cluster.feed(fleet.now).lag
    assert lag is not None
    assert lag < 0.01
    assert fleet.cluster.feed(fleet.now).worst_drift == pytest.approx(300, abs=0.1)
    fleet.skew = 298.0  # two seconds late by now
    for _ in range(50):
        fleet.now += 0.1
        fleet.beat()
    assert fleet.cluster.feed(fleet.now).lag == pytest.approx(2.0, abs=0.1)
    assert fleet.cluster.feed(fleet.now).rate == pytest.approx(10, abs=1.5)


def test_lag_that_lasts_is_not_taken_for_a_wrong_clock() -> None:
    fleet = Fleet()
    fleet.beat()
    fleet.skew = -30.0
    for _ in range(300):
        fleet.now += 2
        fleet.beat()
    assert fleet.cluster.feed(fleet.now).lag == pytest.approx(30, abs=1)
