"""How long a sign-in lasts: while it is used, and a week at most."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.db import OperationalError
from django.test import Client

from dashboard import access, middleware

pytestmark = pytest.mark.django_db
HOUR = 3600


@pytest.fixture
def vera(client: Client) -> Client:
    middleware._touched.clear()
    access.create_user("vera", "viewer", "correct horse 9")
    assert client.post("/sign-in/", {"username": "vera", "password": "correct horse 9"}).status_code == 302
    return client


def left() -> float:
    """Hours that the one session has."""
    return (Session.objects.get().expire_date - datetime.now(UTC)).total_seconds() / HOUR


def at(monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    later = datetime.now(UTC).timestamp() + hours * HOUR
    monkeypatch.setattr(middleware.time, "time", lambda: later)


def test_a_page_keeps_it_for_twelve_hours(vera: Client) -> None:
    assert vera.get("/feed/").status_code == 200
    assert left() == pytest.approx(12, abs=0.1)
    Session.objects.update(expire_date=datetime.fromtimestamp(1.0, UTC))
    assert vera.get("/feed/").status_code == 302


def test_use_prolongs_it_but_is_not_written_with_every_page(
    vera: Client, monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: Any
) -> None:
    vera.get("/feed/")
    first = left()
    vera.get("/feed/")
    assert left() == pytest.approx(first, abs=0.001)
    at(monkeypatch, 0.5)
    vera.get("/feed/")
    assert left() == pytest.approx(12.5, abs=0.1)


def test_however_busy_it_ends_after_a_week(vera: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, 7 * 24 - 1)
    assert vera.get("/feed/").status_code == 200
    assert left() == pytest.approx(7 * 24, abs=0.1)
    at(monkeypatch, 7 * 24 + 1)
    assert vera.get("/feed/").status_code == 302
    assert not Session.objects.filter(session_key=vera.cookies["umbel_session"].value).exists()


def test_it_can_be_left_open_for_the_week(vera: Client, settings: Any) -> None:
    settings.UMBEL_SESSION_IDLE = 0
    vera.get("/feed/")
    assert left() == pytest.approx(7 * 24, abs=0.1)


def test_a_database_that_takes_no_writes_costs_no_page(vera: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*args: Any, **values: Any) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr(middleware.Session.objects, "filter", locked)
    assert vera.get("/feed/").status_code == 200
