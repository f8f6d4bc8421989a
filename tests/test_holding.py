"""Why a task waits that no event of its own tells: chords, and messages that are out with a dead worker."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from django.test import Client

from dashboard import access
from dashboard.queries import chords, waits
from dashboard.queries.chords import UNLOCK, Chord
from dashboard.queries.facts import Consumer, Facts
from dashboard.queries.reasons import Reason, why
from monitor import models
from monitor.records import FeedRecord

NOW = 1_773_325_924.0
WORKER = Consumer(
    "w1@h", queues=frozenset({"pay"}), names=frozenset({UNLOCK}), is_revoked=False, size=4, pk=7
)
HELD = Facts(NOW, "RECEIVED", UNLOCK, "pay", worker="w1@h", workers=(WORKER,), eta=NOW + 1)
GONE = replace(HELD, eta=None, workers=(replace(WORKER, status="offline"),))


def first(facts: Facts) -> Reason:
    return why(facts).reasons[0]


def test_a_chord_says_how_many_of_its_headers_have_ended() -> None:
    found = first(replace(HELD, chord=Chord("u", 3, 1, 0)))
    assert (found.key, found.head) == ("chord", "A chord waits: 1 of its 3 headers have ended well")
    failed = first(replace(HELD, chord=Chord("u", 3, 1, 2)))
    assert "2 have not, so its body will not run but fail." in failed.evidence and failed.state == "failed"
    assert first(replace(HELD, chord=Chord("u", 3, 3, 0))).key == "eta", "nothing but its turn is left"
    unknown = why(replace(HELD, chord=Chord("u", 1)))
    assert unknown.reasons[0].head == "A chord waits for its header"
    assert any("headers have ended" in one.what for one in unknown.unchecked)


def test_what_a_dead_worker_held_is_unacknowledged_until_a_stated_time() -> None:
    facts = replace(GONE, given_back=NOW + 600, timeout="1 h 00 min, as its worker is set")
    found = first(facts)
    assert found.head == "Unacknowledged: w1@h, which reserved it, is offline" and found.at == NOW + 600
    assert (
        "By the visibility timeout of 1 h 00 min, as its worker is set, it goes then to another"
        in found.evidence
    )
    assert "it is due to go" in first(replace(facts, given_back=NOW - 5)).evidence
    other = first(GONE)  # RabbitMQ has no such timeout
    assert other.at is None and "RabbitMQ gives it to another at once" in other.evidence


def test_a_message_that_is_out_with_nobody_known_is_a_cause() -> None:
    found = first(replace(HELD, worker="", eta=None, given_back=NOW + 60, timeout="1 h 00 min, kombu’s own"))
    assert (found.key, found.at) == ("unacknowledged", NOW + 60)
    assert "visibility timeout is over (1 h 00 min, kombu’s own)" in found.evidence


# From rows


def row(uuid: str, state: str = "SUCCESS", **more: Any) -> models.Task:
    now = time.time()
    return models.Task.objects.create(
        uuid=uuid, state=state, first_seen_at=now - 9, seen_at=now - 9, **{"name": "shop.nap", **more}
    )


IDS = ["1b592863-317b-4c8a-8896-fbfd465a6301", "690c665d-c41d-4a37-938d-406a3fbab66b"]
BODY = "afd00194-c26c-4dda-88dc-24c974596de0"


def unlock(conf: dict[str, Any] | None = None, listed: bool = True, **more: Any) -> models.Task:
    now = time.time()
    whole = {
        "kwargs": repr({"interval": None, "result": [[[one, None], None] for one in IDS]}),
        "id": "unlocks",
    }
    models.Worker.objects.create(
        hostname="w1@h", status="online", pool="prefork", size=2, first_seen_at=1.0, heartbeat_at=now,
        queues=["pay"], inspected_at=now,
        details={"scheduled": [{"request": whole}] if listed else [], "conf": conf or {}, "revoked": [],
                 "registered": [UNLOCK], "active_queues": [{"name": "pay"}]},
    )  # fmt: skip
    args = f"('543711a4', {{'task': 'shop.add', 'options': {{'queue': 'pay', 'task_id': '{BODY}'}}}})"
    kwargs = "{'interval': None, 'result': [[[...], None], [[...], None]]}"
    given = {"worker": "w1@h", "queue": "pay", "received_at": now - 9, "eta": now + 1, **more}
    return row("unlocks", "RECEIVED", name=UNLOCK, args=args, kwargs=kwargs, **given)


@pytest.mark.django_db
def test_headers_are_counted_by_what_the_worker_lists_of_the_task_that_unlocks() -> None:
    unlock()
    row(IDS[0]), row(IDS[1], "STARTED")
    facts = waits.facts_of("unlocks", time.time())
    assert facts is not None and facts.chord == Chord("unlocks", 2, 1, 0)
    models.Task.objects.filter(uuid=IDS[1]).update(state="FAILURE")
    facts = waits.facts_of("unlocks", time.time())
    assert facts is not None and facts.chord == Chord("unlocks", 2, 1, 1)


@pytest.mark.django_db
def test_headers_that_events_abridge_are_counted_and_not_judged(client: Client) -> None:
    unlock(listed=False)
    facts = waits.facts_of("unlocks", time.time())
    assert facts is not None and facts.chord == Chord("unlocks", 2)
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    html = client.get("/tasks/unlocks/").content.decode()
    assert "A chord waits for its 2 headers" in html and "its events name them abridged" in html


@pytest.mark.django_db
def test_tuples_are_read_as_lists_are() -> None:
    """Where the body is told by a worker that took the task, and not by its sender."""
    task = unlock(listed=False)
    task.kwargs, task.state = "{'result': [((...), None), ((...), None), ((...), None)]}", "STARTED"
    task.save()
    assert chords.of_body(BODY) == Chord("unlocks", 3)
    task.kwargs = f"{{'result': [(('{IDS[0]}', None), None), (('{IDS[1]}', None), None)]}}"
    assert chords.of_unlock(task, None) == Chord("unlocks", 2, 0, 0)
    task.state = "SUCCESS"
    task.save()
    assert chords.of_body(BODY) is None, "it has been sent"


@pytest.mark.django_db
def test_a_body_that_is_not_sent_yet_is_told_from_an_id_that_nobody_knows(client: Client) -> None:
    unlock()
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    html = client.get(f"/tasks/{BODY}/").content.decode()
    assert "It is the body of a chord,</b> and is sent when its 2 headers have ended well" in html
    assert 'href="/tasks/unlocks/">What it waits for' in html
    other = client.get("/tasks/afd00194/")
    assert other.status_code == 404 and "until then nothing tells of it" in other.content.decode()


@pytest.mark.django_db
def test_the_visibility_timeout_is_the_workers_own_on_redis_alone() -> None:
    now = time.time()
    task = unlock({"broker_transport_options": {"visibility_timeout": 600}})
    facts = waits.facts_of("unlocks", now)
    assert facts is not None and facts.given_back is None, "it is not known to be Redis"
    record = FeedRecord(connected=True, since=now - 90, last_event_at=now, transport="redis")
    models.Feed.objects.create(pk=1, at=now, data=msgspec.to_builtins(record))
    facts = waits.facts_of("unlocks", now)
    assert facts is not None and task.received_at is not None
    assert facts.given_back == pytest.approx(task.received_at + 600)
    assert "10\xa0min" in facts.timeout and "as its worker is set" in facts.timeout
