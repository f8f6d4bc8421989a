"""How often the hub draws and sends: at once after quiet, four times a second, less under load."""

from __future__ import annotations

import asyncio
import time

import pytest
from channels.layers import InMemoryChannelLayer

from dashboard import hub as hubs
from dashboard import pace
from dashboard.hub import Hub
from dashboard.outbox import Outbox
from tests.hubs import HERE, Board, frame, joined, quiet, run, say, until

pytestmark = pytest.mark.alone


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
        board.work = 0.08
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


def test_a_list_that_was_drawn_late_is_drawn_at_once_when_next_told(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board = Board()
        hub = Hub(lambda page: [board.region(every=0.25)])
        (wire,) = await joined(hub)
        await until(lambda: quiet(hub))
        told = [
            time.monotonic() + late for late in (0.0, 0.4, 0.55)
        ]  # the second late, the third in its step
        for n, at in enumerate(told):
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            board.text = f"text {n}"
            hub.changed(("tasks",))
        await until(lambda: "text 2" in wire.texts[-1])
        assert wire.times[-1] - told[-1] < 0.09, "0.25 after the second draw it would have been 0.1"
        await hub.stop()

    run(story)


def test_slow_regions_leave_with_the_list_and_keep_it_from_no_turn(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        quick, slow = Board(), Board()
        hub = Hub(
            lambda page: [quick.region("list", every=0.25), slow.region("sums", every=0.3, topics=("rates",))]
        )
        (wire,) = await joined(hub)
        began = time.monotonic()
        wire.messages.clear()
        while time.monotonic() - began < 2.5:
            quick.text = slow.text = str(time.monotonic())
            hub.changed(("tasks",) if int(time.monotonic() * 50) % 2 else ("rates",))
            await asyncio.sleep(0.02)
        held = ["list" in message.text for message in wire.messages]
        assert held.count(False) <= 2, "nearly every message holds the list"
        assert len(held) >= 8
        await hub.stop()

    run(story)


def test_a_list_whose_rows_did_not_change_is_not_drawn_again(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        board, rows = Board(), ["a"]
        hub = Hub(lambda page: [board.region(every=0.25, stamp=lambda page: tuple(rows))])
        (wire,) = await joined(hub)
        await until(lambda: quiet(hub))
        drawn = len(board.draws)
        for _ in range(20):
            hub.changed(("tasks",))
            await asyncio.sleep(0.02)
        # The first told of is drawn to learn the stamp; the rest cost a look each.
        assert len(board.draws) <= drawn + 1
        drawn = len(board.draws)
        rows.append("b")
        board.text, told = "two", time.monotonic()
        hub.changed(("tasks",))
        await until(lambda: "two" in wire.texts[-1])
        assert wire.times[-1] - told < 0.15, "looks do not use up its turn"
        await hub.stop()

    run(story)


def test_a_newcomer_gets_all_of_a_page_without_waiting_for_a_turn(layer: InMemoryChannelLayer) -> None:
    async def story() -> None:
        boards = [Board() for _ in range(6)]
        for n, board in enumerate(boards):
            board.seconds = hubs.GATHER * 2 * n
        hub = Hub(lambda page: [board.region(f"r{n}", every=1.0) for n, board in enumerate(boards)])
        (wire,) = await joined(hub)
        await until(lambda: any("r5" in text for text in wire.texts))
        assert len(wire.messages) > 2, "they were not drawn together"
        drawn_at = max(live.drawn_at for live in hub.lives())
        assert wire.times[-1] - drawn_at < 0.1, "what took longer is not held back a quarter of a second"
        await hub.stop()

    run(story)
