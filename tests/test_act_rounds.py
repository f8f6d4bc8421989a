"""Looks for the effect of an act of many batches: one for all that were sent since the last."""

from __future__ import annotations

import pytest

from monitor.acts.models import BulkAct
from monitor.models import ControlRecord
from tests.acts import Bench, made, online, tasks

pytestmark = pytest.mark.django_db


@pytest.fixture
def looked() -> list[list[int]]:
    """For each look how many tasks each batch of it had."""
    return []


@pytest.fixture
def bench(looked: list[list[int]]) -> Bench:
    online()

    def look_at(records: list[ControlRecord]) -> None:
        looked.append([len(one.targets) for one in records])
        ControlRecord.objects.filter(pk__in=[one.pk for one in records]).update(completed_at=1.0)

    return Bench(look_at=look_at)


def test_what_was_sent_is_looked_for_every_half_minute_and_once_at_the_end(
    bench: Bench, looked: list[list[int]]
) -> None:
    act = made(tasks(3_200))
    bench.now = act.send_at or 0.0
    bench.look(), bench.look()
    assert len(bench.sent) == 2 and looked == []
    bench.look(31.0)
    assert looked == [[500, 500, 500]]
    bench.until_settling(act)
    assert looked == [[500, 500, 500], [500, 500, 500, 200]]
    for _ in range(5):
        bench.look(31.0)
    assert len(looked) == 2, "nothing is left to look for"


def test_a_look_that_was_lost_is_made_again(bench: Bench, looked: list[list[int]]) -> None:
    act = made(tasks(600))
    bench.until_settling(act)
    ControlRecord.objects.filter(command="revoke").update(completed_at=None)
    bench.look(1.0)
    assert len(looked) == 1
    bench.look(31.0)
    assert len(looked) == 2


def test_after_a_restart_what_is_open_is_looked_for(bench: Bench, looked: list[list[int]]) -> None:
    act = made(tasks(1_200))
    bench.look()
    bench.restart()
    bench.until_settling(act)
    assert looked == [[500, 500, 200]]


def test_an_act_of_one_batch_is_looked_for_by_itself(looked: list[list[int]]) -> None:
    online()
    alone: list[bool] = []
    bench = Bench(look_at=looked.append)
    perform = bench.perform

    def noting(*args: object, looks: bool = True, **options: object) -> ControlRecord:
        alone.append(looks)
        return perform(*args, looks=looks, **options)  # type: ignore[arg-type]  # handed on as they came

    bench.acts.perform = noting
    first = made(tasks(500))
    bench.until_settling(first)
    second = made(tasks(501, prefix="u"))
    bench.until_settling(second)
    assert alone == [True, False, False] and [len(one) for one in looked] == [2]
    assert BulkAct.objects.filter(state="settling").count() == 2
