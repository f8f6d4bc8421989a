"""What tests of permissions share: a person of each role, an engine that only notes, a worker, tasks."""

from __future__ import annotations

import time

import pytest
from django.test import Client

from dashboard import access
from monitor import control as engine
from monitor.models import Task, Worker
from tests.test_task_controls import Sent

PASSWORD = "correct horse 9"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    sent = Sent()
    monkeypatch.setattr(engine, "perform", sent)
    return sent


@pytest.fixture
def people() -> dict[str, Client]:
    found = {}
    for role in access.ROLES:
        # What would go on to a broker fails here: it was let through.
        found[role] = Client(raise_request_exception=False)
        found[role].force_login(access.create_user(role, role, PASSWORD))
    return found


@pytest.fixture
def worker() -> Worker:
    return Worker.objects.create(
        pk=1,
        hostname="w@h",
        status="online",
        pool="prefork",
        size=4,
        queues=["mail", "celery"],
        first_seen_at=1,
    )


def waiting(*uuids: str) -> None:
    for uuid in uuids:
        Task.objects.create(
            uuid=uuid, state="RECEIVED", name="shop.nap", first_seen_at=1, seen_at=time.time()
        )
