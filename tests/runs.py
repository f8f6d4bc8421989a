"""Stands in for the engine where a form sends a task."""

from __future__ import annotations

import re
import time
from typing import Any

from django.test import Client

from dashboard import access
from monitor.control import Actor, Command, Message, Refused
from monitor.models import ControlRecord, SentTask, Task

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


def signed_in(role: str = "operator", name: str = "", **options: Any) -> Client:
    client = Client(**options)
    client.force_login(access.create_user(name or role, role, "correct horse 9"))
    return client


def token(client: Client, path: str = RUN) -> str:
    return re.findall(r'name="token" value="([^"]+)"', client.get(path).content.decode())[0]


def task(uuid: str, state: str = "FAILURE", **more: Any) -> Task:
    fields = {"name": "shop.add", "queue": "mail", "args": "(1, 2)", "kwargs": "{}", "worker": "w@h"}
    return Task.objects.create(uuid=uuid, state=state, first_seen_at=1.0, seen_at=1.0, **(fields | more))
