"""The receipt of a revoke: where the task is still found, who would forget it, and when."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.test import Client

from dashboard import access
from dashboard.queries.receipt import places, receipt
from dashboard.queries.standing import Standing, of_record
from monitor.models import ControlRecord, StandingRevoke, Worker

pytestmark = pytest.mark.django_db
NOW = 1_790_000_000.0


def record(**more: Any) -> ControlRecord:
    replies = [
        {"worker": "w1@h", "outcome": "ok", "text": "x"},
        {"worker": "w2@h", "outcome": "ok", "text": "x"},
        {"worker": "w3@h", "outcome": "silent", "text": ""},
    ]
    fields = {"at": NOW, "sent_at": NOW, "answered_at": NOW, "completed_at": NOW + 1, "command": "revoke"}
    fields |= {"username": "ada", "role": "operator", "targets": ["a"], "replies": replies}
    fields |= {"destinations": ["w1@h", "w2@h", "w3@h"], "effect": "partly"}
    return ControlRecord.objects.create(**(fields | more))


def worker(name: str, conf: Any = None, **more: Any) -> None:
    details = {} if conf is None else {"conf": conf}
    fields = {"status": "online", "first_seen_at": NOW - 900, "online_at": NOW - 900, "details": details}
    Worker.objects.create(hostname=name, **(fields | more))


def lines(one: ControlRecord, standing: Standing | None, now: float) -> list[str]:
    return [text for _, _, text in receipt(one, standing, now).lines]


def test_it_says_who_took_it_who_would_forget_it_and_when() -> None:
    worker("w1@h", {})
    worker("w2@h", {"worker_state_db": "/var/w2"})
    worker("w3@h", status="offline")
    said = lines(record(), Standing(1, 0, 0, []), NOW + 60)
    assert said[0] == "2 of 3 workers acknowledged it."
    assert "w3@h is offline: told again when back." in said
    assert any(text.startswith("Would run if w1@h restarts: no worker_state_db") for text in said)
    assert said[-1].replace("\u00a0", " ") == (
        "Workers forget it in 2 h 59 min, or past 50,000 ids; Umbel sends it again every two hours."
    )


def test_a_worker_that_came_back_since_is_named_until_it_was_told() -> None:
    worker("w1@h", {}, online_at=NOW + 30)
    one = record(replies=[{"worker": "w1@h", "outcome": "ok"}], destinations=["w1@h"])
    waits = "w1@h came online since it was told, and will be told again."
    assert waits in lines(one, Standing(1, 0, 0, []), NOW + 60)
    assert waits not in lines(one, Standing(1, 0, 0, [("w1@h", NOW + 40)]), NOW + 60)


def test_nothing_is_said_of_what_stands_for_no_task_or_was_never_sent() -> None:
    assert lines(record(), Standing(0, 0, 0, []), NOW) == []
    assert lines(record(), None, NOW) == []
    assert lines(record(sent_at=None), Standing(1, 0, 0, []), NOW) == []
    assert lines(record(command="terminate"), Standing(1, 0, 0, []), NOW) == []


def test_each_place_is_seen_not_seen_or_not_checked() -> None:
    told = {"process": "no", "active": "no", "reserved": "part", "queue": "yes", "name": "imports"}
    found = places({"places": {**told, "unacknowledged": "", "answered": "4 of 5"}})
    assert [(place.text, place.seen) for place in found] == [
        ("its process is gone", False),
        ("not active", False),
        ("not reserved by 4 of 5 workers", False),
        ("its message waits in a queue: imports", True),
        ("among the unacknowledged: not checked", None),
    ]
    assert places(None) == places({}) == places({"places": 3}) == []


def test_the_record_page_shows_all_of_it(client: Client) -> None:
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    worker("w1@h", {})
    one = record(
        at=time.time(), answered_at=time.time(), arguments={"if_started": "SIGTERM"},
        seen=[{"target": "a", "seen": True, "text": "noted", "places": {"active": "no", "queue": "yes"}}],
    )  # fmt: skip
    StandingRevoke.objects.create(uuid="a", record=one, since=NOW, if_started="SIGTERM", ended_at=NOW)
    assert of_record(one.pk) == Standing(1, 0, 1, [])
    html = client.get(f"/audit/{one.pk}/").content.decode()
    for said in (
        "not active",
        "its message waits in a queue",
        "2 of 3 workers acknowledged it.",
        "1 was terminated for that, as asked.",
        "SIGTERM",
    ):
        assert said in html, said
    assert "SIGTERM if it starts all the same" in client.get("/audit/").content.decode()
