"""A worker that is online and works nothing: said when it is so, and never of one that rests for a reason."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from django.test import Client

from dashboard import access
from dashboard.queries import attention, stalled, workers
from monitor import models, queues
from monitor.cluster import Cluster
from monitor.cluster.stalled import STARTING, Held, held, rests, waits
from monitor.engine.stalls import EVERY, FRESH, PATIENCE, Stalls
from monitor.events import event_from_dict
from monitor.queues import Depth
from monitor.records import FeedRecord, Inspection, Stalled, TaskRecord
from tests.conftest import shop, wait_until
from tests.engines import engines, feed
from tests.test_workers_page import worker

NOW = 1_000_000.0
W = "w@host"


class Story:
    """One worker by its heartbeats and answers, and a broker that tells depths, in a time of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOW
        self.cluster = Cluster()
        self.cluster.connected(self.now)
        self.clock, self.processed, self.active = 0, 5, 0
        self.depths: dict[str, int | None] = {}
        self.is_down = False
        self.reads = 0
        self.beating = True
        self.answers: dict[str, Any] = {"active": [], "reserved": [], "scheduled": []}
        self.inspected = True
        monkeypatch.setattr(queues, "depths", self._depths)
        self.stalls = Stalls(self.cluster, object(), lambda: self.now, self._call)  # type: ignore[arg-type]  # depths are faked: no broker is asked

    def _depths(self, broker: object, names: list[str]) -> list[Depth]:
        self.reads += 1
        if self.is_down:
            raise OSError("gone")
        return [Depth(name, self.depths.get(name, 0)) for name in names]

    async def _call(self, what: Any, *values: Any) -> Any:
        return what(*values)

    def say(self, kind: str, host: str = W, **fields: Any) -> None:
        self.clock += 1
        base = {"type": kind, "hostname": host, "pid": 1, "clock": self.clock, "timestamp": self.now}
        self.cluster.apply(event_from_dict(base | fields), self.now)

    def inspect(self, **more: Any) -> None:
        queue = {"active_queues": [{"name": "pay"}], "registered": ["shop.add"], "conf": {}}
        stats = {"pid": 1, "prefetch_count": 8, "uptime": 600}
        answers = {"stats": stats, **queue, **self.answers, **more}
        self.cluster.reconcile(Inspection(W, self.now, **answers), self.now)

    def go_on(self, seconds: float) -> list[Stalled]:
        """Heartbeats every 2 s, an inspection every 5, a look whenever it is due; who is told at the end."""
        until = self.now + seconds
        while self.now < until:
            self.now += 0.5
            if self.beating and self.now % 2 == 0:
                self.say("worker-heartbeat", freq=2.0, active=self.active, processed=self.processed)
            if self.inspected and self.now % 5 == 0:
                self.inspect()
            self.cluster.tick(self.now)
            self.cluster.cold()
            self.cluster.absorb([])
            self.cluster.drain(self.now)
            if self.stalls.is_due(self.now):
                asyncio.run(self.stalls.look())
        return self.stalls.found

    def sent(self, uuid: str, **fields: Any) -> None:
        self.say("task-sent", "gen1@c", uuid=uuid, name="shop.add", queue="pay", **fields)


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> Story:
    one = Story(monkeypatch)
    one.say("worker-online", freq=2.0, active=0, processed=5)
    one.inspect()
    one.go_on(60)
    return one


def told(found: list[Stalled]) -> list[tuple[str, int, str, bool]]:
    return [(one.hostname, one.waiting, one.queue, one.by_events) for one in found]


def eta(story: Story, seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(story.now + seconds))


# It is told


def test_messages_that_wait_while_it_rests_are_told_after_ten_seconds(story: Story) -> None:
    story.depths["pay"] = 12
    assert not story.go_on(PATIENCE - 1)
    assert told(story.go_on(1 + EVERY + 2)) == [(W, 12, "pay", False)]
    (one,) = story.stalls.found
    assert PATIENCE <= story.now - one.since <= PATIENCE + 2 * EVERY
    assert story.stalls.depths == {"pay": 12}


