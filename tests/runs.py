"""What tests of running tasks share: an engine of a stand-in, the form as a browser posts it, and waiting."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest
import redis
from django.test import Client

from dashboard import access
from demo.valkey import Server
from monitor import broker as broker_module
from monitor import control as engine
from monitor import models
from monitor.broker import Broker
from monitor.control import Actor, Command, Message, Refused, perform
from monitor.control.runs import again
from monitor.control.runs.originals import original
from monitor.models import ControlRecord, SentTask, Task
from tests.conftest import Worker, wait_until

QUICK = ("--heartbeat-interval", "1")
RUN, RETRY, FAILED = "/tasks/run/", "/tasks/retry/", "/tasks/run/failed/"
FORM = {"name": "shop.add", "args": "[1, 2]", "kwargs": "", "queue": "mail"}
OPERATOR = Actor(None, "ada", "operator")


class Sent:
    """Stands in for the engine: keeps the record and what would be sent."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.refuse = ""

    def __call__(self, command: Command, actor: Actor, **more: Any) -> ControlRecord:
        if self.refuse:
            raise Refused(self.refuse)
        now = time.time()
        record = ControlRecord.objects.create(
            at=now, user_id=actor.user_id, username=actor.username, role=actor.role, command=command.name,
            targets=list(command.targets), reason=command.reason, sent_at=now, answered_at=now,
        )  # fmt: skip
        for one in command.messages:
            SentTask.objects.create(
                uuid=one.uuid, of=one.of, name=one.name, queue=one.queue, source=one.source,
                edited=one.edited, eta=one.eta, expires=one.expires, record=record, at=now,
            )  # fmt: skip
        self.messages += command.messages
        return record


@pytest.fixture(autouse=True)
def shop_known(valkey: Server) -> Iterator[None]:
    """A broker, and one worker that has told its queues and names."""
    broker_module.configure(Broker(valkey.url))
    models.Worker.objects.create(
        hostname="w@h", status="online", pool="prefork", size=2, first_seen_at=1.0, queues=["mail"],
        details={"registered": ["shop.add", "shop.boom [rate_limit=10/m]"]},
    )  # fmt: skip
    yield
    broker_module.current().close()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    one = Sent()
    monkeypatch.setattr(engine, "perform", one)
    return one


def signed_in(role: str = "operator", name: str = "", **options: Any) -> Client:
    client = Client(**options)
    client.force_login(access.create_user(name or role, role, "correct horse 9"))
    return client


def token(client: Client, path: str = RUN) -> str:
    return re.findall(r'name="token" value="([^"]+)"', client.get(path).content.decode())[0]


def task(uuid: str, state: str = "FAILURE", **more: Any) -> Task:
    fields = {"name": "shop.add", "queue": "mail", "args": "(1, 2)", "kwargs": "{}", "worker": "w@h"}
    return Task.objects.create(uuid=uuid, state=state, first_seen_at=1.0, seen_at=1.0, **(fields | more))


# Live


def known(worker: Worker, *, names: bool = False) -> None:
    """The engine has heard what it consumes, and which names it knows."""
    from monitor import models

    told = models.Worker.objects.filter(hostname=worker.hostname, status="online")

    def is_known() -> bool:
        row = told.first()
        return bool(row and row.queues and (not names or row.details.get("registered")))

    wait_until(is_known, 30, what=f"{worker.hostname} to be known")


def ended(uuid: str, state: str) -> Task:
    found: Task = wait_until(
        lambda: Task.objects.filter(uuid=uuid, state=state).first(), 20, what=f"{uuid} to be {state}"
    )
    return found


def wished(uuid: str, wish: str) -> ControlRecord:
    """A task again, as the form and the acts send it: the same wish under the same id."""
    found = original(uuid)
    assert found is not None
    return perform(again.command_for([(found, again.identity(uuid, wish))]), OPERATOR)


def filled(client: Client, **given: str) -> dict[str, str]:
    """The form's own values as a browser would post them."""
    html = client.get(RUN, given).content.decode()
    values = {name: "" for name in ("args", "kwargs")}
    values["token"] = re.findall(r'name="token" value="([^"]+)"', html)[0]
    if "again" in given:
        values["again"] = given["again"]
    for name in ("name", "queue"):
        found = re.findall(rf'name="{name}"[^>]* value="([^"]*)"', html)
        values[name] = unescape(found[0]) if found else ""
    for name in ("args", "kwargs"):
        values[name] = unescape(re.findall(rf'<textarea[^>]* name="{name}"[^>]*>([^<]*)<', html)[0])
    values["priority"] = (re.findall(r'<option value="(\d)" selected', html) or [""])[0]
    return values


def messages(url: str, key: str) -> list[dict[str, Any]]:
    with redis.Redis.from_url(url) as client:
        return [json.loads(raw) for raw in client.lrange(key, 0, -1)]


def body(message: dict[str, Any]) -> list[Any]:
    found: list[Any] = json.loads(base64.b64decode(message["body"]))
    return found
