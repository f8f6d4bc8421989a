"""What is said of a revoke whose task is called revoked by the result backend alone."""

from __future__ import annotations

import time

import pytest

from monitor.control import Command, Refused
from monitor.control.inspecting import Seen
from monitor.control.revokes.stopping import revoke, revoked
from monitor.control.verifying import Grade
from monitor.models import Task, Worker

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def waiting() -> None:
    """Of a task in a queue, its worker has written REVOKED when it was told; it has not reached the task."""
    now = time.time()
    Worker.objects.create(hostname="w@x", status="online", pool="solo", first_seen_at=now)
    Task.objects.create(
        uuid="a", name="shop.add", state="REVOKED", known="inferred", first_seen_at=now, seen_at=now
    )


def test_a_result_that_says_revoked_does_not_stop_a_revoke_from_being_sent_again() -> None:
    order = revoke(Command("revoke", ("a",), destinations=("w@x",)))
    assert [(one.command, one.to) for one in order.questions] == [("revoke", ("w@x",))]


def test_a_receipt_says_skipped_only_when_a_worker_was_seen_to_skip_it() -> None:
    order = revoke(Command("revoke", ("a",)))
    noted = {"w@x": Seen(revoked={"a"})}
    (early,) = revoked(order, time.time(), noted)
    assert "The worker will skip it" in early.text and "reached it" not in early.text
    (silent,) = revoked(order, time.time(), {})
    assert silent.grade is Grade.UNKNOWN
    Task.objects.update(known="seen")
    (late,) = revoked(order, time.time(), noted)
    assert late.text == "A worker reached it and skipped it: REVOKED."


def test_what_was_seen_to_be_skipped_is_not_revoked_again() -> None:
    Task.objects.update(known="seen")
    with pytest.raises(Refused, match="has ended already: REVOKED"):
        revoke(Command("revoke", ("a",)))