def test_what_it_reserved_and_does_not_begin_is_told(story: Story) -> None:
    story.answers["reserved"] = [{"id": f"u{n}", "name": "shop.add"} for n in range(3)]
    assert told(story.go_on(5 + PATIENCE + EVERY)) == [(W, 3, "", False)]


def test_it_is_told_within_twenty_seconds_of_its_last_task(story: Story) -> None:
    story.active = 1
    story.depths["pay"] = 9
    assert not story.go_on(30)
    story.active, story.processed = 0, 6
    assert told(story.go_on(2 + 2 + PATIENCE + 2 * EVERY)) == [(W, 9, "pay", False)]


def test_the_moment_it_works_again_nothing_is_told(story: Story) -> None:
    story.depths["pay"] = 12
    assert story.go_on(20)
    story.processed += 1
    assert not story.go_on(2 + EVERY)
    assert not story.go_on(PATIENCE - 3)
    assert story.go_on(10)


def test_a_broker_that_does_not_tell_depths_leaves_it_to_events(story: Story) -> None:
    story.depths["pay"] = None
    assert not story.go_on(30)
    for n in range(4):
        story.sent(f"u{n}")
    story.sent("later", eta=eta(story, 900))
    assert not story.go_on(10)
    assert told(story.go_on(10)) == [(W, 4, "pay", True)]


# It is not told


def test_an_idle_cluster_has_no_such_worker(story: Story) -> None:
    assert not story.go_on(120)
    assert story.reads > 10


def test_one_that_works_is_none_however_much_waits(story: Story) -> None:
    story.depths["pay"] = 5_000
    for _ in range(20):
        story.processed += 1
        assert not story.go_on(2)
    story.active = 1
    assert not story.go_on(60)


def test_one_that_says_itself_that_it_works_is_none(story: Story) -> None:
    story.depths["pay"] = 12
    story.answers["active"] = [{"id": "u1", "name": "shop.add"}]
    assert not story.go_on(60)


def test_one_that_just_started_is_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(monkeypatch)
    story.depths["pay"] = 12
    story.say("worker-online", freq=2.0, active=0, processed=5)
    story.inspect(stats={"pid": 1, "prefetch_count": 8, "uptime": 1})
    story.inspected = False
    assert not story.go_on(STARTING + PATIENCE - 4)
    assert story.go_on(10)


def test_a_queue_whose_waiting_tasks_all_have_an_eta_is_no_reason(story: Story) -> None:
    story.depths["pay"] = 2
    for n in range(2):
        story.sent(f"u{n}", eta=eta(story, 900))
    assert not story.go_on(60)
    story.depths["pay"] = 3
    assert told(story.go_on(15)) == [(W, 1, "pay", False)]


def test_a_window_full_of_tasks_with_an_eta_is_no_reason(story: Story) -> None:
    story.depths["pay"] = 12
    story.answers["scheduled"] = [{"eta": "x", "request": {"id": f"u{n}"}} for n in range(8)]
    assert not story.go_on(60)
    story.answers["scheduled"].pop()
    assert story.go_on(20)
    story.answers["conf"] = {"worker_eta_task_limit": 7}
    assert not story.go_on(10)


def test_tasks_held_back_by_their_rate_are_no_reason(story: Story) -> None:
    story.answers["registered"] = ["shop.add [rate_limit=1/m]"]
    story.depths["pay"] = 12
    for n in range(4):
        story.say("task-received", uuid=f"u{n}", name="shop.add")
    story.answers["reserved"] = [{"id": "u0", "name": "shop.add"}]
    assert not story.go_on(60)
    # Of the rest of what it reserved there is no such reason.
    story.answers["reserved"] += [{"id": "u9", "name": "shop.pay"}]
    assert told(story.go_on(20)) == [(W, 1, "", False)]


def test_what_nobody_can_tell_of_rates_is_not_guessed(story: Story) -> None:
    story.answers["registered"] = ["shop.add [rate_limit=1/m]"]
    story.depths["pay"] = 12
    assert not story.go_on(60), "its task events were never heard: it may hold limited tasks"


