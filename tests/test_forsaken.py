"""Tasks that nobody works, in what needs attention: queues without a worker, and lost ones."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dashboard.queries import forsaken, shared, workers
from dashboard.queries.items import Item
from monitor.models import ControlRecord, SentTask, Task, Worker

pytestmark = pytest.mark.django_db


def online(hostname: str = "w@h", **more: Any) -> Worker:
    now = time.time()
    given = {"status": "online", "queues": ["mail"], "inspected_at": now, "heartbeat_at": now, "size": 2}
    return Worker.objects.create(hostname=hostname, first_seen_at=now - 900, **{**given, **more})


def task(uuid: str, state: str = "PENDING", ago: float = 60.0, **more: Any) -> Task:
    at = time.time() - ago
    given = {"name": "shop.add", "queue": "ordres", "sent_at": at, "first_seen_at": at, "seen_at": at}
    return Task.objects.create(uuid=uuid, state=state, **{**given, **more})


def items() -> dict[str, Item]:
    shared.forget()
    return {item.title: item for item in forsaken.items(workers.fleet(time.time()))}


def test_a_queue_that_no_worker_consumes_is_told_with_what_to_do() -> None:
    online(), task("a"), task("b"), task("mailed", queue="mail")
    (found,) = items().values()
    assert found.title == "No worker consumes ordres"
    assert "<b>2 tasks wait</b> in ordres, for 1" in found.text and "-Q ordres" in found.text
    assert (found.act, found.href, found.state) == ("Choose a worker", "/workers/", "failed")
    task("c", queue="<b>evil")
    (found,) = items().values()
    assert found.title == "No worker consumes 2 queues" and "<b>evil" not in found.text
    assert "; others in &lt;b&gt;evil. Add" in found.text


@pytest.mark.parametrize("why", ["young", "eta", "untold", "offline", "consumed", "started"])
def test_where_a_worker_may_take_it_nothing_is_told(why: str) -> None:
    row = online()
    one = task("a", ago=3.0 if why == "young" else 60.0)
    if why == "eta":
        one.eta = time.time() + 900
    elif why == "untold":
        online("new@h", queues=[], inspected_at=None)
    elif why == "offline":
        row.status = "offline"  # that no worker is online has a line of its own
    elif why == "consumed":
        row.queues = ["mail", "ordres"]
    elif why == "started":
        one.state = "STARTED"
    one.save(), row.save()
    assert items() == {}


def test_lost_tasks_are_told_until_they_are_run_again() -> None:
    now = time.time()
    online()
    task("a", "LOST", worker="w@h", note="worker lost", ended_at=now - 50, queue="mail")
    (found,) = items().values()
    assert found.title == "1 task was lost" and found.href == "/tasks/a/"
    assert found.text == "add on w@h: worker lost. Not run again."
    task("b", "LOST", worker="w@h", note="end not seen", ended_at=now - 40, ago=40, queue="mail")
    (found,) = items().values()
    assert found.title == "2 tasks were lost" and found.href == "/tasks/?state=LOST"
    assert "end not seen. Not run again, nor the others." in found.text
    record = ControlRecord.objects.create(at=now, sent_at=now, username="a", role="operator")
    for uuid in ("a", "b"):
        SentTask.objects.create(uuid=f"{uuid}2", of=uuid, name="x", queue="q", at=now, record=record)
    assert items() == {}


def test_what_is_long_past_or_told_with_its_worker_is_not_told_again() -> None:
    online(), online("gone@h", status="offline")
    task("old", "LOST", worker="w@h", ended_at=time.time() - 7200, queue="mail")
    task("away", "LOST", worker="gone@h", ended_at=time.time() - 50, queue="mail")
    assert items() == {}
