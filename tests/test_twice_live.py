"""A task that Redis hands out again while it runs, on real workers with a short visibility timeout."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from monitor import models
from monitor.cluster.twice import twice
from monitor.store import task_record
from tests.conftest import shop, wait_until
from tests.engines import Start, engines, feed

pytestmark = [pytest.mark.live, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setenv("SHOP_VISIBLE", "4")
    with engines() as start:
        yield start


def test_a_late_acknowledged_task_that_outruns_the_timeout_is_seen_to_run_twice(
    own_valkey: Any, worker: Any, engine: Start
) -> None:
    url = own_valkey.url
    engine(url)
    worker(url, queues=("celery",), name="first", concurrency=1)
    uuid = str(shop(url).send_task("shop.late", [40], queue="celery").id)
    wait_until(lambda: models.Task.objects.filter(uuid=uuid, state="STARTED").exists(), 15)
    wait_until(lambda: models.Worker.objects.get(hostname__startswith="first").details.get("conf"), 20)
    told = models.Worker.objects.get(hostname__startswith="first").details["conf"]
    assert told["broker_transport_options"]["visibility_timeout"] == 4
    received = models.Task.objects.get(uuid=uuid).received_at or 0.0
    wait_until(lambda: time.time() > received + 5, 10)
    # A consumer that begins looks at once for what is overdue.
    worker(url, queues=("celery",), name="second", concurrency=1)
    wait_until(lambda: twice(task_record(models.Task.objects.get(uuid=uuid))), 60)
    (noted,) = wait_until(lambda: feed().twice, 10)
    assert noted.uuid == uuid and noted.together
    assert [name.partition("@")[0] for name in noted.workers] == ["first", "second"]