def test_while_umbel_is_blind_and_right_after_nothing_is_told(story: Story) -> None:
    story.depths["pay"] = 12
    assert story.go_on(20)
    story.cluster.disconnected(story.now, "gone")
    story.beating = story.inspected = False
    assert not story.go_on(40)
    story.cluster.connected(story.now)
    story.beating = story.inspected = True
    assert not story.go_on(PATIENCE - 1)
    assert story.go_on(10)


def test_a_broker_that_does_not_answer_starts_the_wait_anew(story: Story) -> None:
    story.depths["pay"] = 12
    assert story.go_on(20)
    story.is_down = True
    assert not story.go_on(EVERY)
    assert story.stalls.depths == {}
    story.is_down = False
    assert not story.go_on(PATIENCE - 1)
    assert story.go_on(2 * EVERY)


def test_a_pause_of_the_engine_itself_is_not_taken_for_a_wait(story: Story) -> None:
    story.depths["pay"] = 12
    story.go_on(EVERY)
    story.now += FRESH + 1
    asyncio.run(story.stalls.look())
    assert not story.stalls.found


def test_beat_a_name_used_twice_and_one_without_heartbeats_are_not_judged(story: Story) -> None:
    one = story.cluster.workers.known[W]
    assert rests(one, story.now)
    for field in ("is_beat", "duplicate"):
        setattr(one.record, field, True)
        assert not rests(one, story.now)
        setattr(one.record, field, False)
    one.record.status = "unknown"
    assert not rests(one, story.now)


def test_odd_answers_do_no_harm(story: Story) -> None:
    one = story.cluster.workers.known[W]
    one.record.inspected_at = story.now
    for odd in ([{"name": ["x"]}], [{}], [7, None], "x", {"a": 1}, None):
        one.record.details = {"reserved": odd, "scheduled": odd, "active": [], "registered": odd, "conf": odd}
        waits(one, {"pay": 3}, Held())


def test_what_waited_before_umbel_listened_is_no_proof_by_events() -> None:
    rows = [
        TaskRecord("old", state="PENDING", queue="pay", name="n", seen_at=NOW - 100),
        TaskRecord("new", state="PENDING", queue="pay", name="n", seen_at=NOW - 30),
        TaskRecord("just", state="PENDING", queue="pay", name="n", seen_at=NOW - 1),
        TaskRecord("later", state="PENDING", queue="pay", name="n", seen_at=NOW - 30, eta=NOW + 5),
        TaskRecord("here", state="RECEIVED", worker=W, name="n", seen_at=NOW - 100),
        TaskRecord("there", state="RECEIVED", worker=W, name="n", eta=NOW + 5),
        None,
    ]
    found = held(rows, NOW - 60, NOW)
    assert dict(found.due) == {("pay", "n"): 1}
    assert dict(found.later) == {"pay": 1}
    assert dict(found.reserved) == {(W, "n"): 1}


# It is shown


def tell(*stalled: Stalled, **more: Any) -> None:
    now = time.time()
    record = FeedRecord(
        **{"connected": True, "since": now - 90, "last_event_at": now, "stalled": [*stalled]} | more
    )
    models.Feed.objects.update_or_create(pk=1, defaults={"at": now, "data": msgspec.to_builtins(record)})


@pytest.mark.django_db
def test_the_alarm_has_its_evidence_and_its_remedy() -> None:
    now = time.time()
    worker("a@h")
    worker("b@h", size=0)
    worker("c@h")
    worker("d@h", size=0, autoscale_max=4, autoscale_min=0)
    tell(Stalled("a@h", now - 7200, 12, "pay"), Stalled("b@h", now - 10800, 1))
    found = {item.title: item.text for item in attention.current()}
    assert found == {
        "a@h works nothing": "12 messages wait in pay and it has begun none for 2\u00a0h\u00a000\u00a0min. "
        "Its consumer did not come back: restart the worker.",
        "b@h has no pool process": "It holds 1 reserved task and has "
        "begun none for 3\u00a0h\u00a000\u00a0min. "
        "Grow its pool by one.",
    }
    tell(Stalled("d@h", now - 10800, 3, "pay", True))
    texts = [item.text for item in attention.current() if item.title.startswith("d@h")]
    assert texts == [
        "3 tasks wait in pay, by events, and it has begun none for 3\u00a0h\u00a000\u00a0min. "
        "Its autoscaler keeps no process: raise its limits, or restart the worker."
    ]


