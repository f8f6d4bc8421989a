"""The engine on a real broker with real workers, through what goes wrong in life."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery.result import AsyncResult

from monitor import models
from tests.conftest import shop, wait_until
from tests.engines import Start, engines, feed

pytestmark = [pytest.mark.live, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def engine() -> Iterator[Start]:
    with engines() as start:
        yield start


def states() -> dict[str, str]:
    return dict(models.Task.objects.values_list("uuid", "state"))


def sent(url: str, name: str, *args: Any, **options: Any) -> str:
    result: AsyncResult[Any] = shop(url).send_task(name, list(args), **options)
    return str(result.id)


def test_tasks_of_a_real_worker_end_up_right(own_valkey: Any, worker: Any, engine: Start) -> None:
    url = own_valkey.url
    engine(url)
    one = worker(url, name="fair")
    ends = {
        sent(url, "shop.add", 1, 2): "SUCCESS",
        sent(url, "shop.boom", "no"): "FAILURE",
        sent(url, "shop.flaky", 2, 0.1): "SUCCESS",
        sent(url, "shop.nap", 30, countdown=300): "RECEIVED",
        sent(url, "shop.add", 1, 2, queue="nobody"): "PENDING",
    }
    wait_until(lambda: states() == ends, 30, what=f"{ends} (is {states()})")
    flaky = models.Task.objects.get(name="shop.flaky")
    assert (flaky.retries, len(flaky.attempts), flaky.result) == (2, 3, "2")
    seen = wait_until(lambda: models.Worker.objects.filter(hostname=one.hostname, size=2).first())
    assert (seen.status, seen.pool, seen.queues) == ("online", "prefork", ["celery"])
    wait_until(lambda: feed().accounting.received >= 15)
    assert feed().accounting.balanced
    assert feed().accounting.missed == 0
    assert models.TaskType.objects.get(name="shop.add").runs == 1


def test_a_killed_worker_is_offline_and_its_tasks_are_lost(
    own_valkey: Any, worker: Any, engine: Start
) -> None:
    url = own_valkey.url
    engine(url)
    one = worker(url, name="doomed")
    running = sent(url, "shop.nap", 120)
    wait_until(lambda: states().get(running) == "STARTED")
    one.kill()
    wait_until(lambda: models.Worker.objects.filter(hostname=one.hostname, status="offline").exists(), 20)
    wait_until(lambda: states()[running] == "LOST", 20)
    assert models.Task.objects.get(uuid=running).note == "worker lost"


def test_a_new_engine_finds_what_runs_and_what_waits_for_its_time(
    own_valkey: Any, worker: Any, engine: Start
) -> None:
    url = own_valkey.url
    worker(url, name="steady")
    first = engine(url)
    ended = sent(url, "shop.nap", 1.5)
    running = sent(url, "shop.nap", 60)
    wait_until(lambda: states() == {ended: "STARTED", running: "STARTED"})
    first.stop()
    eta = sent(url, "shop.nap", 1, countdown=600)
    backend = AsyncResult(ended, app=shop(url))
    wait_until(lambda: backend.state == "SUCCESS", 20)
    engine(url)
    wait_until(lambda: states().get(eta) == "RECEIVED", 20, what="the ETA task that was never heard of")
    wait_until(lambda: states()[ended] == "SUCCESS", 20, what="the end that was missed")
    row = models.Task.objects.get(uuid=ended)
    assert (row.known, row.note) == ("inferred", "end read from the result backend")
    assert states()[running] == "STARTED"
    assert models.Gap.objects.get().reason == "Umbel was not running"


def test_after_a_broker_restart_no_task_stays_as_it_was(own_valkey: Any, worker: Any, engine: Start) -> None:
    url = own_valkey.url
    engine(url, end_grace=4.0)
    one = worker(url, name="patient")
    quick = [sent(url, "shop.nap", 2.0) for _ in range(2)]
    wait_until(lambda: [states().get(uuid) for uuid in quick] == ["STARTED"] * 2)
    own_valkey.restart(down=3.0)
    wait_until(lambda: not feed().connected or models.Gap.objects.exists(), 10)
    wait_until(lambda: models.Gap.objects.filter(ended_at__isnull=False).exists(), 20, what="the gap's end")
    wait_until(
        lambda: models.Worker.objects.filter(hostname=one.hostname, status="online").exists(),
        40,
        what="the worker",
    )
    wait_until(
        lambda: all(states()[uuid] in ("SUCCESS", "LOST", "FAILURE") for uuid in quick),
        40,
        what=f"an end of {[states()[uuid] for uuid in quick]}",
    )
    began = time.time()
    after = sent(url, "shop.add", 1, 1)
    wait_until(lambda: states().get(after) == "SUCCESS", 20)
    assert time.time() - began < 20
    assert feed().accounting.balanced


def test_without_a_result_backend_the_end_was_not_seen(own_valkey: Any, worker: Any, engine: Start) -> None:
    url = own_valkey.url
    worker(url, name="quiet")
    first = engine(url)
    task = sent(url, "shop.nap", 1.0)
    wait_until(lambda: states().get(task) == "STARTED")
    first.stop()
    wait_until(lambda: AsyncResult(task, app=shop(url)).state == "SUCCESS", 20)
    engine(url, result_backend=None, end_grace=2.0)
    wait_until(lambda: states()[task] == "LOST", 30)
    assert models.Task.objects.get(uuid=task).note == "end not seen"
