"""What only the source on Redis does: silence, the limit on unread output, rights, passwords, channels."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

import pytest
import redis

from demo.valkey import Server
from monitor.broker import Broker
from monitor.source import RedisSource
from tests.sources import Heard, enveloped, event, listening, run, until

pytestmark = pytest.mark.live


def test_a_stopped_redis_is_noticed_within_two_heartbeats(own_valkey: Server) -> None:
    broker = Broker(own_valkey.url)

    async def story() -> None:
        import signal

        async with listening(RedisSource(broker, silence=0.3, patience=0.4)) as heard:
            os.kill(own_valkey.pid, signal.SIGSTOP)
            try:
                begun = time.monotonic()
                await until(lambda: not heard.connected, 4)
                assert time.monotonic() - begun < 2
                assert "silent" in heard.states[1][1]
            finally:
                os.kill(own_valkey.pid, signal.SIGCONT)
            assert heard.since[1] is not None and heard.since[1] < time.time() - 0.4
            await until(lambda: heard.connected, 12)

    run(story())


def test_what_redis_holds_back_for_us_is_told(valkey: Server) -> None:
    broker = Broker(valkey.url)

    async def story() -> None:
        source = RedisSource(broker)
        async with listening(source):
            await until(lambda: source.output.waiting is not None)
            assert source.output.limit == 32 * 1024 * 1024
            assert source.output.cuts == 0

    run(story())


def test_a_slow_consumer_that_redis_cuts_off_is_named_and_other_losses_are_not(own_valkey: Server) -> None:
    client = redis.Redis.from_url(own_valkey.url)
    client.config_set("client-output-buffer-limit", "pubsub 1048576 0 0")
    broker = Broker(own_valkey.url)

    def flood() -> int:
        # Until nobody hears it: the system may let sockets hold 36 MB, or a tenth of that.
        message = json.dumps(enveloped(event("task-received", 1, args="x" * 20_000)))
        for sent in range(20_000):
            if not client.publish("/0.celeryev/task.received", message):
                return sent
        raise AssertionError("Redis cut nobody off over 400 MB")

    async def story() -> None:
        source = RedisSource(broker)
        async with listening(source) as heard:
            await until(lambda: source.output.limit is not None)
            assert source.output.limit == 1024 * 1024
            before = time.time()
            sent = flood()  # on the loop: the source cannot read meanwhile
            await until(lambda: heard.states[-1][0] and len(heard.states) >= 3, said=lambda: (sent, heard))
            assert heard.states[1] == (False, "slow consumer: Redis cut us off at 1 MB of unread output.")
            assert source.output.cuts == 1
            assert heard.since[1] is not None and before - 1.0 <= heard.since[1] <= time.time()
            assert 0 < heard.uuids.count("id-1") < sent
            await until(lambda: source.output.waiting is not None)
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: [one for one, _ in heard.states] == [True, False, True, False, True])
            assert "slow consumer" not in heard.states[3][1]
            assert source.output.cuts == 1

    run(story())


def test_a_server_that_lets_us_ask_nothing_is_listened_to_all_the_same(own_valkey: Server) -> None:
    client = redis.Redis.from_url(own_valkey.url)
    rules = [
        "on",
        ">low-rights",
        "allchannels",
        "+psubscribe",
        "+ping",
        "+select",
        "+client|setname",
        "+auth",
        "+hello",
    ]
    client.execute_command("ACL", "SETUSER", "shy", *rules)
    broker = Broker(f"redis://shy:low-rights@127.0.0.1:{own_valkey.port}/0")

    async def story() -> None:
        source = RedisSource(broker)
        async with listening(source) as heard:
            client.publish("/0.celeryev/task.multi", json.dumps(enveloped(event("task-received", 4))))
            await until(lambda: heard.uuids == ["id-4"])
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: [one for one, _ in heard.states] == [True, False, True])
            assert (source.output.waiting, source.output.limit) == (None, None)

    run(story())


def test_five_kills_are_five_gaps(valkey: Server) -> None:
    broker = Broker(valkey.url)

    async def story() -> None:
        async with listening(RedisSource(broker)) as heard:
            for number in range(5):
                with redis.Redis.from_url(valkey.url) as client:
                    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                await until(lambda n=number: [one for one, _ in heard.states].count(True) == n + 2)
        assert [one for one, _ in heard.states] == [True] + [False, True] * 5

    run(story())


def test_a_wrong_password_is_said_and_never_shown(valkey: Server) -> None:
    broker = Broker(f"redis://:wr0ng-pass-word@127.0.0.1:{valkey.port}/0")

    async def story() -> None:
        heard = Heard()
        source = RedisSource(broker)
        runner = asyncio.create_task(source.run(heard.on_message, heard.on_state))
        await until(lambda: bool(heard.states))
        source.stop()
        await asyncio.wait_for(runner, 15)
        assert heard.states[0][0] is False
        assert "password" in heard.states[0][1].lower() or "auth" in heard.states[0][1].lower()
        assert "wr0ng-pass-word" not in repr(heard.states)
        assert "wr0ng-pass-word" not in broker.shown

    run(story())


@pytest.mark.parametrize(
    ("options", "channel"),
    [
        ({}, "/0.celeryev/task.multi"),
        ({"key_prefix": "acme:"}, "acme:/0.celeryev/task.multi"),
        ({"fanout_patterns": False}, "/0.celeryev"),
        ({"fanout_prefix": "prod."}, "prod.celeryev/task.multi"),
        ({"fanout_prefix": False, "exchange": "my*ev"}, "my*ev/task.multi"),
    ],
)
def test_it_listens_where_the_cluster_publishes(
    valkey: Server, options: dict[str, Any], channel: str
) -> None:
    broker = Broker(valkey.url, **options)
    envelope = enveloped(event("task-received", 4))

    async def story() -> None:
        async with listening(RedisSource(broker)) as heard:
            with redis.Redis.from_url(valkey.url) as client:
                client.publish("other/0.celeryev/task.multi", json.dumps(envelope))
                client.publish("myXev/task.multi", json.dumps(envelope))
                assert client.publish(channel, json.dumps(envelope)) == 1
            await until(lambda: heard.uuids == ["id-4"])

    run(story())
