"""The hub: one subscription, one draw for all who look at the same page, the newest frame wins."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer

from dashboard import hub as hubs
from dashboard import listening, pace, rights
from dashboard import outbox as outboxes
from dashboard.fragments import Page, Region
from dashboard.hub import Hub
from dashboard.outbox import Beat, Frame, Message, Outbox
from monitor import publish
from monitor.publish import GROUP

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
    monkeypatch.setattr(listening, "get_channel_layer", lambda: layer)
    return layer


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await story()

    asyncio.run(bounded())


async def message(outbox: Outbox) -> dict[str, Any]:
    async with asyncio.timeout(10):
        text = await outbox.next()
    assert text is not None
    got: dict[str, Any] = json.loads(text)
    return got


_RECEIVED: dict[Outbox, list[dict[str, Any]]] = {}


async def frame(outbox: Outbox) -> dict[str, Any]:
    """The next frame of a socket, with the numbers of the message that it came in."""
    received = _RECEIVED.setdefault(outbox, [])
    if not received:
        got = await message(outbox)
        received += [got | frame for frame in got["frames"]]
    return received.pop(0)


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
        assert first["after"] == 0
        assert abs(first["now"] - time.time()) < 5
        assert first["content"] == '<div id="board">one</div>', (
            "white space around it would pile up in the page"
        )
        assert (first["target"], first["swap"], first["held"]) == ("#board", "outerMorph", True)
        board.text = "two"
        await say(layer, "tasks")
        second = await frame(outbox)
        assert (second["after"], second["content"]) == (first["seq"], '<div id="board">two</div>')
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


class Fast:
    """A wire that takes all at once, or nothing, and remembers what it took."""

    def __init__(self, is_open: bool = True) -> None:
        self.is_open = is_open
        self.on_open: Callable[[], None] | None = None
        self.messages: list[Message] = []
        self.times: list[float] = []

    def write(self, message: Message) -> None:
        self.messages.append(message)
        self.times.append(time.monotonic())

    @property
    def texts(self) -> list[str]:
        """What each frame said, in order."""
        return [frame["content"] for one in self.messages for frame in json.loads(one.text)["frames"]]

    def open(self) -> None:
        self.is_open = True
        assert self.on_open is not None
        self.on_open()


def quiet(hub: Hub) -> bool:
    """Whether any change would be drawn at once."""
    now = time.monotonic()
    return all(not live.dirty and not live.drawing and live.due < now for live in hub._lives.values())


async def joined(hub: Hub, count: int = 1, page: Page = HERE) -> list[Fast]:
    """Sockets with a wire that have their first frames."""
    wires = [Fast() for _ in range(count)]
    for wire in wires:
        await hub.join(Outbox(page, wire=wire))
    await until(lambda: all(wire.messages for wire in wires))
    return wires


def test_two_hundred_sockets_share_one_draw_and_one_encoding(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        hub = Hub(lambda page: [board.region("a"), board.region("b"), board.region("c")])
        wires = await joined(hub, 200)
        draws, encoded = len(board.draws), hub.counts.encoded
        for text in ("two", "three"):
            board.text = text
            await say(layer, "tasks")
            await until(lambda: all(wire.texts[-1].count(board.text) for wire in wires))
            last = wires[0].messages[-1]
            assert all(wire.messages[-1] is last for wire in wires), "one message, and not one each"
        assert len(board.draws) - draws == 6
        assert hub.counts.encoded - encoded == 2, "the three regions of a page leave together"
        await hub.stop()

    run(story)


def test_a_slow_socket_delays_no_other_and_gets_the_newest(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        hub = Hub(lambda page: [board.region()])
        slow, *others = await joined(hub, 5)
        before = len(slow.messages)
        slow.is_open = False
        for n in range(3):
            board.text = f"text {n}"
            await say(layer, "tasks")
            await until(lambda: all(board.text in wire.texts[-1] for wire in others))
        assert len(slow.messages) == before
        assert sum(outbox.skipped for outbox in hub._sockets) == 2, "text 0 and text 1 were overtaken"
        slow.open()
        assert len(slow.messages) == before + 1
        assert "text 2" in slow.texts[-1]
        numbers = [json.loads(one.text) for one in slow.messages]
        assert all(last["seq"] == one["after"] for last, one in pairwise(numbers)), "no gap to ask about"
        await hub.stop()

    run(story)


def test_a_wire_that_fails_stops_no_other(layer: InMemoryChannelLayer) -> None:
    class Broken(Fast):
        def write(self, message: Message) -> None:
            raise OSError("bad file descriptor")

    async def story() -> None:
        board = Board()
        hub = Hub(lambda page: [board.region()])
        broken = Outbox(HERE, wire=Broken())
        await hub.join(broken)
        (sound,) = await joined(hub)
        assert sound.messages
        assert broken.closed
        await hub.stop()

    run(story)


def test_any_task_draws_every_page_of_a_task(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        one, lists = Board(), Board()
        hub = Hub(
            lambda page: [
                one.region("one", topics=(f"task:{page.view}", "workers")),
                lists.region("list", topics=("tasks",)),
            ]
        )
        wires = [*await joined(hub), *await joined(hub, page=THERE)]
        await until(lambda: {view for view, _ in lists.draws} == {"here", "there"})
        one.draws.clear()
        lists.draws.clear()
        one.text = "two"
        await say(layer, publish.ANY_TASK)
        await until(lambda: all("two" in wire.texts[-1] for wire in wires))
        assert sorted(one.draws) == [("here", "one"), ("there", "one")]
        assert lists.draws == []
        await hub.stop()

    run(story)


def test_when_any_task_may_have_changed_only_those_that_did_are_drawn(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board, stamps = Board(), {"here": 1, "there": 1}
        hub = Hub(
            lambda page: [
                board.region(topics=(f"task:{page.view}", "workers"), stamp=lambda page: stamps[page.view])
            ]
        )
        wires = [*await joined(hub), *await joined(hub, page=THERE)]
        await until(lambda: quiet(hub))
        board.draws.clear()
        board.text, stamps["there"] = "two", 2
        await say(layer, publish.ANY_TASK)
        await until(lambda: "two" in wires[1].texts[-1])
        await until(lambda: quiet(hub))
        assert board.draws == [("there", "board")]
        await say(layer, publish.ANY_TASK)
        await say(layer, "workers")
        await until(lambda: "two" in wires[0].texts[-1])
        assert ("here", "board") in board.draws, "told for certain, whatever else was told"
        await hub.stop()

    run(story)


# Pace


def test_the_first_change_after_quiet_leaves_at_once(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        hub = Hub(lambda page: [board.region()])
        (wire,) = await joined(hub)
        waits = []
        for n in range(5):
            # Quiet: everything that was due has been drawn.
            await until(lambda: quiet(hub))
            board.text, told = f"text {n}", time.monotonic()
            await say(layer, "tasks")
            await until(lambda: board.text in wire.texts[-1])
            waits.append(wire.times[-1] - told)
        assert min(waits) < 0.05, waits
        await hub.stop()

    run(story)


def test_no_region_and_no_socket_gets_more_than_four_frames_a_second(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        boards = [Board(), Board(), Board()]
        hub = Hub(lambda page: [board.region(f"r{n}") for n, board in enumerate(boards)])
        (wire,) = await joined(hub)
        wire.times.clear()
        for board in boards:
            board.draws.clear()
        began = time.monotonic()
        while time.monotonic() - began < 2.0:
            for board in boards:
                board.text = str(time.monotonic())
            await say(layer, "tasks")
            await asyncio.sleep(0.007)
        took = time.monotonic() - began
        for board in boards:
            assert 4 <= len(board.draws) <= 4 * took + 1
        assert len(wire.times) <= 4 * took + 1 + hubs.BURST
        await hub.stop()

    run(story)


def test_what_changed_last_is_shown_though_nothing_follows_it(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        hub = Hub(lambda page: [board.region()])
        (wire,) = await joined(hub)
        for n in range(10):
            board.text = f"text {n}"
            await say(layer, "tasks")
            await asyncio.sleep(0.01)
        await until(lambda: "text 9" in wire.texts[-1])
        await hub.stop()

    run(story)


def test_cheap_regions_are_drawn_before_costly_ones(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        cheap, costly = Board(), Board()
        costly.seconds = 0.1
        hub = Hub(lambda page: [*(costly.region(f"x{n}") for n in range(4)), cheap.region("cheap")])
        (wire,) = await joined(hub)
        await until(lambda: len(costly.draws) == 4 and quiet(hub))
        cheap.text = costly.text = "two"
        told = time.monotonic()
        await say(layer, "tasks")
        await until(lambda: '<div id="cheap">two</div>' in wire.texts)
        assert time.monotonic() - told < 1.0, "it did not wait for the others' turn"
        await until(lambda: '<div id="x3">two</div>' in wire.texts)
        after = [text.split('"')[1] for text in wire.texts if "two" in text]
        assert after[0] == "cheap"
        await hub.stop()

    run(story)


def test_when_draws_wait_for_their_turn_frames_get_coarser_and_come_back(
    layer: InMemoryChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "CALM", 1)

    async def story() -> None:
        board = Board()
        board.seconds = 0.1
        hub = Hub(lambda page: [board.region(f"r{n}", topics=("tasks",)) for n in range(16)])
        await joined(hub)
        slowest = 4
        while slowest > 1:
            board.text = str(time.monotonic())
            hub.changed(("tasks",))
            await asyncio.sleep(0.02)
            slowest = min(slowest, hub.pace.frames)
        assert hub.pace.coarse >= 1
        board.seconds = 0.0
        await until(lambda: hub.pace.frames == 4)
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
        assert (hub.sockets, len(list(hub.lives()))) == (1, 1)
        board.draws.clear()
        board.text = "two"
        await say(layer, "tasks")
        await frame(stays)
        assert board.draws == [("there", "board")]
        hub.leave(stays)
        assert (hub.sockets, list(hub.lives()), hub._topics) == (0, [], {})
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
        while time.monotonic() - began < 5:
            if time.monotonic() - began < 4:
                board.draws.clear()
            hub.changed(("tasks",))
            await asyncio.sleep(0.02)
        assert len(board.draws) < 50, "and not eighty in that second"
        assert hub.counts.failed == 0
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


def test_a_process_whose_first_messages_were_lost_is_a_gap(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        hub, outbox = Hub(lambda page: [board.region()]), Outbox(HERE)
        await hub.join(outbox)
        await frame(outbox)
        await say(layer, "elsewhere", seq=7, origin="a")
        await until(lambda: hub.counts.heard == 1)
        board.text = "two"
        await say(layer, "elsewhere", seq=3, origin="b")
        assert (await frame(outbox))["content"] == '<div id="board">two</div>'
        assert hub.counts.gaps == 1
        await hub.stop()

    run(story)


def test_an_engine_that_falls_silent_does_not_stop_the_pages(
    layer: InMemoryChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer over pub/sub that lost its Redis says nothing at all; the database may be all right."""
    monkeypatch.setattr("dashboard.listening.SILENCE", 0.1)

    async def story() -> None:
        board = Board()
        hub, outbox = Hub(lambda page: [board.region()]), Outbox(HERE)
        await hub.join(outbox)
        await frame(outbox)
        await say(layer, "elsewhere", seq=1, origin="a")
        await until(lambda: hub.counts.heard == 1)
        board.text = "two"
        assert (await frame(outbox))["content"] == '<div id="board">two</div>'
        await hub.stop()

    run(story)


