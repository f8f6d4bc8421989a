"""The hub: one subscription, one draw for all who look at the same page, the newest frame wins."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer

from dashboard import hub as hubs
from dashboard import outbox as outboxes
from dashboard.fragments import Page, Region
from dashboard.hub import GROUP, Hub
from dashboard.outbox import Frame, Outbox

HERE = Page("here")
THERE = Page("there")


@dataclass(frozen=True)
class Told(Region):
    """A region that shows whatever the test tells it, without a template."""

    def draw(self, page: Page) -> str:
        return f'\n<div id="{self.name}">{self.context(page)["text"]}</div>\n'


class Board:
    """What the regions show, and how often each was drawn."""

    def __init__(self) -> None:
        self.text = "one"
        self.draws: list[tuple[str, str]] = []
        self.threads: set[str] = set()
        self.inside = self.most_inside = 0
        self.seconds = 0.0
        self.broken = False
        self._lock = threading.Lock()

    def region(self, name: str = "board", **more: Any) -> Region:
        def context(page: Page) -> Mapping[str, Any]:
            with self._lock:
                self.draws.append((page.view, name))
                self.threads.add(threading.current_thread().name)
                self.inside += 1
                self.most_inside = max(self.most_inside, self.inside)
            time.sleep(self.seconds)
            text = self.text
            with self._lock:
                self.inside -= 1
            if self.broken:
                raise RuntimeError("no such table")
            return {"text": text}

        return Told(name, context, more.pop("topics", ("tasks",)), every=more.pop("every", 0.0), **more)


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> InMemoryChannelLayer:
    layer = InMemoryChannelLayer()
    monkeypatch.setattr(hubs, "get_channel_layer", lambda: layer)
    return layer


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await story()

    asyncio.run(bounded())


async def frame(outbox: Outbox) -> dict[str, Any]:
    async with asyncio.timeout(10):
        text = await outbox.next()
    assert text is not None
    got: dict[str, Any] = json.loads(text)
    return got


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


async def silent(outbox: Outbox, seconds: float = 0.15) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await outbox.next()
    except TimeoutError:
        return True
    return False


def say(layer: InMemoryChannelLayer, *topics: str, seq: int = 0, origin: str = "") -> Awaitable[None]:
    message = {"type": "umbel.changed", "topics": list(topics), "seq": seq, "origin": origin}
    sent: Awaitable[None] = layer.group_send(GROUP, message)
    return sent


def test_a_socket_gets_the_region_as_it_is_then_each_change(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        hub, outbox = Hub(lambda page: [board.region(held=True)]), Outbox(HERE)
        await hub.join(outbox)
        first = await frame(outbox)
        assert first["seq"] == 1
        assert abs(first["now"] - time.time()) < 5
        assert first["content"] == '<div id="board">one</div>', (
            "white space around it would pile up in the page"
        )
        assert (first["target"], first["swap"], first["held"]) == ("#board", "outerMorph", True)
        board.text = "two"
        await say(layer, "tasks")
        second = await frame(outbox)
        assert (second["seq"], second["content"]) == (2, '<div id="board">two</div>')
        await hub.stop()

    run(story)


def test_the_subscription_stands_before_the_snapshot_is_drawn(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        members: list[int] = []

        def context(page: Page) -> Mapping[str, Any]:
            members.append(len(layer.groups.get(GROUP, {})))
            return {"text": ""}

        hub, outbox = Hub(lambda page: [Told("board", context, ("tasks",))]), Outbox(HERE)
        await hub.join(outbox)
        await frame(outbox)
        assert members == [1]
        await hub.stop()

    run(story)


def test_a_change_during_the_draw_is_drawn_again(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        board.seconds = 0.1
        hub, outbox = Hub(lambda page: [board.region()]), Outbox(HERE)
        await hub.join(outbox)
        await until(lambda: board.inside)
        await say(layer, "tasks")
        await frame(outbox)
        await until(lambda: len(board.draws) == 2)
        await hub.stop()

    run(story)


def test_a_hundred_sockets_on_one_page_cost_one_draw(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        hub = Hub(lambda page: [board.region()])
        outboxes = [Outbox(HERE) for _ in range(100)]
        for outbox in outboxes:
            await hub.join(outbox)
        for outbox in outboxes:
            await frame(outbox)
        assert len(board.draws) <= 2
        before = len(board.draws)
        board.text = "two"
        await say(layer, "tasks")
        for outbox in outboxes:
            assert (await frame(outbox))["content"] == '<div id="board">two</div>'
        assert len(board.draws) == before + 1
        assert len(layer.groups[GROUP]) == 1, "one subscription for the whole process"
        await hub.stop()

    run(story)


def test_a_second_role_or_filter_is_a_page_of_its_own(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        hub = Hub(lambda page: [board.region()])
        for page in (HERE, Page("here", role="operator"), Page("here", query="state=failed")):
            outbox = Outbox(page)
            await hub.join(outbox)
            await frame(outbox)
        assert len(board.draws) == 3
        await hub.stop()

    run(story)


def test_a_draw_that_brings_nothing_new_sends_nothing(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        hub, outbox = Hub(lambda page: [board.region()]), Outbox(HERE)
        await hub.join(outbox)
        await frame(outbox)
        await say(layer, "tasks")
        await until(lambda: hub.counts.unchanged == 1)
        assert await silent(outbox)
        await hub.stop()

    run(story)


def test_topics_nobody_listens_to_draw_nothing(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        hub, outbox = Hub(lambda page: [board.region()]), Outbox(HERE)
        await hub.join(outbox)
        await frame(outbox)
        await say(layer, "workers", "task:1")
        await until(lambda: hub.counts.heard == 1)
        assert await silent(outbox)
        assert len(board.draws) == 1
        await hub.stop()

    run(story)


def test_pages_nobody_looks_at_cost_nothing(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        hub, gone, stays = Hub(lambda page: [board.region()]), Outbox(HERE), Outbox(THERE)
        for outbox in (gone, stays):
            await hub.join(outbox)
            await frame(outbox)
        hub.leave(gone)
        hub.leave(gone)
        assert (hub.sockets, hub.watched) == (1, 1)
        board.draws.clear()
        board.text = "two"
        await say(layer, "tasks")
        await frame(stays)
        assert board.draws == [("there", "board")]
        hub.leave(stays)
        assert (hub.sockets, hub.watched, hub._topics) == (0, 0, {})
        await hub.stop()

    run(story)


def test_no_region_is_drawn_oftener_than_it_allows(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        hub, outbox = Hub(lambda page: [board.region(every=0.2)]), Outbox(HERE)
        await hub.join(outbox)
        await frame(outbox)
        ends = time.monotonic() + 0.5
        while time.monotonic() < ends:
            board.text = str(time.monotonic())
            await say(layer, "tasks")
            await asyncio.sleep(0.01)
        assert 2 <= len(board.draws) <= 4
        await hub.stop()

    run(story)


def test_a_costly_region_is_drawn_less_often(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        board.seconds = 0.08
        hub, outbox = Hub(lambda page: [board.region()]), Outbox(HERE)
        await hub.join(outbox)
        began = time.monotonic()
        while time.monotonic() - began < 0.6:
            hub.changed(("tasks",))
            await asyncio.sleep(0.01)
        assert len(board.draws) <= 3, "at least four times its cost lies between two draws"
        await hub.stop()

    run(story)


def test_many_costly_regions_together_keep_to_a_budget(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        board.seconds = 0.03
        hub = Hub(lambda page: [board.region(f"r{i}", topics=(hubs.CLOCK, "tasks")) for i in range(20)])
        await hub.join(Outbox(HERE))
        began = time.monotonic()
        while time.monotonic() - began < 3.2:
            hub.changed(("tasks",))
            await asyncio.sleep(0.02)
        assert hub._stretch > 2
        await hub.stop()

    run(story)


def test_at_most_two_threads_draw_at_once(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        board.seconds = 0.03
        hub, outbox = Hub(lambda page: [board.region(f"r{i}") for i in range(8)]), Outbox(HERE)
        await hub.join(outbox)
        for _ in range(8):
            await frame(outbox)
        assert board.most_inside == 2
        assert all(name.startswith("umbel-draw") for name in board.threads)
        await hub.stop()

    run(story)


def test_a_region_that_fails_stops_no_other_and_comes_back(
    layer: InMemoryChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "RETRY", 0.05)

    async def story() -> None:
        broken, sound = Board(), Board()
        broken.broken = True
        hub = Hub(lambda page: [broken.region("broken"), sound.region("sound")])
        outbox = Outbox(HERE)
        await hub.join(outbox)
        assert (await frame(outbox))["region"] == "sound"
        await until(lambda: hub.counts.failed >= 2)
        broken.broken = False
        assert (await frame(outbox))["region"] == "broken"
        await hub.stop()

    run(story)


def test_a_gap_in_the_numbers_of_one_process_draws_everything(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        hub, outbox = Hub(lambda page: [board.region()]), Outbox(HERE)
        await hub.join(outbox)
        await frame(outbox)
        await say(layer, "workers", seq=7, origin="a")
        await say(layer, "workers", seq=1, origin="b")
        await say(layer, "workers", seq=8, origin="a")
        await until(lambda: hub.counts.heard == 3)
        assert hub.counts.gaps == 0
        board.text = "two"
        await say(layer, "workers", seq=10, origin="a")
        assert (await frame(outbox))["content"] == '<div id="board">two</div>'
        assert hub.counts.gaps == 1
        await hub.stop()

    run(story)


def test_a_channel_layer_that_fails_is_joined_again_and_what_was_missed_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Flaky(InMemoryChannelLayer):  # type: ignore[misc]
        broken = False

        async def receive(self, channel: str) -> Any:
            if self.broken:
                self.broken = False
                raise ConnectionError("redis went away")
            return await super().receive(channel)

    flaky = Flaky()
    monkeypatch.setattr(hubs, "get_channel_layer", lambda: flaky)
    monkeypatch.setattr(hubs, "LAYER_RETRY", 0.01)

    async def story() -> None:
        board = Board()
        hub, outbox = Hub(lambda page: [board.region()]), Outbox(HERE)
        await hub.join(outbox)
        await frame(outbox)
        board.text = "two"
        flaky.broken = True
        await say(flaky, "nothing")
        assert (await frame(outbox))["content"] == '<div id="board">two</div>'
        assert hub.counts.layer_errors == 1
        await hub.stop()

    run(story)


def test_a_member_that_the_layer_forgot_joins_again(
    layer: InMemoryChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "REJOIN", 0.05)

    async def story() -> None:
        board = Board()
        hub, outbox = Hub(lambda page: [board.region()]), Outbox(HERE)
        await hub.join(outbox)
        await frame(outbox)
        await say(layer, "tasks", seq=1, origin="a")
        await until(lambda: hub.counts.heard == 1)
        layer.groups.clear()
        board.text = "two"
        await say(layer, "tasks", seq=2, origin="a")
        await until(lambda: layer.groups.get(GROUP))
        await say(layer, "nothing", seq=3, origin="a")
        assert (await frame(outbox))["content"] == '<div id="board">two</div>'
        assert len(layer.groups[GROUP]) == 1
        await hub.stop()

    run(story)


def test_regions_of_time_are_drawn_each_second(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        hub, outbox = Hub(lambda page: [board.region(topics=(hubs.CLOCK,))]), Outbox(HERE)
        await hub.join(outbox)
        await frame(outbox)
        board.text = "a second later"
        assert (await frame(outbox))["content"] == '<div id="board">a second later</div>'
        await hub.stop()

    run(story)


def test_charts_get_data_and_no_html(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        region = Region("rates", lambda page: {"t": [1.0], "failed": [0.5]}, ("rates",), data=True)
        hub, outbox = Hub(lambda page: [region]), Outbox(HERE)
        await hub.join(outbox)
        got = await frame(outbox)
        assert got["data"] == {"t": [1.0], "failed": [0.5]}
        assert "content" not in got
        await hub.stop()

    run(story)


def test_hostile_text_stays_inside_its_json_string(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        board.text = '"},{"seq":9,"content":"\\u2028</script>\ud800'
        hub, outbox = Hub(lambda page: [board.region()]), Outbox(HERE)
        await hub.join(outbox)
        got = await frame(outbox)
        assert got["seq"] == 1
        assert board.text in got["content"]
        await hub.stop()

    run(story)


def test_a_slow_socket_keeps_the_newest_frame_of_each_region() -> None:
    async def story() -> None:
        outbox = Outbox(HERE)
        for n in range(100):
            outbox.put(Frame("a", f'"region":"a","n":{n}}}'))
        outbox.put(Frame("b", '"region":"b","n":0}'))
        assert (await frame(outbox))["n"] == 99
        last = await frame(outbox)
        assert (last["region"], last["seq"]) == ("b", 2), "what the newest replaced leaves no gap"
        assert outbox.dropped == 0

    run(story)


def test_a_slow_socket_drops_the_oldest_counts_it_and_shows_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "WAITING", 3)

    async def story() -> None:
        outbox = Outbox(HERE)
        for n in range(5):
            outbox.put(Frame(f"r{n}", f'"region":"r{n}"}}'))
        assert outbox.dropped == 2
        first = await frame(outbox)
        assert (first["region"], first["seq"]) == ("r2", 3)

    run(story)


def test_signing_out_ends_the_sockets_of_that_session_only(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        hub = Hub(lambda page: [board.region()])
        mine, theirs = Outbox(HERE, session="session:a"), Outbox(HERE, session="session:b")
        for outbox in (mine, theirs):
            await hub.join(outbox)
            await frame(outbox)
        await say(layer, "session:a")
        assert await mine.next() is None
        assert mine.closed == hubs.SIGNED_OUT
        assert not theirs.closed
        await hub.stop()
        assert theirs.closed

    run(story)


def test_there_is_one_hub_in_a_process() -> None:
    async def story() -> None:
        assert hubs.current() is hubs.current()

    run(story)
