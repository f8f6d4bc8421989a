"""What changed, told through the channel layer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from monitor import publish as publishing
from monitor.publish import ANY_TASK, GROUP, MOST_IN_MESSAGE, MOST_TASKS, Publisher
from tests.conftest import wait_until


class Layer:
    """A channel layer that remembers who sent what from where, and can be slow or broken."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.loops: list[asyncio.AbstractEventLoop] = []
        self.open = threading.Event()
        self.open.set()
        self.broken = False

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        assert group == GROUP
        self.loops.append(asyncio.get_running_loop())
        while not self.open.is_set():
            await asyncio.sleep(0.005)
        if self.broken:
            raise ConnectionError("no layer")
        self.sent.append(message)

    @property
    def topics(self) -> list[str]:
        return [topic for message in self.sent for topic in message["topics"]]


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> Layer:
    layer = Layer()
    monkeypatch.setattr(publishing, "get_channel_layer", lambda: layer)
    return layer


@pytest.fixture
def web_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


def in_thread(call: Callable[[], None]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()


def test_a_message_leaves_on_the_bound_loop_from_any_thread(
    layer: Layer, web_loop: asyncio.AbstractEventLoop
) -> None:
    publisher = Publisher()
    publisher.bind(web_loop)
    publisher.publish({"tasks", "task:1"})
    wait_until(lambda: layer.sent)
    in_thread(lambda: publisher.publish(["feed"]))
    wait_until(lambda: len(layer.sent) == 2)
    assert [m["topics"] for m in layer.sent] == [["task:1", "tasks"], ["feed"]]
    assert [m["seq"] for m in layer.sent] == [1, 2]
    assert {m["type"] for m in layer.sent} == {"umbel.changed"}
    assert {m["origin"] for m in layer.sent} == {publisher.origin}
    assert set(layer.loops) == {web_loop}


def test_unbound_it_sends_on_one_loop_of_its_own(layer: Layer) -> None:
    publisher = Publisher()
    publisher.publish(["a"])
    wait_until(lambda: layer.topics == ["a"])
    in_thread(lambda: publisher.publish(["b"]))
    wait_until(lambda: layer.topics == ["a", "b"])
    assert len(set(layer.loops)) == 1


def test_it_may_be_called_inside_a_running_loop_and_does_not_wait(layer: Layer) -> None:
    publisher = Publisher()
    layer.open.clear()

    async def inside() -> None:
        async with asyncio.timeout(1):
            publisher.publish(["a"])

    asyncio.run(inside())
    assert layer.sent == []
    layer.open.set()
    wait_until(lambda: layer.topics == ["a"])


def test_topics_gather_while_a_send_is_under_way(layer: Layer) -> None:
    publisher = Publisher()
    layer.open.clear()
    publisher.publish(["a"])
    wait_until(lambda: layer.loops)
    for n in range(50):
        publisher.publish(["tasks", f"task:{n % 5}"])
    layer.open.set()
    wait_until(lambda: len(layer.sent) == 2)
    assert layer.sent[1]["topics"] == ["task:0", "task:1", "task:2", "task:3", "task:4", "tasks"]


def test_a_failed_send_keeps_its_topics_for_the_next(layer: Layer) -> None:
    publisher = Publisher()
    layer.broken = True
    publisher.publish(["a"])
    wait_until(lambda: publisher.failures == 1)
    wait_until(lambda: not publisher._sending)
    layer.broken = False
    publisher.publish(["b"])
    wait_until(lambda: layer.topics == ["a", "b"])


def test_many_topics_leave_in_several_messages(layer: Layer) -> None:
    publisher = Publisher()
    publisher.publish({f"worker:{n}" for n in range(MOST_IN_MESSAGE + 1)})
    wait_until(lambda: len(layer.sent) == 2)
    assert len(set(layer.topics)) == MOST_IN_MESSAGE + 1


def test_many_single_tasks_are_told_as_any_task(layer: Layer) -> None:
    publisher = Publisher()
    layer.open.clear()
    publisher.publish(["a"])
    wait_until(lambda: layer.loops)
    publisher.publish({f"task:{n}" for n in range(MOST_TASKS)} | {"tasks", "worker:w"})
    publisher.publish({"task:one more"})
    publisher.publish({"task:and another"})
    layer.open.set()
    wait_until(lambda: len(layer.sent) == 2)
    assert layer.sent[1]["topics"] == [ANY_TASK, "tasks", "worker:w"]


def test_some_single_tasks_are_told_each(layer: Layer) -> None:
    publisher = Publisher()
    topics = {f"task:{n}" for n in range(MOST_TASKS)} | {f"worker:{n}" for n in range(10)}
    publisher.publish(topics)
    wait_until(lambda: layer.sent)
    assert set(layer.topics) == topics


def test_nothing_is_sent_for_nothing(layer: Layer) -> None:
    publisher = Publisher()
    publisher.publish([])
    assert publisher._loop is None
    assert not layer.loops


def test_a_closed_web_loop_is_not_an_error(layer: Layer) -> None:
    publisher = Publisher()
    loop = asyncio.new_event_loop()
    publisher.bind(loop)
    loop.close()
    publisher.publish(["a"])
    assert not layer.sent


def test_the_real_layer_in_memory_hears_it_on_its_own_loop() -> None:
    from channels.layers import InMemoryChannelLayer

    real = InMemoryChannelLayer()

    async def web() -> dict[str, Any]:
        publisher = Publisher()
        publisher.bind(asyncio.get_running_loop())
        await real.group_add(GROUP, "hub")
        await asyncio.to_thread(publisher.publish, ["workers"])
        async with asyncio.timeout(15):
            return await real.receive("hub")  # type: ignore[no-any-return]

    original = publishing.get_channel_layer
    publishing.get_channel_layer = lambda: real
    try:
        assert asyncio.run(web())["topics"] == ["workers"]
    finally:
        publishing.get_channel_layer = original
