"""What the engine refuses to send, where a task would go, and what became of one that was sent."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from demo.valkey import Server
from monitor import broker as broker_module
from monitor.broker import Broker
from monitor.control import Actor, Command, Message, Refused, perform
from monitor.control.orders import Order
from monitor.control.runs.arriving import arrived
from monitor.control.runs.originals import agrees, original
from monitor.control.runs.routes import reserved, route
from monitor.models import SentTask, Worker
from tests.runs import OPERATOR, task
from tests.runs import sent as sent
from tests.runs import shop_known as shop_known

pytestmark = pytest.mark.django_db


def test_the_engine_itself_sends_nothing_under_a_known_id_or_out_of_bounds() -> None:
    task("known")

    def refusal(**given: Any) -> str:
        fields: dict[str, Any] = {"uuid": "new", "name": "shop.add", "queue": "mail"} | given
        message = Message(**fields)
        with pytest.raises(Refused) as refused:
            perform(Command("send_task", (message.uuid,), messages=(message,)), OPERATOR)
        return str(refused.value)

    assert "There is a task known already" in refusal(uuid="known")
    assert "'' is not the name of a task" in refusal(name="")
    assert "is not the name of a queue" in refusal(queue="a\nb")
    assert "more than a year away" in refusal(eta=float("inf"))
    assert "expire before it starts" in refusal(expires=time.time() - 5)
    assert "nested deeper" in refusal(args=json.loads("[" * 40 + "]" * 40))
    assert "what Umbel hides" in refusal(kwargs={"password": "[hidden]"})
    assert "priority" in refusal(priority=-1)
    with pytest.raises(Refused, match="No task was given"):
        perform(Command("send_task", ("new",)), OPERATOR)
    with pytest.raises(Refused, match="needs the operator role"):
        perform(Command("send_task", ("new",)), Actor(None, "vera", "viewer"))
    assert not SentTask.objects.exists()


def test_a_route_says_who_consumes_and_who_knows_the_name() -> None:
    Worker.objects.create(hostname="x@h", status="online", first_seen_at=1.0, queues=["mail"])
    Worker.objects.create(hostname="off@h", status="offline", first_seen_at=1.0, queues=["mail", "old"])
    good = route("shop.add", "mail")
    assert (good.consumers, good.knowing, good.warnings) == (("w@h", "x@h"), ("w@h",), {})
    # x@h has not said what it knows.
    (text,) = route("shop.nobody", "mail").warnings.values()
    assert "not registered on w@h; what 1 more has is not known" in text
    assert list(route("shop.add", "nowhere").warnings) == ["new queue"]
    task("once", queue="old")
    assert list(route("shop.add", "old").warnings) == ["no consumer"]


def test_what_a_sender_shows_in_place_of_arguments_is_told_from_the_arguments() -> None:
    assert agrees("(1, 'a')", [1, "a"]) and agrees("[1, 'a']", [1, "a"]) and agrees(None, [1])
    assert agrees("{'password': '[hidden]'}", {"password": "hunter2"})
    assert agrees("(datetime.date(2026, 1, 2),)", [{"__type__": "date", "__value__": "2026-01-02"}])
    assert agrees(f"('{'x' * 1024}...',)", ["x" * 5000])
    assert not agrees("('***', 'a')", ["4111", "a"])
    assert not agrees("<order 5>", [{"card": "4111"}])
    assert not agrees("", [1])
    assert not agrees("...", ["secret"])
    assert not agrees("(1,)", [2])


def test_a_queue_that_no_event_told_is_that_of_a_worker_with_one() -> None:
    task("one", queue="")
    found = original("one")
    assert found is not None and found.queue == "mail" and not found.why
    Worker.objects.filter(hostname="w@h").update(queues=["mail", "more"])
    found = original("one")
    assert found is not None and "queue it was sent to is not known" in found.why


@pytest.mark.parametrize(
    ("row", "seen", "text"),
    [
        ({"state": "SUCCESS", "started_at": 5.0}, True, "It ran on w@h: SUCCESS."),
        ({"state": "FAILURE"}, True, "It ended before it began: FAILURE."),
        ({"state": "STARTED"}, True, "It runs on w@h."),
        ({"state": "RECEIVED"}, True, "w@h has taken it."),
        ({"state": "RETRY"}, True, "w@h has taken it: RETRY."),
        ({"state": "REVOKED", "expired": True}, False, "It expired before it was run."),
        ({"state": "REVOKED"}, False, "A worker skipped it: it is revoked."),
        ({"state": "PENDING", "worker": ""}, None, "No event of it has come yet."),
    ],
)
def test_what_became_of_a_sent_task_is_told_by_its_row(
    row: dict[str, Any], seen: bool | None, text: str
) -> None:
    message = Message("sent", "shop.add", "mail")
    order = Order(Command("send_task", ("sent",), messages=(message,)), [], {}, messages=(message,))
    task("sent", **row)
    (finding,) = arrived(order, time.time(), {})
    assert (finding.as_dict()["seen"], finding.text) == (seen, text)


@pytest.mark.live
def test_no_task_is_sent_to_a_key_that_celery_or_umbel_keeps_for_itself(own_valkey: Server) -> None:
    broker = Broker(own_valkey.url, key_prefix="shop:", transport_options={"unacked_index_key": "mine"})
    broker_module.configure(broker)
    broker.client().hset("shop:prices", "apple", "1")
    task("old", queue="unacked")  # any client may tell of a queue of that name

    def refusal(queue: str) -> str:
        message = Message("new", "shop.add", queue)
        with pytest.raises(Refused) as refused:
            perform(Command("send_task", ("new",), {"despite": ["new queue"]}, messages=(message,)), OPERATOR)
        return str(refused.value)

    own = ("unacked", "mine", "unacked_mutex", "_kombu.binding.mail", "celeryev", "celeryev.x", "x.y.pidbox")
    for queue in (*own, "umbel.unacked", "celery-task-meta-1", "umbel.0.asgi:group:umbel"):
        assert "uses for itself" in refusal(queue), queue
    assert "'prices' is a key of the broker that holds something else (hash)" in refusal("prices")
    assert [key for key in broker.client().keys("*") if b"_kombu" not in key] == [b"shop:prices"]
    assert not SentTask.objects.exists()
    # Names that only look like them are queues, and on RabbitMQ no key is in the way.
    assert not reserved(broker, "celeryevents") and not reserved(broker, "unacked_mail")
    assert not reserved(Broker("amqp://guest@127.0.0.1:1//"), "unacked")
    assert reserved(Broker("amqp://guest@127.0.0.1:1//"), "celeryev.1")
