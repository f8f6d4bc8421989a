"""Faults of the broker and of workers under load: rows, gaps and losses are compared with the truth.

Where each fault of the list is tested (those of the engine; "soak" runs with ``make soak``):

R01 restart of Redis: ``test_engine_live`` (after_a_broker_restart); soak here, 0.1, 1, 10 and 60 s.
R02, R03 Redis stopped or paused: here; that it is noticed: ``test_source`` (a_stopped_redis).
R04 to R06 own subscription killed, once or often: here, ``test_reconcile``; soak here.
R07 cut off as a slow consumer: here, ``test_source`` (a_slow_consumer).
R08 five kills are five gaps: ``test_source`` (five_kills).
R10 half-open connection; R11 everything in Redis is gone: here.
R12, R13 wrong password, database, prefix, exchange: ``test_source``, ``test_broker``.
R14 to R17 RabbitMQ closes the connection: ``test_source`` (a_cut_connection); a restart is not tested.
R18 exact losses on every pool and broker: ``test_losses_live``, ``test_losses``.
R19 no loss counted where none was: soak here.
R20 gossip: the rule does not use gaps of the clock, so it does not depend on it.
R21, R22 silent names, events off: ``test_losses_live``, ``test_losses``.
R23, R24 restart, reconnect, pid 1, two of one name: ``test_losses``, ``test_cluster_workers``.
R25, R26 killed and stopping workers: here, ``test_engine_live`` (a_killed_worker).
R27 wrong clocks: ``test_cluster_workers`` (a_wrong_clock).
R28, R29 any order, two workers with one task: ``test_cluster_order``, ``test_cluster_tasks``.
R30 to R33 many names and tasks, a flood: ``test_cluster_workers``, ``test_store``, ``test_shedding``; bench.
R34, R35 restart and kill -9 under load: here, ``test_crash``.
R36, R37 standby, two engines: ``test_scaling_live``, ``test_scaling_lease``; two engines here.
R38, R39 database locked, away, refusing: ``test_engine``, ``test_store``, ``test_postgresql``.
R40 the monitor is harmless: ``test_harmless``; looking back changes nothing: ``test_queues``.
R41 every second call fails: here. R46 soak here. R47 looks under load: here.
R42 to R45 pages, channel layer, health, stop: ``test_hub``, ``test_consumers``, ``test_api``, ``test_serve``.
M bad input: ``test_events``, ``test_queues`` (broken_entries), ``test_losses`` (strange_answers); live here.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from demo.valkey import Server, free_port
from monitor import models
from monitor.broker import Broker
from monitor.control import inspect_worker
from monitor.results import Search
from monitor.source import RedisSource
from tests.conftest import shop, wait_until
from tests.faults import QUICK, Load, Rig, feed, gaps

pytestmark = [pytest.mark.live, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def rig(own_valkey: Server) -> Iterator[Rig]:
    one = Rig(own_valkey)
    yield one
    one.stop()
    one.broker.close()


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


class Proxy:
    """Between Umbel and Redis; while ``swallow`` is set it passes nothing on and closes nothing."""

    def __init__(self, to: int) -> None:
        self.to, self.port = to, free_port()
        self.swallow = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self.to))
                for a, b in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(a, b), daemon=True).start()

    def _pass(self, a: socket.socket, b: socket.socket) -> None:
        with suppress(OSError):
            while data := a.recv(65536):
                if not self.swallow.is_set():
                    b.sendall(data)
        for one in (a, b):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


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


# long ones: make soak


@pytest.mark.soak
@pytest.mark.parametrize("down", [0.1, 1.0, 10.0, 60.0])
def test_restarts_of_redis_leave_no_task_missing_or_wrong(rig: Rig, worker: Any, down: float) -> None:
    """R01. What the backend never learnt (its write was lost with Redis) no row may claim."""
    hosts = [worker(rig.url, name=f"re{n}", queues=("re",), options=QUICK).hostname for n in range(3)]
    rig.online(*hosts)
    with Load(rig.url, ["re"], rate=40) as load:
        time.sleep(2)
        rig.server.restart(down=down)
        wait_until(lambda: rig.engine.feed.connected, 60)
        time.sleep(5)
    app = shop(rig.url)
    wait_until(lambda: app.control.inspect(timeout=2).active() != {}, 30)
    ended = {"SUCCESS", "FAILURE"}
    wait_until(lambda: not {u: w for u, w in rig.wrong(load.uuids).items() if w[1] in ended}, 120, every=0.5)
    assert feed().accounting.balanced
    assert len(gaps()) >= 1


@pytest.mark.soak
@pytest.mark.parametrize(("kills", "every"), [(10, 2.0), (60, 0.5)])
def test_many_kills_leave_no_task_missing_or_wrong(rig: Rig, worker: Any, kills: int, every: float) -> None:
    """R05, R06."""
    one = worker(rig.url, name="kills", queues=("kills",), options=QUICK).hostname
    rig.online(one)
    with Load(rig.url, ["kills"], rate=60) as load:
        for _ in range(kills):
            rig.cut()
            time.sleep(every)
    rig.all_right(load.uuids, 60)
    rig.missed_is_exact(one, load.uuids)


@pytest.mark.soak
def test_twenty_seconds_without_redis_are_a_gap_and_no_drift(rig: Rig, worker: Any) -> None:
    """R02, R03."""
    one = worker(rig.url, name="stand", queues=("stand",), options=QUICK).hostname
    rig.online(one)
    with Load(rig.url, ["stand"], rate=30) as load:
        rig.pause(20)
        time.sleep(5)
        with rig.stopped():
            time.sleep(20)
        time.sleep(10)
    rig.all_right(load.uuids, 60)
    drift = models.Worker.objects.get(hostname=one).drift
    assert drift is None or abs(drift) < 1.0


@pytest.mark.soak
def test_half_an_hour_without_a_loss_counts_none_and_leaks_nothing(rig: Rig, worker: Any) -> None:
    """R19, R46: on three pools; UMBEL_SOAK_MINUTES says how long."""
    minutes = float(os.environ.get("UMBEL_SOAK_MINUTES", "30"))
    pools = ["prefork", "threads", "gevent"]
    hosts = [worker(rig.url, pool=pool, name=pool, queues=("calm",)).hostname for pool in pools]
    rig.online(*hosts)
    with Load(rig.url, ["calm"], rate=60) as load:
        time.sleep(60)
        files = len(list(Path("/proc/self/fd").iterdir()))
        time.sleep(minutes * 60)
    rig.all_right(load.uuids, 120)
    assert feed().accounting.missed == 0
    assert not gaps()
    assert len(list(Path("/proc/self/fd").iterdir())) <= files + 10
