"""What ``umbel`` does before it serves, and what it looks after while it serves."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dashboard.management.commands import user
from dashboard.process import database
from monitor.models import ControlRecord


def record(at: float) -> ControlRecord:
    return ControlRecord.objects.create(
        at=at, username="ada", role="operator", command="revoke", targets=["u-1"], sent_at=at
    )


@pytest.mark.django_db(transaction=True)
def test_what_a_crash_left_open_is_closed_before_anything_is_served() -> None:
    left = record(time.time() - 1)
    database.prepare()
    left.refresh_from_db()
    assert left.effect == "unverified"
    assert left.completed_at is not None
    assert "stopped" in left.evidence


@pytest.mark.django_db(transaction=True)
def test_only_commands_long_past_are_given_up_while_it_serves() -> None:
    old, fresh = record(time.time() - database.GIVEN_UP_AFTER - 1), record(time.time() - 5)
    database.recover()
    old.refresh_from_db()
    fresh.refresh_from_db()
    assert old.completed_at is not None
    assert fresh.completed_at is None
    assert fresh.effect == "pending"


@pytest.mark.parametrize(
    ("address", "base"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
    ],
)
def test_a_link_names_an_address_that_a_browser_can_open(settings: Any, address: str, base: str) -> None:
    settings.UMBEL_ADDRESS, settings.UMBEL_PORT, settings.UMBEL_PREFIX = address, 8000, ""
    assert user._base() == base
