"""The contract of every source of events, on Redis, on RabbitMQ, over Celery's receiver and from a file."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu.entity import Exchange
from kombu.messaging import Producer

from demo.valkey import Server
from monitor.broker import Broker
from monitor.events import Decoded
from monitor.source import Backoff, ReceiverSource, Recording, RedisSource, source_of
from tests.conftest import PATIENCE

pytestmark = pytest.mark.live


class Heard:
    """What a source said."""

    def __init__(self) -> None:
        self.types: list[str] = []
        self.uuids: list[str] = []
        self.malformed = 0
        self.reasons: list[str] = []
        self.states: list[tuple[bool, str]] = []
        self.since: list[float | None] = []
        self.times: list[float] = []
        self.threads: set[int] = set()

    def on_message(self, decoded: Decoded, at: float) -> None:
        import threading

        self.threads.add(threading.get_ident())
        self.times.append(at)
        self.types += [event.type for event in decoded.events]
        self.uuids += [getattr(event, "uuid", "") for event in decoded.events]
        self.malformed += decoded.malformed
        self.reasons += decoded.reasons

    def on_state(self, connected: bool, reason: str, since: float | None = None) -> None:
        self.states.append((connected, reason))
        self.since.append(since)

    @property
    def connected(self) -> bool:
        return bool(self.states) and self.states[-1][0]

    def __repr__(self) -> str:
        return f"{len(self.types)} events, {self.malformed} malformed, {self.states}"


async def until(true: Callable[[], Any], timeout: float = 10.0, said: Callable[[], object] = str) -> None:
    timeout *= PATIENCE
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, f"did not come within {timeout} s: {said()}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def listening(source: Any, timeout: float = 15.0, heard: Heard | None = None) -> AsyncIterator[Heard]:
    heard = heard or Heard()
    runner = asyncio.create_task(source.run(heard.on_message, heard.on_state))
    try:
        await until(lambda: heard.connected or runner.done(), timeout)
        yield heard
    finally:
        source.stop()
        await asyncio.wait_for(runner, 15)


def event(kind: str, number: int = 0, **fields: Any) -> dict[str, Any]:
    base = {
        "type": kind,
        "hostname": "w@test",
        "pid": 7,
        "clock": number,
        "utcoffset": 0,
        "timestamp": time.time(),
    }
    return base | ({"uuid": f"id-{number}"} if kind.startswith("task-") else {}) | fields


def enveloped(body: Any) -> dict[str, Any]:
    """As kombu writes it on Redis."""
    return {
        "body": json.dumps(body),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {},
        "properties": {"body_encoding": "utf-8"},
    }


class Line:
    """A cluster's side of a broker: publishes events as workers do, and can cut the listener off."""

    def __init__(self, broker: Broker, source: Callable[[], Any], cut: Callable[[], None]) -> None:
        self.broker, self.source, self.cut = broker, source, cut
        self.app = Celery("cluster", broker=broker.url, set_as_current=False)
        self.app.conf.update(event_exchange=broker.exchange, broker_transport_options=broker.options)

    def publish(self, body: Any, key: str = "task.multi", serializer: str = "json", **raw: Any) -> None:
        kind = "fanout" if self.broker.transport == "redis" else "topic"
        exchange = Exchange(self.broker.exchange, type=kind, durable=True, delivery_mode="transient")
        with self.app.connection_for_write() as connection:
            Producer(connection.channel()).publish(
                body, exchange=exchange, routing_key=key, declare=[exchange], serializer=serializer, **raw
            )

    async def send(self, body: Any, **more: Any) -> None:
        await asyncio.to_thread(self.publish, body, **more)


@pytest.fixture(params=["redis", "receiver-redis", "receiver-rabbitmq"])
def line(request: pytest.FixtureRequest) -> Line:
    if request.param == "receiver-rabbitmq":
        url = request.getfixturevalue("rabbitmq")
        broker = Broker(url)
        running: list[ReceiverSource] = []
        return Line(
            broker, lambda: running.append(ReceiverSource(broker)) or running[-1], lambda: _cut(running[-1])
        )
    server: Server = request.getfixturevalue("valkey")
    broker = Broker(server.url)
    kind = RedisSource if request.param == "redis" else ReceiverSource

    def cut() -> None:
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    return Line(broker, lambda: kind(broker), cut)


def _cut(source: ReceiverSource) -> None:
    """Closes the socket under a listening connection, as a broker does that goes away."""
    connection = source.connection
    assert connection is not None
    connection.connection.transport.sock.shutdown(2)


def run(coroutine: Awaitable[None]) -> None:
    async def main() -> None:
        await coroutine

    asyncio.run(main())


def test_single_events_and_lists_arrive_in_order_on_the_loop(line: Line) -> None:
    async def story() -> None:
        import threading

        async with listening(line.source()) as heard:
            assert heard.states == [(True, "")]
            await line.send(event("worker-heartbeat"), key="worker.heartbeat")
            await line.send([event("task-received", 1), event("task-started", 2)])
            await line.send(event("task-sent", 3), key="task.sent")
            await until(lambda: len(heard.types) >= 4)
            assert heard.types == ["worker-heartbeat", "task-received", "task-started", "task-sent"]
            assert heard.threads == {threading.get_ident()}
            assert all(abs(at - time.time()) < 30 for at in heard.times)

    run(story())


