"""The loss meter against real workers: known messages are dropped on the way, and just those are found."""

from __future__ import annotations

import importlib.util
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from monitor import models
from monitor.broker import Broker
from monitor.events import Decoded
from monitor.source import OnMessage, OnState, ReceiverSource, RedisSource, source_of
from tests.conftest import shop, wait_until
from tests.engines import engines, feed

pytestmark = [pytest.mark.live, pytest.mark.django_db(transaction=True)]

QUICK = ("--heartbeat-interval", "1")


class Lossy:
    """A source that loses messages about tasks while ``share`` says so, and knows exactly what it lost."""

    def __init__(self, inner: RedisSource | ReceiverSource, seed: int = 7) -> None:
        self.inner = inner
        self.share = 0.0
        self.lost: Counter[str] = Counter()  # starts by hostname
        self.passed: Counter[str] = Counter()
        self.messages = 0
        self._rng = random.Random(seed)

    async def run(self, on_message: OnMessage, on_state: OnState) -> None:
        def filtered(decoded: Decoded, at: float) -> None:
            starts = Counter(e.hostname for e in decoded.events if e.type == "task-started")
            if (
                decoded.events
                and decoded.events[0].type.startswith("task-")
                and self._rng.random() < self.share
            ):
                self.messages += 1
                self.lost += starts
                return
            self.passed += starts
            on_message(decoded, at)

        await self.inner.run(filtered, on_state)

    def stop(self) -> None:
        self.inner.stop()


@pytest.fixture
def lossy() -> Iterator[Callable[[str], Lossy]]:
    with engines() as start:

        def source_of_engine(url: str) -> Lossy:
            made: list[Lossy] = []

            def source(broker: Broker) -> Lossy:
                made.append(Lossy(source_of(broker)))
                return made[0]

            start(url, source=source, inspect_every=1.0)
            return made[0]

        yield source_of_engine


def missed() -> dict[str, int]:
    return {hostname: n for hostname, n in models.Worker.objects.values_list("hostname", "missed") if n}


def silent() -> dict[str, int]:
    found = models.Worker.objects.values_list("hostname", "details")
    return {hostname: n for hostname, details in found if (n := details.get("losses", {}).get("silent", 0))}


def run_all(url: str, queues: list[str], name: str, count: int, *args: Any) -> list[Any]:
    return [shop(url).send_task(name, list(args), queue=queue) for queue in queues for _ in range(count)]


def pools() -> list[str]:
    return ["prefork", "threads", "solo", *(["gevent"] if importlib.util.find_spec("gevent") else [])]


def test_exactly_what_was_dropped_is_found_on_every_pool_and_silent_tasks_are_told_apart(
    own_valkey: Any, worker: Any, lossy: Callable[[str], Lossy]
) -> None:
    url = own_valkey.url
    source = lossy(url)
    kinds = pools()
    hosts = {
        kind: worker(url, pool=kind, name=kind, queues=(kind,), options=QUICK).hostname for kind in kinds
    }
    wait_until(
        lambda: (
            models.Worker.objects.filter(inspected_at__isnull=False, heartbeat_at__isnull=False).count()
            == len(kinds)
        ),
        what="a look at every worker",
    )
    source.share = 0.35
    results = run_all(url, kinds, "shop.add", 30, 1, 2) + run_all(url, kinds, "shop.mute", 10, 5)
    for result in results:
        result.get(timeout=60)
    wait_until(lambda: (source.lost + source.passed).total() == 30 * len(kinds), 20, what="every start")
    source.share = 0.0
    assert source.lost.total() > 10
    wait_until(
        lambda: (missed(), silent()) == (dict(source.lost), dict.fromkeys(hosts.values(), 10)),
        20,
        what=f"missed {dict(source.lost)} and silent 10 each, not {missed()} and {silent()}",
    )
    wait_until(
        lambda: (feed().accounting.missed, feed().silent) == (source.lost.total(), 10 * len(kinds)), 10
    )
    for kind, hostname in hosts.items():
        named = models.Worker.objects.get(hostname=hostname).details["losses"]
        assert named["silent_names"] == ["shop.mute"], kind
        assert set(named["missed_names"]) <= {"shop.add"}, kind
    assert feed().accounting.balanced


def test_workers_that_gossip_are_counted_as_exactly(
    own_valkey: Any, worker: Any, lossy: Callable[[str], Lossy]
) -> None:
    """R20: gossip moves their clocks on without an event of theirs, so gaps of it are no losses."""
    url = own_valkey.url
    source = lossy(url)
    names = ["talks", "hears"]
    for name in names:
        worker(url, name=name, queues=(name,), options=QUICK, gossip=True)
    looked = models.Worker.objects.filter(inspected_at__isnull=False, processed__isnull=False)
    wait_until(lambda: looked.count() == 2, what="a look at both")
    for share in (0.0, 0.35):
        source.share = share
        for result in run_all(url, names, "shop.add", 40, 1, 2):
            result.get(timeout=60)
        so_far = 80 if not share else 160
        wait_until(lambda n=so_far: (source.lost + source.passed).total() == n, 20, what="every start")
        source.share = 0.0
        lost = dict(source.lost)
        wait_until(lambda lost=lost: missed() == lost, 20, what=f"{lost} missed")
    assert source.lost.total() > 5
    assert feed().accounting.balanced


def test_exactly_what_was_dropped_is_found_over_rabbitmq(
    rabbitmq: str,
    worker: Any,
    lossy: Callable[[str], Lossy],
) -> None:
    source = lossy(rabbitmq)
    host = worker(rabbitmq, name="hare", queues=("hare",), options=QUICK).hostname
    wait_until(lambda: models.Worker.objects.filter(inspected_at__isnull=False).exists())
    source.share = 0.3
    run_all(rabbitmq, ["hare"], "shop.add", 40, 1, 2)
    wait_until(lambda: (source.lost + source.passed)[host] == 40, 20, what="every start")
    source.share = 0.0
    assert source.lost[host] > 3
    wait_until(lambda: missed() == {host: source.lost[host]}, 20, what=f"{source.lost[host]} missed")


def test_a_worker_without_task_events_is_said_to_have_them_off_and_missed_nothing(
    own_valkey: Any, worker: Any, lossy: Callable[[str], Lossy]
) -> None:
    url = own_valkey.url
    lossy(url)
    one = worker(url, name="off", events=False, options=QUICK)
    wait_until(lambda: models.Worker.objects.filter(inspected_at__isnull=False).exists())

    def is_off() -> bool:
        shop(url).send_task("shop.add", [1, 2]).get(timeout=30)
        return models.Worker.objects.filter(hostname=one.hostname, events_on=False).exists()

    wait_until(is_off, 20, every=0.3, what="events off")
    shop(url).control.enable_events(destination=[one.hostname])
    for _ in range(5):
        shop(url).send_task("shop.add", [1, 2]).get(timeout=30)
    wait_until(lambda: models.Worker.objects.filter(hostname=one.hostname, events_on=True).exists(), 20)
    wait_until(lambda: models.Task.objects.filter(state="SUCCESS", known="seen").count() >= 5, 20)
    assert missed() == {}
