"""Purge of a queue: asked first, typed to confirm, counted before and after, on real brokers."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from django.test import Client
from django.urls import reverse

from dashboard import access
from demo.valkey import Server
from monitor import broker as broker_module
from monitor import queues
from monitor.broker import Broker
from monitor.control import Actor, Command, Refused, perform
from monitor.models import ControlRecord, Task, Worker
from tests.conftest import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

OPERATOR = Actor(None, "ada", "operator")
URL = "/queues/purge/"


def filled(url: str, queue: str, count: int, **conf: Any) -> Celery:
    app = Celery("client", broker=url, set_as_current=False)
    app.conf.update(conf)
    with app.producer_pool.acquire(block=True) as producer:
        for number in range(count):
            app.send_task("shop.add", (1, 2), queue=queue, priority=number % 10, producer=producer)
    broker_module.configure(Broker(url))
    wait_until(lambda: waiting(queue) == count, 10)
    return app


def waiting(queue: str) -> int | None:
    return queues.depths(broker_module.current(), [queue])[0].waiting


def proved(record: ControlRecord) -> ControlRecord:
    wait_until(lambda: ControlRecord.objects.get(pk=record.pk).completed_at, 15)
    return ControlRecord.objects.get(pk=record.pk)


@pytest.mark.live
def test_a_queue_with_priorities_is_emptied_and_counted_on_redis(valkey: Server) -> None:
    filled(valkey.url, "bulk", 240)
    filled(valkey.url, "other", 3)
    record = proved(perform(Command("purge", ("bulk",), {"count": 238}), OPERATOR))
    assert (record.effect, record.arguments) == ("verified", {"count": 240})
    assert record.evidence == "The broker answered. 240 messages deleted; none waits now."
    assert (waiting("bulk"), waiting("other")) == (0, 3)
    with pytest.raises(Refused, match="'bulk' is empty"):
        perform(Command("purge", ("bulk",)), OPERATOR)


@pytest.mark.live
def test_a_queue_is_emptied_and_counted_on_rabbitmq(rabbitmq: str) -> None:
    filled(rabbitmq, "umbel.bulk", 40)
    record = proved(perform(Command("purge", ("umbel.bulk",), {"count": 40}), OPERATOR))
    assert record.effect == "verified", record.evidence
    assert "40 messages deleted; none waits now." in record.evidence
    with pytest.raises(Refused, match="or has no such queue"):
        perform(Command("purge", ("umbel.nowhere",)), OPERATOR)


def test_a_queue_that_is_not_what_was_shown_is_left_alone(valkey: Server) -> None:
    filled(valkey.url, "grown", 150)
    with pytest.raises(Refused, match="150 messages wait in 'grown' now, and you were shown 4"):
        perform(Command("purge", ("grown",), {"count": 4}), OPERATOR)
    assert waiting("grown") == 150


def test_what_celery_keeps_for_itself_is_not_purged(own_valkey: Server) -> None:
    broker = Broker(own_valkey.url)
    broker_module.configure(broker)
    for key in ("unacked", "umbel.unacked", "x.reply.celery.pidbox"):
        broker.client().lpush(key, "held")
        with pytest.raises(Refused, match=r"uses for itself.* Nothing was deleted"):
            perform(Command("purge", (key,)), OPERATOR)
        assert broker.client().llen(key) == 1


def test_a_broker_that_is_away_deletes_nothing_and_it_is_said() -> None:
    broker_module.configure(Broker("redis://:pw-of-broker@127.0.0.1:1/0"))
    with pytest.raises(Refused, match="Nothing was sent") as refusal:
        perform(Command("purge", ("bulk",)), OPERATOR)
    assert "pw-of-broker" not in str(refusal.value)


@pytest.mark.parametrize("name", ["", "a\nb", "q" * 256])
def test_what_is_no_queue_is_refused(name: str) -> None:
    with pytest.raises(Refused, match="is not the name of a queue"):
        perform(Command("purge", (name,)), OPERATOR)


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(access.create_user("olga", "operator", "correct horse 9"))
    return client


def test_the_dialog_tells_what_goes_and_what_stays(operator: Client, valkey: Server) -> None:
    filled(valkey.url, "mail", 12)
    for number in range(3):
        related = {"root_id": "r", "parent_id": "r"} if number else {"root_id": f"t{number}"}
        Task.objects.create(
            uuid=f"t{number}", state="PENDING", queue="mail", first_seen_at=1.0, seen_at=1.0, **related
        )
    Task.objects.create(uuid="run", state="STARTED", queue="mail", first_seen_at=1.0, seen_at=1.0)
    Worker.objects.create(hostname="w1@h", status="online", queues=["mail"], first_seen_at=1.0)
    html = operator.get(URL, {"queue": "mail"}).content.decode()
    assert "12 waiting messages are deleted" in html
    assert "Of the last 3 waiting tasks that Umbel knows, 2 belong" in html
    assert "1 running and 0 reserved tasks of this queue on w1@h" in html
    fragment = operator.get(URL, {"queue": "mail"}, headers={"HX-Request": "true"}).content.decode()
    assert fragment.startswith("<dialog") and 'name="count" value="12"' in fragment
    html = operator.get(URL, {"queue": "<b>nothing"}).content.decode()
    assert "there is nothing to purge" in html and "<b>nothing" not in html
    assert "Purge 0" not in html


def test_only_the_typed_name_purges(operator: Client, valkey: Server) -> None:
    filled(valkey.url, "news", 5)
    answer = operator.post(URL, {"queue": "news", "typed": "New", "count": "5"})
    assert answer.status_code == 409 and "type the queue’s name" in answer.content.decode().replace(
        "&#x27;", "’"
    )
    assert "Purge the news queue?" in operator.post(URL, {"queue": "news"}).content.decode()
    assert waiting("news") == 5
    answer = operator.post(URL, {"queue": "news", "typed": "news", "count": "5", "reason": "sent twice"})
    assert answer.status_code == 302
    record = proved(ControlRecord.objects.get(command="purge", sent_at__isnull=False))
    assert (record.effect, record.reason, record.targets) == ("verified", "sent twice", ["news"])
    html = operator.get(reverse("control-record", args=[record.pk])).content.decode()
    assert "news: purged, verified" in html


def test_nobody_else_purges(client: Client, valkey: Server, settings: Any) -> None:
    filled(valkey.url, "kept", 2)
    data = {"queue": "kept", "typed": "kept", "count": "2"}
    assert client.post(URL, data).status_code in (302, 401)
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    assert client.post(URL, data).status_code == 403
    assert client.get(URL, data).status_code == 403
    client.force_login(access.create_user("olga", "operator", "correct horse 9"))
    settings.UMBEL_READ_ONLY = True
    assert client.post(URL, data).status_code == 403
    assert waiting("kept") == 2
