"""Why a task waits: every cause by a table of what is known, and the same from rows on the page."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from dashboard import access, fragments
from dashboard.fragments import Page
from dashboard.queries import waits
from dashboard.queries.facts import Consumer, Facts, Place, Reason, Revoked
from dashboard.queries.reasons import why
from monitor import models
from monitor.records import FeedRecord, Stalled
from tests.test_workers_page import task, worker

NOW = 1_773_325_924.0
NAMES = frozenset({"shop.add", "shop.pay"})


def at(hostname: str = "w1@h", **more: Any) -> Consumer:
    """A worker that has told everything, with one of its four slots busy."""
    given = {"queues": frozenset({"pay"}), "names": NAMES, "is_revoked": False, "size": 4, "busy": 1}
    return Consumer(hostname, **{**given, "asked_at": NOW - 2, "pk": 7, **more})


FULL = at(busy=4, runs=(("shop.export", 842.0), ("shop.add", 3.0)))
PENDING = Facts(NOW, "PENDING", "shop.add", "pay", workers=(at(),), place=Place(12, 240))
RECEIVED = replace(PENDING, state="RECEIVED", worker="w1@h", place=None, ahead_there=12)


def keys(facts: Facts) -> list[str]:
    return [reason.key for reason in why(facts).reasons]


def first(facts: Facts) -> Reason:
    return why(facts).reasons[0]


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        # It waits in its queue.
        (PENDING, ["unexplained", "position"]),
        (replace(PENDING, workers=(FULL,)), ["busy", "position"]),
        (replace(PENDING, workers=(FULL, at("w2@h"))), ["unexplained", "position"]),
        (replace(PENDING, workers=(at(queues=frozenset({"mail"})),)), ["no consumer", "position"]),
        (replace(PENDING, workers=(at(queues=frozenset()),)), ["no consumer", "position"]),
        (replace(PENDING, workers=(at(status="offline"),)), ["no consumer", "position"]),
        (replace(PENDING, workers=()), ["no consumer", "position"]),
        (replace(PENDING, workers=(at(queues=None),)), ["unexplained", "position"]),
        (
            replace(PENDING, workers=(at(queues=None), at("w2@h", queues=frozenset({"mail"})))),
            ["no consumer", "position"],
        ),
        (replace(PENDING, queue="", place=None), ["unexplained"]),
        (replace(PENDING, name="shop.new"), ["not registered", "position"]),
        (replace(PENDING, name=""), ["unexplained", "position"]),
        (replace(PENDING, workers=(at(names=None),)), ["unexplained", "position"]),
        (
            replace(PENDING, workers=(at(), at("w2@h", names=frozenset({"shop.pay"})))),
            ["unexplained", "not registered on some", "position"],
        ),
        (replace(PENDING, workers=(at(rate_limit="10/m"),)), ["rate limit", "position"]),
        (replace(PENDING, workers=(at(rate_limit="10/m"), at("w2@h"))), ["unexplained", "position"]),
        (replace(PENDING, workers=(at(size=0, busy=0),)), ["no process", "position"]),
        # What a solo worker runs shows when it has ended: it is not called free.
        (replace(PENDING, workers=(at(pool="solo", size=1, busy=0),)), ["solo", "position"]),
        (replace(PENDING, workers=(at(pool="solo", size=1, busy=1),)), ["busy", "position"]),
        (replace(PENDING, workers=(at(pool="solo"), at("w2@h"))), ["unexplained", "position"]),
        (replace(RECEIVED, workers=(at(pool="solo", size=1, busy=0),)), ["held", "solo"]),
        (replace(PENDING, eta=NOW + 90), ["eta"]),
        (replace(PENDING, eta=NOW - 90), ["unexplained", "position"]),
        (replace(PENDING, expires=NOW - 1), ["expired", "position"]),
        (replace(PENDING, expires=NOW + 1), ["unexplained", "position"]),
        (replace(PENDING, workers=(at(is_revoked=True),)), ["revoked", "position"]),
        (replace(PENDING, revoked=Revoked(NOW - 60, "otto")), ["revoke forgotten", "position"]),
        (
            replace(PENDING, workers=(at(is_revoked=None),), revoked=Revoked(NOW - 60, "otto")),
            ["revoked", "position"],
        ),
        (
            replace(PENDING, workers=(), revoked=Revoked(NOW - 60, "otto")),
            ["revoked", "no consumer", "position"],
        ),
        # Several hold at once: the most telling first.
        (
            replace(PENDING, eta=NOW + 90, workers=(at(queues=frozenset({"mail"}), is_revoked=True),)),
            ["no consumer", "eta"],
        ),
        # While Umbel does not hear, that comes first, and nobody is blamed for being unknown.
        (replace(PENDING, live=False, blind_since=NOW - 30), ["blind", "unexplained", "position"]),
        (replace(PENDING, live=False, workers=(at(status="unknown"),)), ["blind", "unexplained", "position"]),
        # A worker has it.
        (RECEIVED, ["unexplained", "held"]),
        (replace(RECEIVED, workers=(at(is_revoked=True),)), ["revoked", "held"]),
        # Threads and greenlets have it already; a task held for its ETA they have not.
        (replace(RECEIVED, workers=(at(is_revoked=True, takes_at_once=True),)), ["revoked too late", "held"]),
        (replace(RECEIVED, workers=(at(is_revoked=True, has_grown=True),)), ["revoked too late", "held"]),
        (
            replace(RECEIVED, eta=NOW + 90, workers=(at(is_revoked=True, takes_at_once=True),)),
            ["revoked", "eta"],
        ),
        (replace(RECEIVED, workers=(FULL,)), ["reserved"]),
        (replace(RECEIVED, workers=(at(size=0, busy=0),)), ["no process"]),
        (replace(RECEIVED, workers=(at(status="offline"),)), ["worker offline"]),
        (replace(RECEIVED, eta=NOW + 90), ["eta"]),
        (replace(RECEIVED, eta=NOW + 90, workers=(FULL,)), ["eta"]),
        (replace(RECEIVED, workers=(at(rate_limit="10/m"),)), ["rate limit", "held"]),
        (replace(RECEIVED, workers=(replace(FULL, rate_limit="10/m"),)), ["rate limit", "reserved"]),
        (replace(RECEIVED, workers=(at(is_revoked=True),)), ["revoked", "held"]),
        # What other workers list or lack says nothing of a task that this one holds.
        (replace(RECEIVED, workers=(FULL, at("w2@h", is_revoked=True, names=frozenset()))), ["reserved"]),
        (replace(RECEIVED, worker="gone@h"), ["unexplained"]),
        (replace(RECEIVED, worker=""), ["unacknowledged"]),
        (replace(RECEIVED, live=False, workers=(FULL,)), ["blind", "reserved"]),
        # As of when Umbel last heard: who was there then is unknown now.
        (
            replace(PENDING, live=False, workers=(at(status="unknown", queues=frozenset({"mail"})),)),
            ["blind", "no consumer", "position"],
        ),
        # It is to be tried again.
        (replace(PENDING, state="RETRY", eta=NOW + 30), ["eta"]),
        (replace(PENDING, state="RETRY", workers=(FULL,)), ["busy"]),
        (replace(PENDING, state="RETRY", workers=()), ["no consumer"]),
    ],
)  # fmt: skip
def test_each_cause_is_found_where_it_holds_and_nowhere_else(facts: Facts, found: list[str]) -> None:
    assert keys(facts) == found


def test_the_evidence_is_told() -> None:
    reason = first(replace(RECEIVED, workers=(FULL,)))
    assert reason.head == "Reserved by w1@h, whose 4 slots are all busy"
    assert (
        reason.evidence
        == "Longest there: export, for 14\u00a0min\u00a002\u00a0s. 12 tasks reserved before it there."
    )
    reason = first(replace(RECEIVED, workers=(at(is_revoked=True, has_grown=True),)))
    assert reason.head == "Revoked, perhaps too late"
    assert reason.evidence.endswith("it runs all the same. Terminate it to be sure.")
    reason = first(
        replace(PENDING, workers=(at(queues=frozenset({"mail", "default"})), at("g@h", status="offline")))
    )
    assert reason.head == "No worker consumes the queue pay"
    assert "default and mail." in reason.evidence and "g@h, which consumed it, is offline." in reason.evidence
    reason = first(replace(RECEIVED, workers=(at(rate_limit="10/m", asked_at=NOW - 200),)))
    assert (
        "shop.add runs at most 10/m there" in reason.head
        and "asked 3\u00a0min 20\u00a0s" in reason.evidence.replace("min\u00a0", "min ")
    )
    assert first(replace(PENDING, workers=(FULL,))).head.startswith(
        "Every slot of w1@h, the only consumer of"
    )
    both = first(replace(PENDING, workers=(FULL, replace(FULL, hostname="w2@h"))))
    assert both.head == "Every slot of the 2 consumers of pay is busy" and "8 of 8 slots" in both.evidence
    place = why(replace(PENDING, place=Place(12, 240, True))).reasons[-1]
    assert place.head == "Position 13 of at least 240 in pay, by events"
    reason = first(replace(PENDING, workers=(at(is_revoked=True), at("w2@h"))))
    assert "w1@h lists it as revoked" in reason.evidence and "w2@h does not list it" in reason.evidence
    reason = first(replace(PENDING, workers=(at(),), revoked=Revoked(NOW - 60, "otto")))
    assert "Revoked by otto" in reason.evidence and "forgets when it restarts" in reason.evidence


@pytest.mark.parametrize(
    ("facts", "what", "because"),
    [
        (PENDING, "the message in the broker", "Umbel does not read queues’ messages"),
        (replace(PENDING, workers=(at(asked_at=None, queues=None),)), "pool of w1@h", "has not answered"),
        (replace(PENDING, workers=(at(queues=None),)), "which queues w1@h consumes", "unanswered"),
        (replace(PENDING, workers=(at(names=None),)), "whether w1@h knows the task name", "has not told"),
        (replace(PENDING, workers=(at(is_revoked=None),)), "lists it as revoked", "unanswered"),
        (replace(PENDING, workers=(at(status="unknown"),)), "w1@h as it is now", "not heard of"),
        (replace(PENDING, queue="", place=None), "its queue", "task_send_sent_event"),
        (replace(PENDING, workers=(at(is_read=False),)), "1 more worker", "too many"),
        (replace(PENDING, state="RETRY"), "when its retry is due", "does not say"),
        (replace(RECEIVED, worker="gone@h"), "how busy gone@h is", "not in the list"),
        (replace(RECEIVED, worker=""), "which worker has it", "no worker said so"),
        (replace(RECEIVED, workers=(at(names=None),)), "whether w1@h limits its rate", "has not told"),
    ],
)  # fmt: skip
def test_what_was_not_checked_is_listed_with_its_reason(facts: Facts, what: str, because: str) -> None:
    listed = [(one.what, one.why) for one in why(facts).unchecked]
    assert any(what in one and because in reason for one, reason in listed), listed


def test_what_was_checked_is_not_listed() -> None:
    assert why(RECEIVED).unchecked == []
    assert why(replace(RECEIVED, workers=(at(status="offline", names=None),))).unchecked == []
    assert len(why(replace(PENDING, workers=(at(), at("g@h", status="offline", queues=None)))).unchecked) == 1


# From rows


def told(**values: Any) -> None:
    now = time.time()
    record = FeedRecord(**{"connected": True, "since": now - 90, "last_event_at": now} | values)
    models.Feed.objects.update_or_create(pk=1, defaults={"at": now, "data": msgspec.to_builtins(record)})


def drawn(uuid: str = "u1") -> str:
    fragments.load()
    return fragments.named("task-waiting").draw(Page("task", (("uuid", uuid),)))


ANSWERS: dict[str, Any] = {
    "registered": ["shop.tasks.pay [rate_limit=10/m]", "shop.tasks.add"],
    "revoked": ["u9"],
    "active_queues": [{"name": "pay"}],
}


def waiting(uuid: str = "u1", **values: Any) -> models.Task:
    return task(
        uuid, **{"state": "PENDING", "queue": "pay", "started_at": None, "name": "shop.tasks.add"} | values
    )


@pytest.mark.django_db
def test_the_page_tells_why_it_waits_and_is_drawn_live_the_same(client: Client) -> None:
    told()
    now = time.time()
    worker("w1@h", queues=["pay"], details=ANSWERS, inspected_at=now, size=1)
    task("run", worker="w1@h", started_at=now - 30)
    for n in range(3):
        waiting(f"before{n}", first_seen_at=now - 60 + n)
    waiting("other", queue="mail", first_seen_at=now - 90)
    waiting("later", first_seen_at=now - 90, eta=now + 900)
    waiting()
    html = drawn()
    assert "Every slot of w1@h, the only consumer of pay, is busy" in html
    assert "Position 4 of 4 in pay, by events" in html
    assert "Umbel does not read queues" in html
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    page = client.get("/tasks/u1/").content.decode()
    assert "Why is it waiting?" in page and "Position 4 of 4 in pay" in page


@pytest.mark.django_db
def test_a_reserved_task_counts_who_is_before_it_there() -> None:
    told()
    now = time.time()
    worker("w1@h", queues=["pay"], details=ANSWERS, inspected_at=now, size=1)
    task("run", worker="w1@h", name="shop.tasks.export", started_at=now - 842)
    received = {"state": "RECEIVED", "worker": "w1@h"}
    waiting("a", **received, received_at=now - 9)
    waiting("held", **received, received_at=now - 9, eta=now + 900)
    waiting("after", **received, received_at=now - 1)
    waiting(**received, received_at=now - 5)
    html = drawn()
    assert "Reserved by w1@h, whose only slot is busy" in html
    assert "export runs there, for 14" in html and "1 task reserved before it there" in html
    assert "Held for its ETA" in drawn("held")
    assert "Not checked" not in html


@pytest.mark.django_db
def test_revokes_are_found_in_workers_lists_and_in_the_audit_log() -> None:
    told()
    now = time.time()
    row = worker("w1@h", queues=["pay"], details=ANSWERS, inspected_at=now)
    waiting("u9", first_seen_at=now - 60)
    assert "Revoked already" in drawn("u9")
    waiting(first_seen_at=now - 60)
    assert "Revoked" not in drawn()
    record = models.ControlRecord.objects.create(
        at=now - 30, username="otto", role="operator", command="revoke", targets=["u1", "u2"],
        effect="partly", seen=[{"target": "u1", "seen": False, "text": ""}],
    )  # fmt: skip
    assert "Revoked" not in drawn()
    record.seen = [{"target": "u1", "seen": True, "text": ""}]
    record.save()
    assert "Revoked, and forgotten" in drawn()
    row.details = {**ANSWERS, "revoked": ["u1"]}
    row.save()
    html = drawn()
    assert "Revoked already" in html and "Revoked by otto" in html


@pytest.mark.django_db
def test_a_broker_that_is_not_heard_is_said_first() -> None:
    told(connected=False, since=time.time() - 30, error="refused")
    worker("w1@h", status="unknown", queues=["pay"], details=ANSWERS)
    waiting()
    html = drawn()
    assert html.index("Umbel last heard from the broker") < html.index("No cause found")
    assert "w1@h as it is now" in html


@pytest.mark.django_db
@pytest.mark.parametrize("state", ["STARTED", "SUCCESS", "REVOKED", "LOST"])
def test_a_task_that_does_not_wait_has_no_such_panel(state: str) -> None:
    task("u1", state=state)
    assert drawn().strip() == '<section id="task-waiting" hidden></section>'


@pytest.mark.django_db
def test_hostile_names_are_text_and_absurd_times_do_no_harm() -> None:
    evil = "<img src=x>"
    worker(f"{evil}@h", queues=[evil], details={"registered": [7], "revoked": 3, "active_queues": "x"})
    waiting(queue=evil, name=evil, eta=1e300, expires=-1e300, first_seen_at=1e18)
    assert "<img" not in drawn()
    waiting("u2", state="RECEIVED", worker=f"{evil}@h", received_at=1e18, eta=float("1e18"))
    assert "<img" not in drawn("u2")


@pytest.mark.django_db
def test_its_place_is_read_off_the_index_of_what_waits_and_counted_to_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = waiting()
    with CaptureQueriesContext(connection) as asked:
        assert waits._place(row, time.time()) == Place(0, 1)
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {asked[0]['sql']}")
            assert "USING COVERING INDEX task_waiting" in str(cursor.fetchall())
    monkeypatch.setattr(waits, "MOST", 1)
    assert waits._place(row, time.time()).more


@pytest.mark.django_db
def test_many_workers_take_no_more_queries_and_those_not_looked_at_are_counted(
    django_assert_max_num_queries: Any,
) -> None:
    told()
    for n in range(30):
        worker(f"w{n:02}@h", queues=["pay"], details=ANSWERS, inspected_at=time.time())
    waiting()
    with django_assert_max_num_queries(13):
        html = drawn()
    assert "10 more workers that may take it (too many to look at all)" in html


@pytest.mark.django_db
def test_a_waiting_task_says_that_its_worker_works_nothing_or_that_its_queue_is_empty() -> None:
    now = time.time()
    worker("a@h", queues=["pay"])
    pending = {"state": "PENDING", "queue": "pay", "started_at": None, "first_seen_at": now - 60}
    task("u1", **pending, seen_at=now - 60)
    told(stalled=[Stalled("a@h", now - 75, 12, "pay")], depths={"pay": 12}, depths_at=now)
    fragments.load()
    region = fragments.named("task-waiting")
    html = region.draw(Page("task", (("uuid", "u1"),)))
    assert "a@h is online and works nothing" in html and "it has counted 12 messages" in html
    told(depths={"pay": 0}, depths_at=now)
    assert "pay is empty at the broker" in region.draw(Page("task", (("uuid", "u1"),)))
    told(depths={"pay": 0}, depths_at=now - 58)
    assert "is empty" not in region.draw(Page("task", (("uuid", "u1"),)))
    task("u2", **pending, seen_at=now - 60, eta=now + 60)
    told(depths={"pay": 0}, depths_at=now)
    assert "is empty" not in region.draw(Page("task", (("uuid", "u2"),)))
