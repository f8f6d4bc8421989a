"""Waiting tasks that are nowhere any more: purged by Umbel, or by someone else; and those that seem so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from monitor import models
from monitor.control import Actor, Command, perform
from monitor.engine import gone
from tests.conftest import never, shop, wait_until
from tests.engines import Start, engines

pytestmark = [pytest.mark.live, pytest.mark.django_db(transaction=True)]

OPERATOR = Actor(None, "ada", "operator")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """One that looks soon."""
    for name, seconds in (("EVERY", 0.5), ("SETTLED", 1.0), ("APART", 1.0), ("SELDOM", 1.0)):
        monkeypatch.setattr(gone, name, seconds)
    with engines() as start:
        yield start


def sent(url: str, queue: str, **options: Any) -> str:
    return str(shop(url).send_task("shop.add", [1, 2], queue=queue, **options).id)


def row(uuid: str) -> tuple[str, str]:
    return models.Task.objects.values_list("state", "note").get(uuid=uuid)


def waits(*uuids: str) -> None:
    wait_until(lambda: models.Task.objects.filter(uuid__in=uuids, state="PENDING").count() == len(uuids), 10)


def test_purged_tasks_are_said_to_be_purged_and_by_whom(own_valkey: Any, engine: Start) -> None:
    url = own_valkey.url
    engine(url)
    uuids = [sent(url, "old", priority=n) for n in (0, 5)]
    kept = sent(url, "kept")
    waits(*uuids, kept)
    perform(Command("purge", ("old",), {"count": 2}), OPERATOR)
    later = sent(url, "old")
    for uuid in uuids:
        wait_until(lambda uuid=uuid: row(uuid)[0] == "LOST", 15)
        assert row(uuid)[1].startswith("purged by ada at ")
    assert models.Task.objects.get(uuid=uuids[0]).known == "inferred"
    never(lambda: row(kept)[0] != "PENDING" or row(later)[0] != "PENDING", 2)


def test_what_someone_else_deleted_is_found_out(own_valkey: Any, worker: Any, engine: Start) -> None:
    url = own_valkey.url
    engine(url)
    worker(url, queues=("celery",))
    ran = sent(url, "celery")
    wait_until(lambda: models.TaskType.objects.filter(name="shop.add", runs__gt=0).exists(), 15)
    uuids = [sent(url, "side"), sent(url, "side")]
    waits(*uuids)
    client = redis.Redis.from_url(url)
    client.lpop("side")
    client.close()
    wait_until(lambda: "LOST" in {row(uuid)[0] for uuid in uuids}, 20)
    states = sorted(row(uuid) for uuid in uuids)
    assert states == [
        ("LOST", "gone from its queue: deleted, or taken unheard"),
        ("PENDING", ""),
    ]
    assert row(ran)[0] == "SUCCESS"


def test_a_task_that_a_worker_holds_or_that_tells_nothing_is_not_called_gone(
    own_valkey: Any, worker: Any, engine: Start
) -> None:
    url = own_valkey.url
    engine(url)
    # Nobody has ever heard a run of this name.
    silent = str(shop(url).send_task("shop.mute", [1], queue="celery").id)
    wait_until(lambda: models.Task.objects.filter(uuid=silent).exists(), 10)
    held = sent(url, "celery", countdown=60)
    one = worker(url, queues=("celery",))
    wait_until(lambda: row(held)[0] == "RECEIVED", 15)
    wait_until(lambda: models.Worker.objects.filter(hostname=one.hostname, inspected_at__gt=0).exists(), 15)
    never(lambda: row(silent)[0] == "LOST" or row(held)[0] == "LOST", 4)
