"""Under load what only began waits for its end: a second at most, where its name usually ends so soon."""

from __future__ import annotations

import itertools
from typing import Any

from monitor.cluster import Cluster
from monitor.cluster.tasks import HOLD
from monitor.events import event_from_dict
from monitor.records import TaskRecord

NOW = 1_000_000.0


class Busy:
    """A cluster that hears of tasks while so much comes that it holds back."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.cluster.connected(NOW)
        self.now = NOW
        self.asked: list[str] = []
        self._clocks = itertools.count(1)

    def tell(self, uuid: str, *kinds: str, name: str = "quick", every: float = 0.01) -> Busy:
        for kind in kinds:
            self.now += every
            base = {"type": f"task-{kind}", "hostname": "w@host", "pid": 7, "clock": next(self._clocks)}
            known = {"name": name, "args": "()", "kwargs": "{}"} if kind == "received" else {}
            self.cluster.apply(
                event_from_dict(base | {"uuid": uuid, "timestamp": self.now} | known), self.now
            )
        return self

    def rows(self, wait: float = 0.0, *, hold: bool = True) -> dict[str, str]:
        """Uuid and state of what is to be written now."""
        self.now += wait
        self.asked = self.cluster.cold()
        self.cluster.absorb([])
        changed: list[Any] = self.cluster.drain(self.now, hold=hold)
        return {record.uuid: record.state for record in changed if isinstance(record, TaskRecord)}

    def used_to(self, name: str, seconds: float) -> Busy:
        for n in range(5):
            self.tell(f"{name}-{n}", "received", "started", "succeeded", name=name, every=seconds / 2)
        assert set(self.rows().values()) == {"SUCCESS"}
        return self


def test_a_quick_task_is_written_once_when_it_has_ended() -> None:
    busy = Busy().used_to("quick", 0.2)
    assert busy.tell("a", "received").rows() == {}
    assert busy.asked == ["a"]
    assert busy.tell("a", "started").rows() == {}
    # That history knows nothing of it need not be asked again.
    assert busy.asked == []
    assert busy.tell("a", "succeeded").rows() == {"a": "SUCCESS"}
    assert busy.rows() == {}


def test_one_that_takes_longer_than_others_is_shown_after_a_second() -> None:
    busy = Busy().used_to("quick", 0.2).tell("a", "received", "started")
    assert busy.rows() == {}
    assert busy.rows(HOLD / 2) == {}
    assert busy.rows(HOLD / 2) == {"a": "STARTED"}
    assert busy.tell("a", "succeeded").rows() == {"a": "SUCCESS"}


def test_slow_names_and_names_that_nobody_knows_are_shown_at_once() -> None:
    busy = Busy().used_to("slow", 3.0).tell("a", "received", name="slow").tell("b", "received", name="new")
    assert busy.rows() == {"a": "RECEIVED", "b": "RECEIVED"}


def test_a_name_that_becomes_slow_is_not_held_any_longer() -> None:
    busy = Busy().used_to("quick", 0.2)
    for n in range(60):
        busy.tell(f"n{n}", "received", "started", "succeeded", every=1.0).rows()
    assert busy.tell("a", "received").rows() == {"a": "RECEIVED"}


def test_nothing_is_held_when_little_comes() -> None:
    busy = Busy().used_to("quick", 0.2)
    assert busy.tell("a", "received").rows(hold=False) == {"a": "RECEIVED"}


def test_what_was_held_is_written_when_it_is_not_to_wait_any_more() -> None:
    busy = Busy().used_to("quick", 0.2)
    assert busy.tell("a", "received").rows() == {}
    assert busy.cluster.waiting == 1
    assert busy.rows(hold=False) == {"a": "RECEIVED"}
    assert busy.cluster.waiting == 0


def test_a_life_that_is_not_plain_is_held_like_any_other() -> None:
    busy = Busy().used_to("quick", 0.2).tell("a", "received", "started", "retried", "received")
    assert busy.rows() == {}
    assert busy.tell("a", "started", "succeeded").rows() == {"a": "SUCCESS"}
