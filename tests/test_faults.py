"""Faults of the broker and of workers under load: rows, gaps and losses are compared with the truth.

Where each fault of the list is tested (those of the engine; "soak" runs with ``make soak``):

R01 restart of Redis: ``test_engine_live`` (after_a_broker_restart); soak: 0.1, 1, 10 and 60 s.
R02, R03 Redis stopped or paused: here; that it is noticed: ``test_source_redis`` (a_stopped_redis); soak.
R04 to R06 own subscription killed, once or often: here, ``test_reconcile``; soak.
R07 cut off as a slow consumer: here, ``test_source_redis`` (a_slow_consumer).
R08 five kills are five gaps: ``test_source_redis`` (five_kills).
R10 half-open connection; R11 everything in Redis is gone: here.
R12, R13 wrong password, database, prefix, exchange: ``test_source_redis``, ``test_broker``.
R14 restart of RabbitMQ, R15 it closes our connection, R16 we stand still longer than Celery's queues keep
events, R17 the vhost is closed to us: ``test_faults_rabbitmq``; R15 also ``test_source`` (a_cut_connection).
R18 exact losses on every pool and broker: ``test_losses_live``, ``test_losses``.
R19 no loss counted where none was: soak.
R20 gossip: ``test_losses_live`` (that_gossip); all others run without it.
R21, R22 silent names, events off: ``test_losses_live``, ``test_losses``.
R23, R24 restart, reconnect, pid 1, two of one name: ``test_losses``, ``test_cluster_workers``,
``test_cluster_missed``.
R25, R26 killed and stopping workers: here, ``test_engine_live`` (a_killed_worker).
R27 wrong clocks: ``test_cluster_workers`` (a_wrong_clock).
R28, R29 any order, two workers with one task: ``test_cluster_order``, ``test_cluster_tasks``.
R30 to R33 many names and tasks, a flood: ``test_cluster_account``, ``test_cluster_bounds``, ``test_store``,
``test_shedding``; bench.
R34, R35 restart and kill -9 under load: here, ``test_crash``.
R36, R37 standby, two engines: ``test_scaling_live``, ``test_scaling_lease``; two engines here.
R38, R39 database locked, away, refusing: ``test_engine``, ``test_store``, ``test_postgresql``.
R40 the monitor is harmless: ``test_harmless``; looking back changes nothing: ``test_queues``.
R41 every second call fails: here. R46: soak. R47 looks under load: here.
R42 to R45 pages, channel layer, health, stop: ``test_hub``, ``test_hub_gaps``, ``test_consumers``,
``test_api``, ``test_serve``.

M, bad input. Live, between the events of real tasks: here (bad_messages). One by one:
envelopes, bodies, content types, encodings, pickle, bombs: ``test_events``, ``test_source`` (a_pickle).
Fields missing, of wrong types, huge, infinite, deep; items that are no events; 10 MB; 100,000 events in one
message; mutations with a seed; NUL and surrogates; custom and unknown groups: ``test_events``.
NUL and what a database refuses: ``test_store``, ``test_redact``; as text on pages, in metrics and sockets:
``test_hostile_pages``, ``test_metrics``, ``test_hub``, ``test_product_pages``.
Heartbeats of wrong types or with counters that fall: ``test_events``, ``test_losses``.
Broken answers to inspect: ``test_cluster_workers`` (a_broken_answer), ``test_losses`` (strange_answers).
Broken results and entries of queues: ``test_queues`` (broken_entries).
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from demo.valkey import Server
from monitor import models
from monitor.broker import Broker
from monitor.control import inspect_worker
from monitor.results import Search
from monitor.source import RedisSource
from tests.conftest import shop, wait_until
from tests.engines import feed
from tests.faults import QUICK, Load, Proxy, Rig, gaps

pytestmark = [pytest.mark.live, pytest.mark.django_db(transaction=True)]


def test_kills_a_pause_and_a_stop_of_redis_leave_no_task_missing_or_wrong(rig: Rig, worker: Any) -> None:
    """R02, R03, R04: and each is a gap, and the lost starts are counted exactly."""
    one = worker(rig.url, name="tough", queues=("tough",), options=QUICK).hostname
    rig.online(one)
    with Load(rig.url, ["tough"], rate=30) as load:
        time.sleep(0.5)
        for _ in range(2):
            rig.cut()
            wait_until(lambda: not rig.engine.feed.connected or len(gaps()) > 0)
            wait_until(lambda: rig.engine.feed.connected)
            time.sleep(0.3)
        rig.pause(1.0)
        with rig.stopped():
            time.sleep(1.0)
        time.sleep(0.3)
    rig.all_right(load.uuids)
    rig.missed_is_exact(one, load.uuids)
    assert len(gaps()) >= 2
    assert all(end is not None and end >= start for start, end, _ in gaps())
    drift = models.Worker.objects.get(hostname=one).drift
    assert drift is None or abs(drift) < 1.0  # that Redis stood still is no wrong clock


def test_a_slow_consumer_is_cut_off_named_and_set_right(rig: Rig, worker: Any) -> None:
    """R07: the engine cannot read for a while; Redis cuts it off at 1 MB."""
    one = worker(rig.url, name="slow", queues=("slow",), options=QUICK).hostname
    rig.online(one)
    with rig.client() as client:
        client.config_set("client-output-buffer-limit", "pubsub 1048576 0 0")
    filler = json.dumps({"body": "x" * 200_000})
    with Load(rig.url, ["slow"], rate=30) as load, rig.client() as client:
        time.sleep(0.3)
        with rig.held():
            deadline = time.monotonic() + 30
            # Until nobody hears it: sockets hold some MB, or 36.
            while client.publish("/0.celeryev/task.custom", filler):
                assert time.monotonic() < deadline, "Redis cut nobody off"
        wait_until(lambda: len(gaps()) > 0 and gaps()[-1][1] is not None, what="the gap")
    assert gaps()[0][2].startswith("slow consumer: Redis cut us off at 1 MB")
    wait_until(lambda: feed().output_cuts == 1)
    rig.all_right(load.uuids)
    rig.missed_is_exact(one, load.uuids)


def test_a_worker_killed_and_one_that_stops_are_told_apart(rig: Rig, worker: Any) -> None:
    """R25, R26."""
    killed = worker(rig.url, name="killed", queues=("killed",), options=QUICK)
    stops = worker(rig.url, name="stops", queues=("stops",), options=QUICK, grace=60)
    rig.online(killed.hostname, stops.hostname)
    app = shop(rig.url)
    lost = app.send_task("shop.nap", [60], queue="killed").id
    ends = app.send_task("shop.nap", [8], queue="stops").id
    running = models.Task.objects.filter(uuid__in=[lost, ends], state="STARTED")
    wait_until(lambda: running.count() == 2)
    killed.kill()
    stops.process.ask_to_stop()
    gone = models.Worker.objects.filter(status="offline")
    wait_until(lambda: gone.filter(hostname=stops.hostname).exists(), 2, what="the goodbye")
    assert models.Task.objects.get(uuid=ends).state == "STARTED"  # it runs on after the goodbye
    wait_until(lambda: gone.count() == 2, 20)
    said = dict(models.Worker.objects.values_list("hostname", "reason"))
    assert said == {killed.hostname: "silent since", stops.hostname: "said goodbye"}
    wait_until(lambda: models.Task.objects.get(uuid=lost).state == "LOST", 20)
    # A prefork worker that stops tells of an end up to two seconds after the backend has it, as its last
    # words: until then the row may hold what was read there, and from then on what was heard.
    row = models.Task.objects.filter(uuid=ends)
    wait_until(lambda: row.get().known == "seen" and row.get().state != "STARTED", 20, what="the event")
    one = row.get()
    assert (one.state, one.result, one.worker) == (rig.truth([ends])[ends], "8", stops.hostname)
    assert one.state == "SUCCESS"


def test_a_restart_of_the_engine_under_load_leaves_no_task_missing_or_wrong(rig: Rig, worker: Any) -> None:
    """R34: what ran meanwhile is found, and what runs or waits for its time is there."""
    one = worker(rig.url, name="again", queues=("again",), options=QUICK, concurrency=4).hostname
    rig.online(one)
    app = shop(rig.url)
    with Load(rig.url, ["again"], rate=30) as load:
        time.sleep(0.5)
        rig.stop()
        runs = app.send_task("shop.nap", [60], queue="again").id
        held = app.send_task("shop.nap", [1], queue="again", countdown=600).id
        time.sleep(1.0)
        rig.start()
        time.sleep(0.5)
    rig.all_right(load.uuids)
    states = models.Task.objects.filter(uuid__in=[runs, held]).values_list("uuid", "state")
    wait_until(lambda: dict(states.all()) == {runs: "STARTED", held: "RECEIVED"}, 10)


def test_two_engines_by_mistake_end_in_the_same_rows(rig: Rig, worker: Any) -> None:
    """R37."""
    one = worker(rig.url, name="twice", queues=("twice",), options=QUICK).hostname
    rig.online(one)
    second = Rig(rig.server)  # of the same database
    with Load(rig.url, ["twice"], rate=30) as load:
        time.sleep(1.5)
    rig.all_right(load.uuids)
    second.stop()
    rig.all_right(load.uuids)
    assert models.Task.objects.count() == len(load.uuids)
    assert models.Worker.objects.get(hostname=one).missed == 0


def test_when_everything_in_redis_is_gone_history_stays(rig: Rig, worker: Any) -> None:
    """R11: and new tasks are followed as before."""
    one = worker(rig.url, name="wiped", queues=("wiped",), options=QUICK).hostname
    rig.online(one)
    app = shop(rig.url)
    before = [app.send_task("shop.add", [1, n], queue="wiped").id for n in range(10)]
    rig.all_right(before)
    with rig.client() as client:
        client.flushall()
    after = [app.send_task("shop.add", [1, n], queue="wiped").id for n in range(10)]
    rig.all_right(after)
    states = models.Task.objects.filter(uuid__in=before).values_list("state", flat=True)
    assert list(states) == ["SUCCESS"] * 10


def test_a_half_open_connection_is_found_within_two_heartbeats(valkey: Server) -> None:
    """R10: a proxy that swallows everything from one moment on, and closes nothing."""
    proxy = Proxy(valkey.port)
    password = redis.Redis.from_url(valkey.url).connection_pool.connection_kwargs.get("password") or ""
    broker = Broker(f"redis://:{password}@127.0.0.1:{proxy.port}/0")
    states: list[tuple[bool, float]] = []

    async def story() -> None:
        source = RedisSource(broker)
        runner = asyncio.create_task(
            source.run(lambda decoded, at: None, lambda ok, why, since=None: states.append((ok, time.time())))
        )
        async with asyncio.timeout(30):
            while not states:
                await asyncio.sleep(0.02)
            proxy.swallow.set()
            began = time.time()
            while len(states) < 2:
                await asyncio.sleep(0.02)
            assert states[1][0] is False
            assert states[1][1] - began < 8.0
            proxy.swallow.clear()
            while not states[-1][0]:
                await asyncio.sleep(0.02)
        source.stop()
        await runner

    try:
        asyncio.run(story())
    finally:
        proxy.close()


def test_looks_at_workers_under_load_lose_no_reply_and_a_dead_one_spoils_none(rig: Rig, worker: Any) -> None:
    """R47."""
    one = worker(rig.url, name="asked", queues=("asked",), options=QUICK).hostname
    rig.online(one)
    times = []
    with Load(rig.url, ["asked"], rate=40):
        for number in range(60):
            if number % 20 == 10:
                assert inspect_worker("nobody@nowhere", timeout=0.2) is None
            began = time.monotonic()
            found = inspect_worker(one, timeout=5.0)
            times.append(time.monotonic() - began)
            assert found is not None
            assert found.stats is not None and found.active is not None and found.reserved is not None
    assert sorted(times)[len(times) // 2] < 1.0


def test_bad_messages_cost_a_count_each_and_no_good_event(rig: Rig, worker: Any) -> None:
    """M, live: broken, hostile and huge messages on the event channel between the events of real tasks."""
    one = worker(rig.url, name="mud", queues=("mud",), options=QUICK).hostname
    rig.online(one)
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    good = json.dumps(
        {"type": "task-started", "uuid": "x", "hostname": "evil@h", "timestamp": 1.0, "pid": 1, "clock": 1}
    )
    bad: list[bytes | str] = [
        "",
        "[]",
        "null",
        "{",
        "\x00",
        b"\xff" * 50,
        '{"body": 5}',
        '{"body": "%%%"}',
        "[" * 50_000,
    ]
    bad += [
        json.dumps({"body": "gASVAA==", "content-type": "application/x-python-serialize", "properties": {}})
    ]
    bad += [
        json.dumps({"body": good[: rng.randrange(len(good))], "content-type": "application/json"})
        for _ in range(100)
    ]
    bad += ["".join(rng.choice(good) for _ in range(200)) for _ in range(100)]
    plain = {"content-type": "application/json", "properties": {"body_encoding": "utf-8"}}
    odd = [json.dumps({"type": kind}) for kind in ("task-x", "worker-x", "a", "")]
    bad += [json.dumps({"body": body} | plain) for body in odd]
    with Load(rig.url, ["mud"], rate=30) as load, rig.client() as client:
        end = time.time() + 1.5
        sent = 0
        while time.time() < end:
            client.publish("/0.celeryev/task.multi", bad[sent % len(bad)])
            sent += 1
            time.sleep(0.002)
    rig.all_right(load.uuids)
    wait_until(
        lambda: feed().accounting.malformed + feed().accounting.ignored >= sent, what=f"{sent} counted"
    )
    assert not gaps()
    assert models.Worker.objects.get(hostname=one).missed == 0


@pytest.mark.parametrize("part", ["read_results", "search_results", "inspect", "write", "load"])
def test_calls_that_fail_now_and_then_end_in_the_same_rows(
    rig: Rig, worker: Any, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """R41: every second call fails while there is a gap to make good."""
    one = worker(rig.url, name="nth", queues=("nth",), options=QUICK).hostname
    rig.online(one)
    place: Any = rig.engine.options.store if part in ("write", "load") else rig.engine.options.broker
    if part == "inspect":
        place, part = rig.engine._rounds.ask, "inspect_worker"
    working: Callable[..., Any] = getattr(place, part)
    calls = [0]

    def flaky(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] % 2:
            raise OSError("injected")
        return working(*args, **kwargs)

    monkeypatch.setattr(place, part, flaky)
    if part == "read_results":
        # A look back at all results would leave nothing to ask for by name.
        monkeypatch.setattr(place, "search_results", lambda *_: Search())
    if hasattr(rig.engine._rounds, part):
        monkeypatch.setattr(rig.engine._rounds, part, flaky)
    with Load(rig.url, ["nth"], rate=30) as load:
        time.sleep(0.4)
        # One cut may hide nothing that has to be made good: a second of them hides the end of something.
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            rig.cut()
            time.sleep(0.02)
        time.sleep(0.8)
    heard = models.Task.objects.filter(uuid__in=load.uuids).values_list("uuid", flat=True)
    rig.all_right(list(heard) if part == "read_results" else load.uuids)
    wait_until(lambda: calls[0] >= 2)
