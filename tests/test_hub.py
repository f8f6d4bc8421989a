"""The hub: one subscription, one draw for all who look at the same page, the newest frame wins."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer

from dashboard import hub as hubs
from dashboard import rights
from dashboard.fragments import Page, Region
from dashboard.hub import Hub
from dashboard.outbox import Message, Outbox
from monitor import publish
from monitor.publish import GROUP
from tests.hubs import HERE, THERE, Board, Fast, Told, frame, joined, quiet, run, say, silent, until


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


@pytest.mark.alone  # three draws are one moment only where nothing else is drawn
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
