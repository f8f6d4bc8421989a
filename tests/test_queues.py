"""Depths, waiting and unacknowledged messages, and results, read off real brokers without moving anything."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from celery import Celery

from demo.valkey import Server
from monitor import queues, results
from monitor.broker import Broker

pytestmark = pytest.mark.live


@pytest.fixture
def broker(own_valkey: Server) -> Iterator[Broker]:
    one = Broker(own_valkey.url, result_backend=own_valkey.url)
    yield one
    one.close()


def client_of(broker: Broker, **conf: Any) -> Celery:
    app = Celery("sender", broker=broker.url, set_as_current=False)
    app.conf.update(broker_transport_options={"global_keyprefix": broker.key_prefix}, **conf)
    return app


def everything(client: redis.Redis) -> dict[bytes, Any]:
    found: dict[bytes, Any] = {}
    keys: Any = client.keys("*")
    for key in keys:
        kind = client.type(key)
        found[key] = client.lrange(key, 0, -1) if kind == b"list" else client.dump(key)
    return found


def test_waiting_messages_of_every_priority_are_found_with_their_headers_and_stay(broker: Broker) -> None:
    app = client_of(broker)
    sent = {
        app.send_task("shop.add", [1, n], queue="q1", priority=n, countdown=3600 if n == 3 else None).id: n
        for n in (0, 3, 6, 9)
    }
    other = app.send_task("shop.pay", [], {"password": "hunter2", "n": 1}, queue="q2").id
    app.send_task("shop.add", queue="not asked for")
    before = everything(broker.client())
    look = queues.messages(broker, ["q1", "q2", "q3"])
    assert everything(broker.client()) == before
    assert (look.unread, look.cut) == (0, False)
    found = {one.uuid: one for one in look.found}
    assert set(found) == {*sent, other}
    for uuid, n in sent.items():
        one = found[uuid]
        assert (one.name, one.queue, one.where, one.args) == ("shop.add", "q1", "queue", f"[1, {n}]")
        assert (one.root_id, one.retries, bool(one.sender)) == (uuid, 0, True)
        assert (one.eta is not None) == (n == 3)
    assert "hunter2" not in repr(look)
    depths = {depth.name: depth.waiting for depth in queues.depths(broker, ["q1", "q2", "q3"])}
    assert depths == {"q1": 4, "q2": 1, "q3": 0}


def test_what_a_worker_took_and_has_not_acknowledged_is_found(broker: Broker, worker: Any) -> None:
    app = client_of(broker)
    worker(broker.url, name="holder", queues=("held",))
    late = app.send_task("shop.late", [60], queue="held").id
    eta = app.send_task("shop.nap", [1], queue="held", countdown=3600).id
    deadline = time.monotonic() + 30
    while True:
        look = queues.messages(broker, ["held"])
        found = {one.uuid: (one.where, one.queue, one.name) for one in look.found}
        if set(found) == {late, eta} and {where for where, _, _ in found.values()} == {"unacknowledged"}:
            break
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    assert found[late] == ("unacknowledged", "held", "shop.late")


def test_a_key_prefix_is_respected(own_valkey: Server) -> None:
    broker = Broker(own_valkey.url, key_prefix="acme:")
    uuid = client_of(broker).send_task("shop.add", queue="q1").id
    assert [one.uuid for one in queues.messages(broker, ["q1"]).found] == [uuid]
    assert [depth.waiting for depth in queues.depths(broker, ["q1"])] == [1]
    broker.close()


def test_broken_entries_are_counted_and_a_look_is_bounded(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = broker.client()
    broken = [
        "",
        "[]",
        "7",
        "{}",
        '{"headers": 5}',
        '{"headers": {"id": 5}}',
        '{"headers": {"id": ""}}',
        "[" * 9_000,
    ]
    broken += ['{"headers": {"id": "x"}', b"\xff\xfe", '{"headers": null, "body": "x"}']
    client.rpush("q1", *broken)
    good = {"id": "g\x00od", "task": 5, "eta": "never", "retries": "9", "argsrepr": "x" * 100_000}
    client.rpush("q1", json.dumps({"headers": good, "body": "x" * 50_000}))
    client.hset("unacked", mapping={"1": "5", "2": "[]", "3": '[{"headers": {"id": "u"}}]'})
    look = queues.messages(broker, ["q1"])
    assert (look.unread, look.cut) == (len(broken) + 3, False)
    (one,) = look.found
    assert (one.uuid, one.name, one.eta, one.retries) == ("g\ufffdod", "", None, 0)
    assert len(one.args or "") < 20_000
    client.rpush("q2", *[json.dumps({"headers": {"id": f"u{n}"}, "body": "y" * 100_000}) for n in range(100)])
    monkeypatch.setattr(queues, "MOST_BYTES", 3_000_000)
    look = queues.messages(broker, ["q2"])
    assert look.cut
    assert 10 <= len(look.found) < 60
    client.lpush("not a list", "x")
    client.set("q3", "a string")
    with pytest.raises(redis.ResponseError):
        queues.messages(broker, ["q3"])
    assert [depth.waiting for depth in queues.depths(broker, ["q3", "q2"])] == [None, 100]


def test_the_depth_of_a_queue_on_rabbitmq_is_asked_without_making_it(rabbitmq: str) -> None:
    broker = Broker(rabbitmq)
    app = Celery("sender", broker=rabbitmq, set_as_current=False)
    for _ in range(3):
        app.send_task("shop.add", queue="depth.test")
    found = [queues.Depth("depth.test", 3, 0), queues.Depth("depth.none", None)]
    for _ in range(2):
        assert queues.depths(broker, ["depth.test", "depth.none"]) == found
    assert queues.messages(broker, ["depth.test"]) == queues.Look()
    broker.close()


# results


def store(client: redis.Redis, uuid: str, at: float, prefix: str = "", **fields: Any) -> None:
    done = datetime.fromtimestamp(at, UTC).isoformat()
    meta = {
        "status": "SUCCESS",
        "result": 3,
        "traceback": None,
        "children": [],
        "date_done": done,
        "task_id": uuid,
    }
    client.set(f"{prefix}celery-task-meta-{uuid}", json.dumps(meta | fields))


@pytest.mark.parametrize(("prefix", "on_wire"), [("", ""), ("acme", "acme_"), ("a*[b]:", "a*[b]:")])
def test_a_search_finds_the_ends_of_a_time_that_nobody_knows(
    own_valkey: Server, prefix: str, on_wire: str
) -> None:
    broker = Broker(own_valkey.url, result_backend=own_valkey.url, result_key_prefix=prefix)
    client = broker.client()
    for n in range(1_200):
        store(client, f"old-{n}", 1_000.0 + n, on_wire)
    for n in range(30):
        store(client, f"new-{n}", 1_000_000.0 + n, on_wire)
    store(
        client,
        "failed",
        1_000_010.5,
        on_wire,
        status="FAILURE",
        result={"exc_type": "E", "exc_message": ["no"]},
    )
    store(client, "running", 1_000_010.5, on_wire, status="STARTED")
    store(client, "elsewhere", 1_000_010.5, "abc:")
    client.set(f"{on_wire}celery-task-meta-broken", "{")
    client.set(f"{on_wire}celery-task-meta-odd", '{"date_done": 7, "status": []}')
    client.rpush(f"{on_wire}celery-task-meta-list", "x")
    search = broker.search_results(1_000_005.0, 1_000_020.0, lambda uuid: uuid == "new-7")
    assert not search.cut
    assert {end.uuid for end in search.ends} == {*(f"new-{n}" for n in range(5, 21)), "failed"} - {"new-7"}
    (failed,) = [end for end in search.ends if end.uuid == "failed"]
    assert (failed.state, failed.exception, failed.ended_at) == ("FAILURE", "E('no')", 1_000_010.5)
    broker.close()


def test_a_search_is_bounded_and_says_so(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(2_000):
        store(broker.client(), f"t-{n}", 1_000.0)
    monkeypatch.setattr(results, "MOST_ENDS", 100)
    search = broker.search_results(0.0, 2_000.0, lambda uuid: False)
    assert search.cut
    assert 100 <= len(search.ends) < 2_000


def test_without_a_redis_result_backend_nothing_is_searched(own_valkey: Server) -> None:
    broker = Broker(own_valkey.url)
    assert broker.search_results(0.0, 1e10, lambda uuid: False).ends == []