@pytest.mark.django_db
def test_while_the_feed_is_down_no_worker_is_blamed() -> None:
    worker("a@h", status="unknown")
    tell(Stalled("a@h", time.time() - 75, 12, "pay"), connected=False, error="refused")
    assert [item.title for item in attention.current()] == ["Umbel cannot reach the broker"]


@pytest.mark.django_db
def test_the_list_and_the_page_of_the_worker_say_so(client: Client) -> None:
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    row = worker("a@h")
    worker("b@h")
    tell(Stalled("a@h", time.time() - 75, 12, "<b>pay"))
    html = client.get("/workers/").content.decode()
    assert html.count("works nothing") == 1
    page = client.get(f"/workers/{row.pk}/").content.decode()
    assert "Works nothing.</b> 12 messages wait in &lt;b&gt;pay" in page
    assert "restart the worker" in page
    tell()
    assert "orks nothing" not in client.get(f"/workers/{row.pk}/").content.decode()


# Really


@pytest.fixture
def engine() -> Iterator[Any]:
    with engines() as start:
        yield start


@pytest.mark.live
@pytest.mark.django_db(transaction=True)
def test_a_pool_shrunk_to_none_is_told_and_grown_again_it_is_not(
    own_valkey: Any, worker: Any, engine: Any
) -> None:
    url = own_valkey.url
    engine(url, inspect_every=1.0)
    here = worker(url, queues=("none",), concurrency=2).hostname
    idle = worker(url, queues=("idle",), concurrency=1).hostname
    app = shop(url)
    wait_until(lambda: models.Worker.objects.filter(hostname__in=[here, idle], size__gt=0).count() == 2)
    app.control.pool_shrink(2, destination=[here], reply=True, timeout=5)
    wait_until(lambda: models.Worker.objects.get(hostname=here).size == 0, 20)
    uuids = [app.send_task("shop.add", [n, n], queue="none").id for n in range(5)]
    found = wait_until(lambda: feed().stalled, 40, what="the worker without a process")
    assert [one.hostname for one in found] == [here]
    assert 1 <= found[0].waiting <= 5
    assert models.Task.objects.filter(uuid__in=uuids, state="SUCCESS").count() == 0
    app.control.pool_grow(1, destination=[here], reply=True, timeout=5)
    wait_until(lambda: models.Task.objects.filter(uuid__in=uuids, state="SUCCESS").count() == 5, 30)
    wait_until(lambda: not feed().stalled, 20)


@pytest.mark.live
@pytest.mark.django_db(transaction=True)
def test_a_consumer_that_is_gone_is_told_and_a_restart_of_the_worker_is_the_remedy(
    own_valkey: Any, worker: Any, engine: Any
) -> None:
    url = own_valkey.url
    engine(url, inspect_every=1.0)
    one = worker(url, name="deaf", queues=("deaf",), concurrency=1)
    row = wait_until(lambda: models.Worker.objects.filter(hostname=one.hostname, size__gt=0).first(), 20)
    app = shop(url)
    said = app.control.broadcast("go_deaf", destination=[one.hostname], reply=True, timeout=5)
    assert said == [{one.hostname: {"ok": "deaf"}}]
    uuids = [app.send_task("shop.add", [n, n], queue="deaf").id for n in range(2)]
    (found,) = wait_until(lambda: feed().stalled, 60, what="the worker that takes nothing")
    assert (found.hostname, found.queue, found.waiting) == (one.hostname, "deaf", 2)
    view = workers.one(row.pk)
    assert view is not None and view.size == 1
    assert stalled.remedy(view) == "Its consumer did not come back: restart the worker."
    one.stop()
    worker(url, name="deaf", queues=("deaf",), concurrency=1)
    wait_until(lambda: models.Task.objects.filter(uuid__in=uuids, state="SUCCESS").count() == 2, 60)
    wait_until(lambda: not feed().stalled, 20)