def test_receiving_is_never_cut_short(layer: InMemoryChannelLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    """To ``channels_redis.pubsub`` a receive that is cancelled is the end of its channel."""
    monkeypatch.setattr("dashboard.listening.REJOIN", 0.05)
    receives: list[str] = []
    joins: list[str] = []
    receive, group_add = layer.receive, layer.group_add

    async def counted(channel: str) -> Any:
        receives.append(channel)
        return await receive(channel)

    async def joined(group: str, channel: str) -> None:
        joins.append(channel)
        await group_add(group, channel)

    monkeypatch.setattr(layer, "receive", counted)
    monkeypatch.setattr(layer, "group_add", joined)

    async def story() -> None:
        hub = Hub(lambda page: [])
        await hub.join(Outbox(HERE))
        await until(lambda: len(joins) > 3)
        assert len(receives) == 1
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
    monkeypatch.setattr(listening, "get_channel_layer", lambda: flaky)
    monkeypatch.setattr(listening, "LAYER_RETRY", 0.01)

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
    monkeypatch.setattr(listening, "REJOIN", 0.05)

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
        assert got["after"] == 0
        assert board.text in got["content"]
        await hub.stop()

    run(story)


def test_a_slow_socket_keeps_the_newest_frame_of_each_region() -> None:
    async def story() -> None:
        outbox = Outbox(HERE)
        for n in range(100):
            outbox.put(Frame("a", f'{{"region":"a","n":{n}}}'))
            assert not outbox.flush(Beat()), "nobody has asked for it yet"
        outbox.put(Frame("b", '{"region":"b","n":0}'))
        got = await message(outbox)
        assert [(one["region"], one["n"]) for one in got["frames"]] == [("a", 99), ("b", 0)]
        assert got["after"] == 0, "what the newest replaced leaves no gap"
        assert (outbox.skipped, outbox.dropped) == (99, 0)

    run(story)


def test_a_slow_socket_drops_the_oldest_counts_it_and_shows_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "WAITING", 3)

    async def story() -> None:
        outbox = Outbox(HERE)
        for n in range(5):
            outbox.put(Frame(f"r{n}", f'{{"region":"r{n}"}}'))
        outbox.flush(Beat())
        assert outbox.dropped == 2
        first = await frame(outbox)
        assert (first["region"], first["after"]) == ("r2", -1), "no number that a browser has seen"

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
        assert mine.closed == rights.SIGNED_OUT
        assert not theirs.closed
        await hub.stop()
        assert theirs.closed

    run(story)


def test_there_is_one_hub_in_a_process() -> None:
    async def story() -> None:
        assert hubs.current() is hubs.current()

    run(story)
