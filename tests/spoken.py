"""An engine over a source that the test speaks through, and workers that answer as it says."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from monitor import models
from monitor.engine import Engine, Options
from monitor.events import Decoded, Event, event_from_dict
from monitor.records import FeedRecord, Inspection, Settled
from monitor.store import Store
from tests.conftest import wait_until

HOST = "w1@here"
clocks = itertools.count(1)


def event(kind: str, uuid: str = "", host: str = HOST, **fields: Any) -> Event:
    base = {"type": kind, "hostname": host, "pid": 7, "clock": next(clocks), "timestamp": time.time()}
    return event_from_dict({"uuid": uuid, **base, **fields} if uuid else base | fields)


def heartbeat(host: str = HOST, kind: str = "worker-heartbeat", **fields: Any) -> Event:
    return event(kind, host=host, freq=2.0, active=0, processed=0, **fields)


def life(uuid: str, *ends: str, name: str = "shop.pay") -> list[Event]:
    begin = [event("task-received", uuid, name=name, args="(1,)", kwargs="{}", retries=0)]
    return begin + [event(f"task-{end}", uuid) for end in ends]


class Spoken:
    """A source that says what the test tells it to."""

    def __init__(self) -> None:
        self.ready = threading.Event()

    async def run(self, on_message: Callable[..., None], on_state: Callable[..., None]) -> None:
        self._loop, self._message, self._state = asyncio.get_running_loop(), on_message, on_state
        self._stopped = asyncio.Event()
        on_state(True, "")
        self.ready.set()
        await self._stopped.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)

    def say(self, *events: Event, malformed: int = 0) -> None:
        decoded = Decoded(events=list(events), malformed=malformed, reasons=["not JSON"] * malformed)
        self._loop.call_soon_threadsafe(self._message, decoded, time.time())

    def state(self, connected: bool, reason: str = "") -> None:
        self._loop.call_soon_threadsafe(self._state, connected, reason)


class Workers:
    """The way to workers that answer what the test tells them to."""

    def __init__(self) -> None:
        self.answers: dict[str, Inspection] = {}
        self.beats: list[str] = []
        self.asked: list[tuple[str, bool]] = []

    def inspect_worker(self, hostname: str, timeout: float = 2.0, full: bool = False) -> Inspection | None:
        self.asked.append((hostname, full))
        answer = self.answers.get(hostname)
        return None if answer is None else msgspec.structs.replace(answer, asked_at=time.time())

    def answering(self, hostnames: Sequence[str], timeout: float = 1.0) -> set[str]:
        self.asked += [(name, False) for name in hostnames if name not in self.answers]
        return {name for name in hostnames if name in self.answers}

    def discover(self, timeout: float = 1.5) -> list[tuple[str, bool]]:
        return [(name, False) for name in self.answers] + [(name, True) for name in self.beats]


def answer(host: str = HOST, **lists: Any) -> Inspection:
    known: dict[str, Any] = {"stats": {"pid": 7, "pool": {"implementation": "prefork", "processes": [1, 2]}}}
    known |= {"active": [], "reserved": [], "scheduled": [], "revoked": [], "active_queues": []}
    return Inspection(host, 0.0, **(known | lists))


class Watch:
    """A running engine and all that the test may do to it."""

    def __init__(self, **options: Any) -> None:
        self.source, self.workers = Spoken(), Workers()
        self.results: dict[str, Settled] = {}
        self.told: list[set[str]] = []
        self.broker = SimpleNamespace(
            shown="redis://:[hidden]@h/0",
            transport="redis",
            read_results=lambda uuids: [self.results[u] for u in uuids if u in self.results],
        )
        self.options = {"store": Store(), "inspect_every": 0.3, "end_grace": 0.5} | options

    def start(self) -> Watch:
        self.engine = Engine(
            Options(
                broker=self.broker,  # type: ignore[arg-type]  # source and ask stand for it
                source=self.source,
                ask=self.workers,
                publish=self.tell,
                **self.options,
            )
        )
        self.engine.start()
        assert self.source.ready.wait(30)
        return self

    def tell(self, topics: Iterable[str]) -> None:
        self.told.append(set(topics))


def state_of(uuid: str) -> str | None:
    return models.Task.objects.filter(uuid=uuid).values_list("state", flat=True).first()


def feed() -> FeedRecord:
    row = models.Feed.objects.filter(pk=1).first()
    return msgspec.convert(row.data, FeedRecord) if row else FeedRecord()


def until_state(uuid: str, state: str, timeout: float = 10.0) -> models.Task:
    wait_until(lambda: state_of(uuid) == state, timeout, what=f"{uuid} {state} (is {state_of(uuid)})")
    return models.Task.objects.get(uuid=uuid)


@pytest.fixture
def watch(transactional_db: None) -> Iterator[Callable[..., Watch]]:
    started: list[Watch] = []

    def start(**options: Any) -> Watch:
        started.append(Watch(**options))
        return started[-1].start()

    yield start
    for one in started:
        assert one.engine.stop(20), "the engine did not stop"
