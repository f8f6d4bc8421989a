"""What a revoke or a terminate would hit: read out of real messages, events and the result backend."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery, chain, chord, group

from dashboard.queries.radius import radius, too_late
from dashboard.queries.radius import waits as waiting
from dashboard.queries.stamps import hit as stamp_hit
from monitor import broker as broker_module
from monitor import messages
from monitor.broker import Broker
from monitor.models import Task, Worker

pytestmark = pytest.mark.django_db


@pytest.fixture
def app(own_valkey: Any) -> Iterator[Celery]:
    app = Celery("client", broker=own_valkey.url, backend=own_valkey.url, set_as_current=False)
    broker_module.configure(Broker(own_valkey.url, result_backend=own_valkey.url))
    yield app
    broker_module.current().close()


def waits(uuid: str, **fields: Any) -> None:
    now = time.time()
    given = {"state": "PENDING", "name": "shop.add", "queue": "far", "first_seen_at": now, "seen_at": now}
    Task.objects.create(uuid=uuid, **(given | fields))


def heads(found: Any) -> str:
    return " ".join(f"{one.head} {one.text}" for one in found.effects)


def test_the_rest_of_a_chain_and_its_callbacks_are_read_from_the_message(app: Celery) -> None:
    steps = [app.signature(name, queue="far") for name in ("far.begin", "shop.pay", "shop.mail")]
    steps[0].link(app.signature("shop.count"))
    steps[0].link_error(app.signature("shop.alarm"))
    result = chain(*steps).apply_async()
    first = result.parent.parent
    waits(first.id)
    found = radius([first.id], "revoke")
    said = heads(found)
    assert "2 later steps of chains are never sent: shop.pay, shop.mail." in said
    assert "Its callbacks are not called: shop.count." in said
    assert "shop.alarm: Celery calls none for a revoked task." in said
    assert found.unchecked == []


def test_a_chords_body_that_will_never_run_is_named(app: Celery) -> None:
    header = group(app.signature("far.member", queue="far") for _ in range(2))
    result = chord(header)(app.signature("far.body", queue="far"))
    member = result.parent.results[0].id
    waits(member)
    assert "The chord’s body far.body will never run." in heads(radius([member], "terminate"))


def test_what_is_unacknowledged_is_found_and_stamps_are_known(app: Celery, own_valkey: Any) -> None:
    stamps = {"stamped_headers": ["tenant", "password"], "tenant": "42", "password": "hunter2"}
    uuid = str(app.send_task("shop.add", (1,), queue="far", **stamps).id)
    client = redis.Redis.from_url(own_valkey.url)
    raw: Any = client.lpop("far")
    client.hset("unacked", "tag", json.dumps([json.loads(raw), "far", "far"]))
    client.close()
    waits(uuid)
    found = radius([uuid], "revoke")
    assert [one.where for one in found.found] == ["unacknowledged"]
    # What the redaction rules hide is neither shown nor offered.
    assert found.stamps == {"tenant": ["42"]}
    assert "hunter2" not in repr(stamp_hit(uuid, "", ""))
    hit = stamp_hit(uuid, "", "")
    assert (hit.header, hit.value) == ("tenant", "42")


def test_messages_with_a_stamp_are_counted_by_type_of_their_value(app: Celery) -> None:
    Worker.objects.create(hostname="w@h", status="online", first_seen_at=1, queues=["far"])
    for value in (42, "42", "43"):
        app.send_task("shop.add", (1,), queue="far", stamped_headers=["tenant"], tenant=value)
    search = messages.stamped(broker_module.current(), "tenant", ["42"], ["far"])
    assert (len(search.found), search.whole) == (2, True)


def test_what_could_not_be_looked_at_is_listed_with_its_reason(app: Celery) -> None:
    waits("gone", state="STARTED", worker="w@h")
    found = radius(["gone"], "terminate")
    said = dict(found.unchecked)
    assert "acknowledged when it began" in said["its chain, chord and callbacks"]
    assert said["what else is in that process of w@h"] == "its pool is not known"
    assert "has not told of the task name" in said["whether its acks_late is set"]
    broker_module.configure(Broker("amqp://127.0.0.1:1//"))
    said = dict(radius(["gone"], "terminate").unchecked)
    assert "only a Redis broker" in said["their messages"]
    assert "No result backend is set" in said["the result backend"]


def test_children_that_go_on_and_the_process_are_told(app: Celery) -> None:
    pool = {"implementation": "prefork", "writes": {"strategy": "fair"}, "processes": [7]}
    details = {"stats": {"pool": pool}, "registered": ["shop.add [acks_late=True]"]}
    Worker.objects.create(hostname="w@h", status="online", pool="prefork", first_seen_at=1, details=details)
    waits("parent", state="STARTED", worker="w@h", received_at=time.time())
    waits("child", parent_id="parent", root_id="parent", state="STARTED")
    waits("done", parent_id="parent", root_id="parent", state="SUCCESS")
    said = heads(radius(["parent"], "terminate"))
    assert "1 task that it sent goes on. 1 run and 0 wait" in said
    assert "one task at a time (fair)" in said
    assert "1 will not run again." in said
    # Past the visibility timeout the broker may have handed it out again.
    Task.objects.filter(uuid="parent").update(received_at=time.time() - 4000)
    assert "1 may run again." in heads(radius(["parent"], "terminate"))


@pytest.mark.parametrize(
    "raw",
    [b"{", b"[]", b'{"headers": 1}', b'{"headers": {"id": "u", "stamps": 3, "stamped_headers": "x"}}'],
)
def test_a_message_that_nobody_can_read_is_counted_and_not_more(
    app: Celery, own_valkey: Any, raw: bytes
) -> None:
    client = redis.Redis.from_url(own_valkey.url)
    client.rpush(
        "far", raw.replace(b"{", b'{"u":"u-1",', 1) if raw.startswith(b"{") and len(raw) > 2 else raw
    )
    client.hset("unacked", "tag", raw)
    client.close()
    search = messages.find(broker_module.current(), ["u"], ["far"])
    assert all(one.stamps == {} for one in search.found)


def test_what_a_pool_without_processes_has_reserved_is_told_before_a_revoke(app: Celery) -> None:
    now = time.time()
    for hostname, pool in (("p@h", "prefork"), ("t@h", "threads"), ("g@h", "gevent")):
        Worker.objects.create(hostname=hostname, status="online", pool=pool, first_seen_at=now)
    for number, (worker, eta) in enumerate(
        [("p@h", None), ("t@h", None), ("t@h", now - 1), ("t@h", now + 60), ("g@h", None)]
    ):
        waits(f"r{number}", state="RECEIVED", worker=worker, eta=eta)
    uuids = [f"r{number}" for number in range(5)]
    heads = {one.head: one.text for one in waiting(uuids, radius(uuids, "revoke"))}
    assert list(heads) == [
        "2 are reserved by workers.",
        "1 is with a gevent pool already.",
        "2 are with threads pools already.",
    ]
    assert "runs what its worker has reserved" in heads["1 is with a gevent pool already."]
    assert heads["1 is with a gevent pool already."].endswith("Terminate it once it runs.")
    assert "Shut the worker down before that" in heads["2 are with threads pools already."]


def test_what_a_grown_pool_may_have_taken_is_told_before_a_revoke(app: Celery) -> None:
    now = time.time()
    for hostname, processes in (("grown@h", [1, 2, 3]), ("same@h", [1, 2]), ("shrunk@h", [1])):
        stats = {"pool": {"max-concurrency": 2, "processes": processes}}
        Worker.objects.create(
            hostname=hostname, status="online", pool="prefork", first_seen_at=now, details={"stats": stats}
        )
        waits(hostname, state="RECEIVED", worker=hostname)
    waits("later", state="RECEIVED", worker="grown@h", eta=now + 60)
    uuids = ["grown@h", "same@h", "shrunk@h", "later"]
    said = {one.head: one.text for one in waiting(uuids, radius(uuids, "revoke"))}
    assert list(said) == ["3 are reserved by workers.", "1 is reserved by a worker, and may run."]
    assert said["1 is reserved by a worker, and may run."] == (
        "Its pool has grown since its start: it may have given it to that already, and then it runs all the "
        "same. Terminate it to be sure."
    )
    # Many at once: the warning alone.
    assert [one.head for one in too_late(uuids)] == ["1 is reserved by a worker, and may run."]
    assert too_late(["same@h", "shrunk@h", "later", "unknown"]) == []
