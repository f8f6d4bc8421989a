"""How often regions are drawn: what gives way under load, and that it comes back."""

from __future__ import annotations

from dashboard.pace import BUDGET, CALM, NARROWEST, STREAM, WIDEST, Pace


def test_at_ease_a_region_is_drawn_four_times_a_second_unless_it_asks_for_less() -> None:
    pace = Pace()
    assert pace.frames == 4
    assert pace.rest(every=0.0, cost=0.002) == 0.25
    assert pace.rest(every=2.0, cost=0.002) == 2.0


def test_a_region_takes_no_more_than_its_share() -> None:
    assert Pace().rest(every=0.25, cost=0.5) == 0.5 / WIDEST


def test_a_long_list_comes_less_often_than_a_short_one() -> None:
    assert Pace().rest(every=0.25, cost=0.001, size=2 * STREAM) == 2.0
    assert Pace().rest(every=0.25, cost=0.001, size=1_000) == 0.25


def test_over_the_budget_the_costly_give_way_and_the_cheap_keep_their_pace() -> None:
    pace = Pace()
    for _ in range(3):
        pace.second(spent=2 * BUDGET, late=0.0)
    assert pace.frames == 4
    assert pace.rest(every=0.25, cost=0.1) > 1.0
    assert pace.rest(every=0.25, cost=0.002) == 0.25


def test_the_share_comes_back_and_has_bounds() -> None:
    pace = Pace()
    for _ in range(50):
        pace.second(spent=10 * BUDGET, late=0.0)
    assert pace.share == NARROWEST
    for _ in range(50):
        pace.second(spent=0.0, late=0.0)
    assert pace.share == WIDEST


def test_waiting_draws_bring_two_frames_a_second_then_one_and_no_less() -> None:
    pace, seen = Pace(), []
    for _ in range(5):
        pace.second(spent=0.1, late=3.0)
        seen.append(pace.frames)
    assert seen == [4, 2, 1, 1, 1], "one late second is a hiccup"
    assert pace.coarse == 3, "seconds at less than four frames"


def test_after_some_calm_seconds_frames_come_faster_again_a_step_at_a_time() -> None:
    pace = Pace()
    for _ in range(3):
        pace.second(spent=0.1, late=3.0)
    for _ in range(CALM):
        assert pace.frames == 1
        pace.second(spent=0.1, late=0.01)
    for _ in range(CALM):
        assert pace.frames == 2
        pace.second(spent=0.1, late=0.01)
    assert pace.frames == 4


def test_a_wait_in_between_begins_the_calm_anew() -> None:
    pace = Pace()
    pace.second(spent=0.1, late=3.0)
    pace.second(spent=0.1, late=3.0)
    for _ in range(CALM - 1):
        pace.second(spent=0.1, late=0.01)
    pace.second(spent=0.1, late=0.3)
    for _ in range(CALM - 1):
        pace.second(spent=0.1, late=0.01)
    assert pace.frames == 2
