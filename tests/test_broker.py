"""The one client: where it looks, what it shows, and that it cannot restore anyone's messages."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from demo.valkey import Server
from monitor.broker import Broker, configure, current, redis_url

TEN_YEARS = 10 * 365 * 24 * 3600


@pytest.mark.parametrize(
    ("url", "transport", "database", "for_redis"),
    [
        ("redis://h:6380/3", "redis", 3, "redis://h:6380/3"),
        ("redis://h", "redis", 0, "redis://h"),
        ("rediss://h/1?ssl_cert_reqs=CERT_REQUIRED", "redis", 1, "rediss://h/1?ssl_cert_reqs=required"),
        ("redis+socket:///run/r.sock?virtual_host=2", "redis", 2, "unix:///run/r.sock?db=2"),
        ("unix:///run/r.sock?db=2", "redis", 2, "unix:///run/r.sock?db=2"),
        ("valkey://h/4", "redis", 4, "redis://h/4"),
    ],
)
def test_every_form_of_a_redis_url_is_read(url: str, transport: str, database: int, for_redis: str) -> None:
    broker = Broker(url)
    assert (broker.transport, broker.database) == (transport, database)
    assert redis_url(broker.url) == for_redis
    redis.ConnectionPool.from_url(for_redis)


@pytest.mark.parametrize(
    ("url", "transport"), [("amqp://h//", "amqp"), ("amqps://h//", "amqp"), ("memory://", "memory")]
)
def test_other_brokers_keep_their_names(url: str, transport: str) -> None:
    assert Broker(url).transport == transport


def test_what_is_no_url_is_refused_with_an_example() -> None:
    with pytest.raises(ValueError, match="redis://host:6379/0"):
        Broker("localhost")
    with pytest.raises(ValueError, match="it is a number"):
        _ = Broker("redis://h/jobs").database


@pytest.mark.parametrize(
    ("options", "channel"),
    [
        ({}, ("/0.celeryev/*", True)),
        ({"key_prefix": "acme:"}, ("acme:/0.celeryev/*", True)),
        ({"transport_options": {"global_keyprefix": "acme:"}}, ("acme:/0.celeryev/*", True)),
        ({"fanout_patterns": False}, ("/0.celeryev", False)),
        ({"fanout_prefix": False}, ("celeryev/*", True)),
        ({"fanout_prefix": "prod.{db}."}, ("prod.0.celeryev/*", True)),
        ({"exchange": "myevents"}, ("/0.myevents/*", True)),
        ({"key_prefix": "a[1]*"}, ("a\\[1\\]\\*/0.celeryev/*", True)),
    ],
)
def test_events_are_looked_for_where_the_settings_put_them(options: dict[str, Any], channel: Any) -> None:
    assert tuple(Broker("redis://h/0", **options).event_channel()) == channel


def test_no_password_is_shown() -> None:
    for url in (
        "redis://:s3cret-pw@h/0",
        "sentinel://:s3cret-pw@a:1;sentinel://:s3cret-pw@b:2",
        "amqp://u:s3cret-pw@h//",
    ):
        assert "s3cret-pw" not in Broker(url).shown
        assert "s3cret-pw" not in Broker(url).explain(OSError(f"cannot reach {url}"))


def test_the_client_takes_json_only() -> None:
    conf = Broker("redis://h/0").app.conf
    assert conf.accept_content == ["json"] and conf.result_accept_content == ["json"]
    assert conf.task_serializer == conf.event_serializer == "json"


@pytest.mark.parametrize(
    "given", [{}, {"visibility_timeout": 5, "unacked_restore_limit": 10, "unacked_key": "unacked"}]
)
def test_no_option_makes_it_restore_messages(given: dict[str, Any]) -> None:
    options = Broker("redis://h/0", transport_options=given).app.conf.broker_transport_options
    assert options["visibility_timeout"] >= TEN_YEARS
    assert options["unacked_restore_limit"] == 0
    assert "umbel" in options["unacked_key"] and "umbel" in options["unacked_index_key"]
    assert "umbel" in options["unacked_mutex_key"]


@pytest.mark.live
def test_even_a_kombu_consumer_of_ours_restores_nothing(valkey: Server) -> None:
    """The belt under the braces: a consumer on a queue, with another's message long past every timeout."""
    database = 5
    broker = Broker(
        valkey.url.removesuffix("/0") + f"/{database}", transport_options={"visibility_timeout": 1}
    )
    with redis.Redis.from_url(redis_url(broker.url)) as client:
        message = json.dumps([{"body": "", "properties": {}, "headers": {}}, "celery", "celery"])
        client.hset("unacked", "tag", message)
        client.zadd("unacked_index", {"tag": time.time() - 10 * TEN_YEARS / 10})
        with broker.app.connection_for_read() as connection:
            queue = connection.SimpleQueue("umbel-probe")
            for _ in range(12):
                with pytest.raises(queue.Empty):
                    queue.get(timeout=0.01)
            queue.close()
        assert client.hlen("unacked") == 1 and client.zcard("unacked_index") == 1
        assert client.llen("celery") == 0
        client.flushdb()


def test_the_current_broker_is_the_configured_one() -> None:
    broker = Broker("redis://h/0")
    configure(broker)
    assert current() is broker


# Results


@pytest.mark.live
def test_results_are_read_as_text_and_redacted(valkey: Server, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "opened"), "w"))

    url = valkey.url.removesuffix("/0") + "/6"
    broker = Broker(url, result_backend=url)
    with redis.Redis.from_url(url) as client:
        put = {
            "ok": json.dumps(
                {"status": "SUCCESS", "result": {"password": "hunter2-x"}, "date_done": "2026-11-22T10:00:00"}
            ),
            "bad": json.dumps(
                {
                    "status": "FAILURE",
                    "result": {
                        "exc_type": "ValueError",
                        "exc_message": ["no order"],
                        "exc_module": "builtins",
                    },
                    "traceback": "Traceback …",
                    "name": "shop.pay",
                    "worker": "w@x",
                }
            ),
            "run": json.dumps({"status": "STARTED", "result": None}),
            "pickle": pickle.dumps(Bomb()),
            "deep": "[" * 100_000,
            "list": "[1]",
        }
        for name, text in put.items():
            client.set(f"celery-task-meta-{name}", text)
        found = {one.uuid: one for one in broker.read_results([*put, "absent"])}
        client.flushdb()
    assert sorted(found) == ["bad", "ok"]
    assert found["ok"].ended_at == 1795341600.0
    assert "hunter2-x" not in repr(found["ok"])
    assert (found["bad"].exception, found["bad"].name, found["bad"].worker) == (
        "ValueError('no order')",
        "shop.pay",
        "w@x",
    )
    assert not (tmp_path / "opened").exists()


def test_other_backends_say_why_they_are_not_read() -> None:
    assert "No result backend" in Broker("redis://h/0").results_reason
    broker = Broker("redis://h/0", result_backend="db+postgresql://h/x")
    assert "from Redis only" in broker.results_reason
    assert broker.read_results(["a"]) == []
