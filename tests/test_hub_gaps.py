"""The hub when something fails: a draw, the channel layer, the engine, a socket that is too slow."""

from __future__ import annotations

from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer

from dashboard import hub as hubs
from dashboard import listening
from dashboard import outbox as outboxes
from dashboard.hub import Hub
from dashboard.outbox import Beat, Frame, Outbox
from monitor.publish import GROUP
from tests.hubs import HERE, Board, frame, message, run, say, until


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
