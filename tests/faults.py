"""What the tests of faults share: an engine, workers under load, faults, and the truth to compare with."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis

from demo.valkey import Server, free_port
from monitor import broker as broker_room
from monitor import models
from monitor.broker import Broker
from monitor.engine import Engine, Options
from monitor.store import Store
from tests.conftest import shop, wait_until
from tests.engines import feed

QUICK = ("--heartbeat-interval", "1")
MIX = (("shop.add", [1, 2]), ("shop.boom", ["no"]), ("shop.nap", [0.05]), ("shop.flaky", [1, 0.1]))


class Load:
    """Sends tasks from a thread of its own, ``rate`` a second, and remembers what it sent."""

    def __init__(self, url: str, queues: list[str], rate: float) -> None:
        self.url, self.queues, self.rate = url, queues, rate
        self.uuids: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _send(self) -> None:
        number = 0
        while not self._stop.wait(1 / self.rate):
            name, args = MIX[number % len(MIX)]
            queue = self.queues[number % len(self.queues)]
            try:
                result = shop(self.url).send_task(name, args, queue=queue, retry=False)
            except Exception:  # noqa: BLE001 the broker is away: this task was never sent
                continue
            self.uuids.append(str(result.id))
            number += 1


class Rig:
    """An engine on a server that faults are done to: broker (but for another ``url``) and result backend."""

    def __init__(self, server: Server, url: str = "") -> None:
        self.server, self.url = server, url or server.url
        self.broker = Broker(self.url, result_backend=server.url)
        self.start()

    def start(self) -> None:
        broker_room.configure(self.broker)
        self.engine = Engine(Options(broker=self.broker, store=Store(), inspect_every=1.0))
        self.engine.start()
        wait_until(lambda: self.engine.feed.connected, what="the engine's connection")

    def stop(self) -> None:
        assert self.engine.stop(20)
        assert not self.engine.failed
        assert not self.engine.crashes

    def online(self, *hostnames: str) -> None:
        known = models.Worker.objects.filter(
            hostname__in=hostnames, status="online", inspected_at__isnull=False
        )
        wait_until(lambda: known.count() == len(hostnames), 20, what=f"{hostnames} online")

    # faults

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.server.url)

    def cut(self) -> None:
        cut(self.server.url)

    def pause(self, seconds: float) -> None:
        with self.client() as client:
            client.client_pause(int(seconds * 1000))
        time.sleep(seconds)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The engine's loop stands still: it hears nothing, and answers to nothing."""
        loop, stands, go_on = self.engine._loop, threading.Event(), threading.Event()
        assert loop is not None

        def stand() -> None:
            stands.set()
            go_on.wait(60)

        loop.call_soon_threadsafe(stand)
        assert stands.wait(20)
        try:
            yield
        finally:
            go_on.set()

    @contextmanager
    def stopped(self, pid: int | None = None) -> Iterator[None]:
        os.kill(pid or self.server.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid or self.server.pid, signal.SIGCONT)

    # the truth

    def truth(self, uuids: list[str]) -> dict[str, str]:
        return truth(self.server.url, uuids)

    def wrong(self, uuids: list[str]) -> dict[str, tuple[str | None, str]]:
        """``{uuid: (our state, the true one)}`` of what is missing or wrong."""
        ours = dict(models.Task.objects.filter(uuid__in=uuids).values_list("uuid", "state"))
        return {
            uuid: (ours.get(uuid), state)
            for uuid, state in self.truth(uuids).items()
            if ours.get(uuid) != state
        }

    def all_right(self, uuids: list[str], timeout: float = 30) -> None:
        """Every task has ended for the backend, and every row says the same."""
        done = {"SUCCESS", "FAILURE"}
        try:
            wait_until(lambda: set(self.truth(uuids).values()) <= done, timeout, what="every true end")
        except AssertionError as late:
            missing = {uuid: state for uuid, state in self.truth(uuids).items() if state not in done}
            rows = list(models.Task.objects.filter(uuid__in=missing).values_list("uuid", "name", "state"))
            raise AssertionError(f"{late}: {missing} of {len(uuids)}; our rows: {rows}") from late
        at_first = Counter(self.wrong(uuids).values())
        wait_until(
            lambda: not self.wrong(uuids),
            timeout,
            every=0.25,
            what=f"{at_first} set right among {len(uuids)}",
        )
        assert len(uuids) == models.Task.objects.filter(uuid__in=uuids).count()
        assert feed().accounting.balanced

    def missed_is_exact(self, hostname: str, uuids: list[str]) -> None:
        """The loss meter says just how many starts our rows lack."""
        marks = models.Task.objects.filter(uuid__in=uuids).values_list("marks", flat=True)
        heard = sum(m[0] == "started" and m[1] == hostname for of_one in marks for m in of_one)
        true = starts_of(self.url, hostname) - heard

        def missed() -> int:
            return int(models.Worker.objects.get(hostname=hostname).missed)

        def account() -> str:
            processes = self.engine.cluster.workers.known[hostname].processes
            return repr([(pid, process.losses) for pid, process in processes.items()])

        try:
            wait_until(lambda: missed() == true, 10)
        except AssertionError as late:
            raise AssertionError(f"{true} missed starts, not {missed()}: {account()}") from late


def cut(url: str) -> None:
    """Ends Umbel's subscription on Redis, and nobody else's."""
    with redis.Redis.from_url(url) as client:
        for one in client.client_list(_type="pubsub"):
            if one["name"] == "umbel":
                client.client_kill_filter(_id=one["id"])


def truth(url: str, uuids: list[str]) -> dict[str, str]:
    """What the result backend says of each task; PENDING where it says nothing."""
    with redis.Redis.from_url(url) as client:
        texts: Any = client.mget([f"celery-task-meta-{uuid}" for uuid in uuids]) if uuids else []
    found = zip(uuids, texts, strict=True)
    return {uuid: json.loads(text)["status"] if text else "PENDING" for uuid, text in found}


def starts_of(url: str, hostname: str) -> int:
    """How many tasks the worker has started, by its own count."""
    stats = shop(url).control.inspect(destination=[hostname], timeout=5).stats()[hostname]
    return int(sum(stats["total"].values()))


def gaps() -> list[tuple[float, float | None, str]]:
    return list(models.Gap.objects.order_by("started_at").values_list("started_at", "ended_at", "reason"))


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
