"""The contract of every source of events, on Redis, on RabbitMQ, over Celery's receiver and from a file."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu.entity import Exchange
from kombu.messaging import Producer

from demo.valkey import Server
from monitor.broker import Broker
from monitor.source import Backoff, ReceiverSource, Recording, RedisSource, source_of
from tests.sources import Heard, enveloped, event, listening, run, until

pytestmark = pytest.mark.live


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
