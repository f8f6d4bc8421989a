"""Tasks sent from Umbel over RabbitMQ: confirmed by the broker, run, and no queue made without a word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from dashboard import access
from demo.valkey import Server
from monitor import broker as broker_module
from monitor import queues
from monitor.broker import Broker
from monitor.control import Command, Message, Refused, Unreachable, perform
from monitor.models import SentTask
from tests.clusters import proved
from tests.conftest import WorkerFactory, shop
from tests.engines import Start, engines
from tests.runs import OPERATOR, QUICK, RUN, ended, filled, known, wished

pytestmark = [pytest.mark.live, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def start() -> Iterator[Start]:
    with engines() as one:
        yield one


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(access.create_user("olga", "operator", "correct horse 9"))
    return client


def test_on_rabbitmq_it_is_confirmed_and_runs(
    rabbitmq: str, valkey: Server, worker: WorkerFactory, start: Start, operator: Client
) -> None:
    start(rabbitmq, result_backend=valkey.url, inspect_every=1.0)
    known(worker(rabbitmq, queues=("umbel.run",), backend=valkey.url, options=QUICK))
    form = filled(operator) | {"name": "shop.add", "args": "[20, 22]", "queue": "umbel.run"}
    answer = operator.post(RUN, form)
    assert answer.status_code == 302, answer.content.decode()
    sent = SentTask.objects.get()
    row = ended(sent.uuid, "SUCCESS")
    assert (row.result, row.queue) == ("42", "umbel.run") and row.sender.startswith("umbel")
    assert proved(sent.record).effect == "verified"
    # The failed one again: its arguments out of its events.
    old = str(shop(rabbitmq).send_task("shop.boom", ["gone"], queue="umbel.run").id)
    ended(old, "FAILURE")
    record = wished(old, "once")
    assert ended(record.targets[0], "FAILURE").exception == "ValueError('gone')"


def test_on_rabbitmq_a_queue_is_made_only_with_a_word(rabbitmq: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.control.performing.VERIFY_WITHIN", 3.0)
    broker_module.configure(Broker(rabbitmq))
    broker = broker_module.current()

    def command(uuid: str, **arguments: Any) -> Command:
        return Command(
            "send_task", (uuid,), arguments, messages=(Message(uuid, "shop.add", "umbel.new", [1, 2]),)
        )

    with pytest.raises(Refused, match=r"has no queue called 'umbel\.new'.*RabbitMQ would get a new one"):
        perform(command("rabbit-1"), OPERATOR)
    assert queues.depths(broker, ["umbel.new"])[0].waiting is None
    record = proved(perform(command("rabbit-2", despite=["new queue"]), OPERATOR))
    assert record.effect == "partly" and "no worker has told of it yet" in record.evidence
    assert queues.depths(broker, ["umbel.new"])[0].waiting == 1
    with broker.app.connection_for_write() as connection:
        connection.default_channel.queue_delete("umbel.new")
    # It went between the look and the sending: the broker gives the message back, and that is told.
    from monitor.control.orders import Order
    from monitor.control.runs import sending

    message = Message("rabbit-3", "shop.add", "umbel.new", [1, 2])
    order = Order(Command("send_task", ("rabbit-3",), messages=(message,)), [], {}, messages=(message,))
    with pytest.raises(Unreachable, match="gave the message back"):
        sending.send(order)
