"""Messages at a Redis broker, found by the ids of their tasks: read whole, never moved, never unpickled."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from demo.valkey import Server
from monitor import messages, queues
from monitor.broker import Broker


def envelope(uuid: str, body: Any = ((), {}, {}), **more: Any) -> dict[str, Any]:
    coded = base64.b64encode(json.dumps(body).encode()).decode()
    return {
        "body": coded,
        "content-type": more.pop("form", "application/json"),
        "content-encoding": "utf-8",
        "headers": {"id": uuid, "task": "shop.add"} | more.pop("headers", {}),
        "properties": {"body_encoding": "base64", "priority": 0, "delivery_info": {}} | more,
    }


@pytest.fixture
def client(own_valkey: Server) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_valkey.url) as one:
        yield one


def test_one_is_found_in_any_of_a_queues_lists_and_among_the_unacknowledged(
    own_valkey: Server, client: redis.Redis
) -> None:
    broker = Broker(own_valkey.url, key_prefix="acme:")
    for number in range(700):
        client.lpush("acme:mail", json.dumps(envelope(f"n{number}")))
    client.lpush("acme:mail\x06\x166", json.dumps(envelope("urgent", ([1], {"a": 2}, {}), priority=6)))
    # Of another task, which names it.
    client.lpush("acme:mail", json.dumps(envelope("child", headers={"root_id": "held", "parent_id": "n3"})))
    held = json.dumps([envelope("held", ([9], {}, {})), "", "mail"])
    client.hset("acme:unacked", "tag", held)
    before = {key: client.dump(key) for key in client.keys("*")}
    found = messages.sent(broker, ["n0", "n3", "urgent", "held", "nobody"], ["mail", "mail", "other"])
    assert set(found) == {"n0", "n3", "urgent", "held"}
    assert (found["urgent"].args, found["urgent"].kwargs, found["urgent"].priority) == ([1], {"a": 2}, 6)
    assert (found["held"].waits, found["held"].queue, found["held"].args) == (False, "mail", [9])
    asked = ["n699", "n698", "urgent", "held", "n0"]
    # n0 is not among the newest; those of a less urgent priority come after all others.
    assert messages.places(broker, "mail", asked) == {
        "n699": (700, 702), "n698": (699, 702), "urgent": (702, 702),
    }  # fmt: skip
    assert before == {key: client.dump(key) for key in client.keys("*")}


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (envelope("x", form="application/x-python-serialize"), "Umbel does not read"),
        (envelope("x", headers={"compression": "application/x-gzip"}), "compressed"),
        (envelope("x", body={"args": [1]}), "cannot be read"),
        (envelope("x", body=[1, 2]), "cannot be read"),
        (envelope("x") | {"body": "%%%"}, "cannot be read"),
        (envelope("x") | {"body": base64.b64encode(b"[" * 90_000).decode()}, "cannot be read"),
    ],
)
def test_a_body_that_umbel_does_not_read_says_why(
    own_valkey: Server, client: redis.Redis, message: dict[str, Any], why: str
) -> None:
    client.lpush("mail", json.dumps(message))
    found = messages.sent(Broker(own_valkey.url), ["x"], ["mail"])["x"]
    assert found.args is None and found.kwargs is None and why in found.why


@pytest.mark.parametrize(
    "raw", [b"x", b'"x"', b'{"headers": "x"}', b'{"headers": {"id": ["x"]}}', b"[" * 50_000 + b"x"]
)
def test_what_is_no_message_is_passed_over(own_valkey: Server, client: redis.Redis, raw: bytes) -> None:
    client.lpush("mail", raw)
    client.hset("unacked", "tag", raw)
    assert messages.sent(Broker(own_valkey.url), ["x"], ["mail"]) == {}


def test_headers_of_its_sender_and_its_stamps_are_told_from_celerys_own(
    own_valkey: Server, client: redis.Redis
) -> None:
    headers = {
        "eta": None, "retries": 3, "timelimit": [60, None], "traceparent": "00-1", "batch": "b7",
        "stamped_headers": ["batch"], "stamps": {"batch": "b7"}, "argsrepr": "(…)",
    }  # fmt: skip
    client.lpush("mail", json.dumps(envelope("x", headers=headers)))
    found = messages.sent(Broker(own_valkey.url), ["x"], ["mail"])["x"]
    assert (found.headers, found.stamps) == ({"traceparent": "00-1"}, {"batch": "b7"})
    assert (found.time_limit, found.soft_time_limit, found.argsrepr) == (60, None, "(…)")


def test_no_other_broker_is_looked_into() -> None:
    broker = Broker("memory://")
    assert messages.sent(broker, ["x"], ["mail"]) == {} and messages.places(broker, "mail", ["x"]) == {}


def test_an_id_that_a_broken_message_names_is_not_said_to_be_nowhere(
    own_valkey: Server, client: redis.Redis
) -> None:
    broker = Broker(own_valkey.url)
    client.lpush("mail", json.dumps(envelope("x")), b'{"headers": "y"}', json.dumps(envelope("y")))
    assert messages.find(broker, ["x"], ["mail"]).whole
    search = messages.find(broker, ["y"], ["mail"])
    assert [one.uuid for one in search.found] == ["y"] and not search.whole


def test_reading_ends_when_all_are_found(
    own_valkey: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        client.lpush(f"q{number:02}", json.dumps(envelope(f"n{number}")))
    read: list[str] = []
    looked = queues.Reading.list
    monkeypatch.setattr(
        queues.Reading, "list", lambda self, key, queue: (read.append(queue), looked(self, key, queue))
    )
    names = [f"q{number:02}" for number in range(60)]
    assert set(messages.sent(Broker(own_valkey.url), ["n0", "n1"], names)) == {"n0", "n1"}
    assert set(read) == {"q00", "q01"}
