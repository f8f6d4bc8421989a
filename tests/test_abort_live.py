"""Abort: what is written into the result backend is what Celery writes, and only where no end is."""

from __future__ import annotations

import json
import time
from typing import Any
from uuid import uuid4

import pytest
import redis
from celery.contrib.abortable import AbortableAsyncResult

from monitor import broker as broker_module
from monitor.broker import Broker
from monitor.control.revokes.aborting import expires_of
from monitor.models import Task, Worker
from tests import clusters
from tests.clusters import (
    ON_EACH_POOL,
    POOLS,
    PREFORK,
    SOLO,
    Cluster,
    ask,
    every_pool,
    proved,
    refused,
    state_of,
)
from tests.conftest import wait_until

pytestmark = ON_EACH_POOL


@pytest.fixture
def told(cluster: Cluster, watched: Cluster) -> redis.Redis:
    clusters.told(*POOLS)
    return cluster.client


def key(uuid: str) -> str:
    return f"celery-task-meta-{uuid}"


@every_pool
def test_a_task_that_asks_stops_and_its_end_is_seen(cluster: Cluster, told: redis.Redis, worker: str) -> None:
    if worker == SOLO:
        # Its start is told when it has ended, so that Umbel never knows it to run.
        uuid = cluster.start("shop.patient", worker, 1)
        wait_until(lambda: state_of(uuid) == "PENDING", 5)
        assert refused("abort", uuid) == (
            f"shop.patient {uuid}: This task is not running: revoke it instead. Or it runs on {SOLO}: a solo "
            "worker tells of a task only when it has ended."
        )
        cluster.ended(uuid, "SUCCESS")
        assert json.loads(told.get(key(uuid)) or b"")["result"] == "whole"
        return
    uuid = cluster.running(worker, 30, name="shop.patient")
    record = ask("abort", uuid)
    assert record.replies == [
        {"worker": "the result backend", "outcome": "ok", "text": "ABORTED written for 1"}
    ]
    record = proved(record)
    assert (record.effect, record.evidence) == (
        "verified",
        "the result backend answered. It ended: SUCCESS.",
    )
    assert json.loads(told.get(key(uuid)) or b"")["result"] == "stopped midway"


@every_pool
def test_a_task_that_would_never_ask_or_has_ended_is_refused(
    cluster: Cluster, told: redis.Redis, worker: str
) -> None:
    with cluster.busy(worker, 1) as (uuid,):
        if worker == SOLO:
            wait_until(lambda: state_of(uuid) == "PENDING", 5)
        no = f"shop.gated is no AbortableTask on {worker}: it would never ask."
        assert (f"runs on {SOLO}" if worker == SOLO else no) in refused("abort", uuid)
        assert told.get(key(uuid)) is None
    assert refused("abort", uuid) == f"shop.gated {uuid}: This task has already ended."


def test_what_is_written_is_what_celery_writes(cluster: Cluster, told: redis.Redis) -> None:
    theirs, ours = "11111111-aaaa", "22222222-bbbb"
    AbortableAsyncResult(theirs, app=cluster.app).abort()
    now = time.time()
    Task.objects.create(
        uuid=ours, name="shop.patient", state="STARTED", worker=PREFORK, first_seen_at=now, seen_at=now
    )
    heard = told.pubsub()
    heard.subscribe(key(ours))
    assert heard.get_message(timeout=5)
    ask("abort", ours)
    written: Any = told.get(key(ours))
    assert written == (told.get(key(theirs)) or b"").replace(theirs.encode(), ours.encode())
    # The shop keeps results for 600 s; who waits for the result is told.
    assert 590 < told.ttl(key(ours)) <= 600
    message = wait_until(lambda: heard.get_message(timeout=1), 5)
    assert message["data"] == written
    heard.close()
    assert AbortableAsyncResult(ours, app=cluster.app).is_aborted()
    Task.objects.filter(uuid=ours).update(state="SUCCESS")  # nobody runs it: nothing more is to be seen


def test_a_key_that_is_there_keeps_its_time_to_live(cluster: Cluster, told: redis.Redis) -> None:
    nobodys = str(uuid4())  # a task would end when it asks, and its worker write an end with another time
    told.set(key(nobodys), '{"status": "STARTED", "result": null}', ex=777)
    assert broker_module.current().abort(nobodys, 60) == "ABORTED"
    assert 600 < told.ttl(key(nobodys)) <= 777


def test_an_end_is_never_overwritten(cluster: Cluster, told: redis.Redis) -> None:
    uuid = cluster.running(PREFORK, 1, name="shop.patient")
    told.set(key(uuid), '{"status": "FAILURE", "result": null}')
    assert "the result backend says FAILURE" in refused("abort", uuid)
    assert broker_module.current().abort(uuid, 60) == "FAILURE"
    assert json.loads(told.get(key(uuid)) or b"")["status"] == "FAILURE"
    wait_until(lambda: state_of(uuid) == "SUCCESS", 10)
    assert "already ended" in refused("abort", uuid)


def test_it_is_refused_where_it_would_do_nothing(cluster: Cluster, told: redis.Redis) -> None:
    waiting = str(cluster.app.send_task("shop.patient", (1,), queue="nobody").id)
    wait_until(lambda: state_of(waiting) == "PENDING", 10)
    assert "not running: revoke it instead" in refused("abort", waiting)
    assert "was ever seen" in refused("abort", "00000000-none")
    with cluster.busy(PREFORK, 1) as (uuid,):
        assert f"shop.gated is no AbortableTask on {PREFORK}" in refused("abort", uuid)
        broker_module.configure(Broker(cluster.url))
        assert "No result backend is set" in refused("abort", uuid)
        assert told.get(key(uuid)) is None
        broker_module.configure(Broker(cluster.url, result_backend="redis://:pw-secret@127.0.0.1:1/0"))
        Worker.objects.update(details={})
        assert "cannot be reached" in (said := refused("abort", uuid)) and "pw-secret" not in said
        broker_module.configure(Broker(cluster.url))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(600, 600), (None, 0), ("1 day, 0:00:00", 86_400), ("2:30:00", 9_000), (True, 86_400), ("soon", 86_400)],
)
def test_how_long_a_result_is_kept_is_read_from_the_workers_settings(value: Any, seconds: int) -> None:
    worker = Worker.objects.get(hostname=PREFORK)
    worker.details = {"conf": {"result_expires": value}}
    assert expires_of(worker) == seconds
    assert expires_of(None) == 86_400
