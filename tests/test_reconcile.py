"""After gaps every task is there and right: rows are compared with what result backend and broker hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from monitor import models
from monitor.broker import Broker
from monitor.engine import Engine
from monitor.source import Backoff, RedisSource
from tests.conftest import shop, wait_until
from tests.engines import engines
from tests.faults import MIX, cut, starts_of, truth

pytestmark = [pytest.mark.live, pytest.mark.django_db(transaction=True)]


class Blind(RedisSource):
    """A source that is slow to come back, so that each cut is a gap of a known length."""

    def __init__(self, broker: Broker, seconds: float) -> None:
        super().__init__(broker)
        self._backoff = Backoff(2 * seconds, 2 * seconds)


@pytest.fixture
def engine() -> Iterator[Callable[..., Engine]]:
    """``engine(url, blind=1.0)``: one that stays blind for so many seconds after a cut."""
    with engines() as start:
        yield lambda url, blind=1.0: start(url, source=lambda broker: Blind(broker, blind), inspect_every=1.0)


def rows(uuids: list[str]) -> dict[str, str]:
    return dict(models.Task.objects.filter(uuid__in=uuids).values_list("uuid", "state"))


def difference(url: str, uuids: list[str]) -> dict[str, tuple[str | None, str]]:
    """``{uuid: (our state, the true one)}`` of what is missing or wrong."""
    true, ours = truth(url, uuids), rows(uuids)
    return {uuid: (ours.get(uuid), state) for uuid, state in true.items() if ours.get(uuid) != state}


def heard_starts(uuids: list[str]) -> int:
    """How many starts our rows hold."""
    marks = models.Task.objects.filter(uuid__in=uuids).values_list("marks", flat=True)
    return sum(mark[0] == "started" for of_one in marks for mark in of_one)


def missed(host: str) -> int:
    return int(models.Worker.objects.get(hostname=host).missed)


def send(url: str, number: int, queue: str) -> str:
    name, args = MIX[number % len(MIX)]
    return str(shop(url).send_task(name, args, queue=queue).id)


def test_after_three_gaps_no_task_is_missing_and_none_is_wrong(
    own_valkey: Any, worker: Any, engine: Callable[..., Engine]
) -> None:
    url = own_valkey.url
    one = engine(url)
    host = worker(url, name="gaps", queues=("gaps",), options=("--heartbeat-interval", "1")).hostname
    wait_until(lambda: models.Worker.objects.filter(hostname=host, inspected_at__isnull=False).exists())
    uuids: list[str] = []
    for number in range(150):
        if number in (20, 60, 100):
            wait_until(lambda: one.feed.connected)
            cut(url)
        uuids.append(send(url, number, "gaps"))
        time.sleep(0.02)
    done = {"SUCCESS", "FAILURE"}
    wait_until(lambda: set(truth(url, uuids).values()) <= done, 30, what="every end")
    wait_until(lambda: one.feed.connected)
    before = difference(url, uuids)
    wait_until(lambda: not difference(url, uuids), 20, every=0.25, what=f"{len(before)} rows set right")
    gaps = models.Gap.objects.filter(ended_at__isnull=False)
    assert gaps.count() == 3
    # Found again, not heard: each says how it is known.
    found = models.Task.objects.filter(uuid__in=uuids, known="inferred")
    assert found.count() > 0
    assert set(found.values_list("note", flat=True)) == {"end read from the result backend"}
    # The loss meter knows how many starts were not heard, those that had been retried included.
    true = starts_of(url, host) - heard_starts(uuids)
    wait_until(lambda: missed(host) == true, 20, what=f"{true} missed starts, not {missed(host)}")
    assert one.feed.looked_back["ends read"] > 0


def test_what_was_sent_in_a_gap_and_still_waits_or_runs_is_found(
    own_valkey: Any, worker: Any, engine: Callable[..., Engine]
) -> None:
    url = own_valkey.url
    one = engine(url, blind=3.0)
    host = worker(url, name="holds", queues=("holds",)).hostname
    wait_until(lambda: models.Worker.objects.filter(hostname=host, inspected_at__isnull=False).exists())
    app = shop(url)
    app.send_task("shop.add", [1, 1], queue="nobody")  # so that the queue was once declared
    cut(url)
    wait_until(lambda: not one.feed.connected)
    running = app.send_task("shop.nap", [60], queue="holds").id
    held = app.send_task("shop.nap", [60], queue="holds", countdown=600).id
    waiting = app.send_task("shop.add", [2, 2], queue="nobody").id
    wait_until(lambda: one.feed.connected, 20)
    expected = {running: "STARTED", held: "RECEIVED", waiting: "PENDING"}
    wait_until(lambda: rows(list(expected)) == expected, 20, what=f"{expected}, not {rows(list(expected))}")
    row = models.Task.objects.get(uuid=waiting)
    assert (row.known, row.note, row.queue, row.name) == (
        "inferred",
        "found waiting in queue nobody",
        "nobody",
        "shop.add",
    )
    assert models.Task.objects.get(uuid=running).worker == host


def test_a_start_after_a_time_away_finds_what_happened_meanwhile(
    own_valkey: Any, worker: Any, engine: Callable[..., Engine]
) -> None:
    url = own_valkey.url
    first = engine(url)
    host = worker(url, name="away", queues=("away",)).hostname
    wait_until(lambda: models.Worker.objects.filter(hostname=host, inspected_at__isnull=False).exists())
    uuids = [send(url, number, "away") for number in range(12)]
    first.stop()
    uuids += [send(url, number, "away") for number in range(40)]
    wait_until(lambda: set(truth(url, uuids).values()) <= {"SUCCESS", "FAILURE"}, 30)
    engine(url)
    wait_until(
        lambda: not difference(url, uuids), 20, every=0.25, what=f"all right: {difference(url, uuids)}"
    )
