"""Where a task is still found after a command: what was not looked into is never said to be empty."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from celery import Celery

from demo.valkey import Server
from monitor import broker as brokers
from monitor import queues
from monitor.broker import Broker
from monitor.control import Command
from monitor.control.orders import Order
from monitor.control.revokes import places
from monitor.models import Task

pytestmark = pytest.mark.django_db


@pytest.fixture
def app(own_valkey: Server) -> Iterator[Celery]:
    brokers.configure(Broker(own_valkey.url))
    yield Celery("client", broker=own_valkey.url, set_as_current=False)
    brokers.current().close()


def place_of(uuid: str, queue: str) -> tuple[str, str, str]:
    now = time.time()
    Task.objects.create(uuid=uuid, state="PENDING", name="x", queue=queue, first_seen_at=now, seen_at=now)
    found = places.of(Order(Command("revoke", (uuid,)), [], {}), {})[uuid]
    return found["queue"], found["unacknowledged"], found.get("name", "")


def test_a_task_of_which_no_event_told_its_queue_is_looked_for_in_all(app: Celery) -> None:
    app.send_task("shop.add", queue="mail", task_id="there")
    assert place_of("there", "") == ("yes", "no", "mail")
    assert place_of("gone", "") == ("no", "no", "")


def test_where_no_queue_is_known_none_is_said_to_be_without_it(app: Celery) -> None:
    assert place_of("somewhere", "") == ("", "", "")


def test_past_the_bound_of_queues_it_is_not_said_to_be_in_none(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "MOST_QUEUES", 2)
    for queue in ("a", "b", "c"):
        app.send_task("shop.add", queue=queue, task_id=queue)
    assert place_of("somewhere", "") == ("", "", "")
