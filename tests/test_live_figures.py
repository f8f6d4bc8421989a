"""What the feed page says of the live pages themselves."""

from __future__ import annotations

import asyncio
import gc

import pytest

from dashboard import fragments, hub
from dashboard.fragments import Page
from dashboard.outbox import Outbox
from dashboard.queries import live


@pytest.fixture(autouse=True)
def no_other_hub() -> None:
    gc.collect()
    hub._HUBS.clear()
    fragments.load()


def drawn() -> str:
    return fragments.named("feed-pages").draw(Page("feed"))


def test_at_ease_it_is_four_frames_a_second() -> None:
    assert live.pages() == live.Pages(frames=4)
    assert "<dd>4</dd>" in drawn()
    assert "takes too long" not in drawn()


def test_coarser_frames_and_slow_browsers_are_shown() -> None:
    async def story() -> None:
        here, outbox = hub.current(), Outbox(Page("feed"), skipped=7)
        here.pace.level, here.pace.coarse = 1, 12
        here._sockets[outbox] = []
        assert live.pages() == live.Pages(sockets=1, frames=2, coarse=12, skipped=7)
        html = drawn()
        assert "fewer than four, since drawing takes too long" in html
        assert ">12<" in html and ">7<" in html

    asyncio.run(story())


def test_a_region_that_is_costly_to_draw_is_counted() -> None:
    async def story() -> None:
        here = hub.current()
        cheap, costly = (here._live(fragments.named(name), Page("feed")) for name in ("nav", "feed-facts"))
        cheap.cost, costly.cost = 0.001, 0.9
        assert (live.pages().regions, live.pages().slower) == (2, 1)

    asyncio.run(story())