def test_who_says_that_it_listens_does(line: Line) -> None:
    """What is published at that very moment arrives."""

    async def story() -> None:
        source = line.source()
        if isinstance(source, ReceiverSource):
            # Its thread says so before the loop hears of it: nothing may hide in the time between.
            tell = source._tell
            source._tell = lambda *said: (line.publish(event("task-received", 1)), tell(*said))  # type: ignore[method-assign, func-returns-value]
            async with listening(source) as heard:
                await until(lambda: heard.uuids == ["id-1"])
            return
        with redis.Redis.from_url(line.broker.url) as client:
            async with listening(source) as heard:
                assert client.publish("/0.celeryev/task.multi", json.dumps(enveloped(event("task-x")))) == 1
                await until(lambda: heard.types == ["task-x"])

    run(story())


def test_a_pickle_and_nonsense_are_counted_and_never_opened(line: Line, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "opened"), "w"))

    async def story() -> None:
        import pickle

        async with listening(line.source()) as heard:
            body = pickle.dumps(Bomb())
            raw = {"content_type": "application/x-python-serialize", "content_encoding": "binary"}
            await line.send(body, serializer="", **raw)
            await line.send("[1, {", serializer="", content_type="application/json", content_encoding="utf-8")
            await line.send([event("task-received", 1), 5, {"type": 3}])
            await until(lambda: heard.uuids == ["id-1"])
            await until(lambda: heard.malformed >= 4)
            assert not (tmp_path / "opened").exists()
            assert heard.states == [(True, "")]

    run(story())


def test_a_cut_connection_is_told_and_made_again(line: Line) -> None:
    async def story() -> None:
        async with listening(line.source()) as heard:
            await asyncio.to_thread(line.cut)
            await until(lambda: [one for one, _ in heard.states] == [True, False, True])
            assert heard.states[1][1]
            await line.send(event("task-received", 9))
            await until(lambda: heard.uuids == ["id-9"])

    run(story())


def test_stop_ends_it_soon_and_leaves_no_queue(line: Line) -> None:
    async def story() -> None:
        source = line.source()
        async with listening(source) as heard:
            assert heard.connected
            begun = time.monotonic()
        assert time.monotonic() - begun < 3
        await line.send(event("task-received", 1))
        assert heard.uuids == []

    run(story())


def test_a_thousand_messages_arrive_complete(line: Line) -> None:
    def flood() -> None:
        kind = "fanout" if line.broker.transport == "redis" else "topic"
        exchange = Exchange(line.broker.exchange, type=kind, durable=True, delivery_mode="transient")
        with line.app.connection_for_write() as connection:
            producer = Producer(
                connection.channel(), exchange=exchange, routing_key="task.multi", serializer="json"
            )
            for number in range(1000):
                producer.publish([event("task-received", number), event("task-started", number)])

    async def story() -> None:
        async with listening(line.source()) as heard:
            await asyncio.to_thread(flood)
            await until(lambda: len(heard.uuids) >= 2000)
            assert heard.uuids[::2] == [f"id-{n}" for n in range(1000)]
            assert heard.states == [(True, "")]

    run(story())


# A recording keeps the same contract, from a file


@pytest.mark.parametrize(
    "name", sorted(p.stem for p in (Path(__file__).parent / "recordings").glob("*.json"))
)
def test_a_recording_gives_every_event_of_its_file(name: str) -> None:
    path = Path(__file__).parent / "recordings" / f"{name}.json"

    async def story() -> None:
        if "messages" not in (content := json.loads(path.read_text())):
            return
        wanted = sum(content.get("types", {}).values())
        async with listening(Recording(path)) as heard:
            assert heard.states == [(True, "")]
            if not any("msgpack" in message[2][:2000] for message in content["messages"]):
                await until(lambda: len(heard.types) >= wanted)
                assert len(heard.types) == wanted
                assert heard.malformed == 0

    run(story())


def test_a_recording_keeps_its_recorded_times(tmp_path: Path) -> None:
    envelope = enveloped(event("worker-heartbeat"))
    path = tmp_path / "one.json"
    path.write_text(
        json.dumps({"messages": [[1700000000.5, "/0.celeryev/worker.heartbeat", json.dumps(envelope)]]})
    )

    async def story() -> None:
        heard = Heard()
        await asyncio.wait_for(Recording(path, once=True).run(heard.on_message, heard.on_state), 5)
        assert (heard.types, heard.times) == (["worker-heartbeat"], [1700000000.5])

    run(story())


# What only Redis has


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


def test_each_broker_has_its_source() -> None:
    assert isinstance(source_of(Broker("redis://h/0")), RedisSource)
    assert isinstance(source_of(Broker("rediss://h/0")), RedisSource)
    assert isinstance(source_of(Broker("amqp://h//")), ReceiverSource)


def test_backoff_grows_with_jitter_and_starts_again() -> None:
    backoff = Backoff(0.1, 1.0)
    delays = [backoff.delay() for _ in range(8)]
    assert all(0.05 <= delay <= 1.0 for delay in delays)
    assert max(delays[-3:]) > 0.5
    backoff.reset()
    assert backoff.delay() <= 0.1
