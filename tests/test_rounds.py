"""The rounds among workers: nobody's end is made up from an answer that was cut, late or never came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from monitor.cluster import Cluster
from monitor.engine import ends
from monitor.engine.rounds import CUT_AT, Rounds
from monitor.events import event_from_dict
from monitor.records import Inspection, Settled, TaskRecord
from tests.conftest import PATIENCE

W = "w@host"


class Story:
    """A cluster, its rounds and one worker, in a time of its own."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.cluster = Cluster()
        self.cluster.connected(self.now)
        self.clock = 0
        self.lists: dict[str, list[Any]] = {"active": [], "reserved": [], "scheduled": []}
        self.holds: set[str] | None = set()  # None: it does not answer
        self.asked: list[list[str]] = []
        self.looks: list[float] = []
        self.pings: list[list[str]] = []
        self.answers = True
        self.results: dict[str, Settled] = {}
        self.read: set[str] = set()
        self.rows: dict[str, TaskRecord] = {}

    def inspect_worker(self, hostname: str, timeout: float = 2.0, full: bool = False) -> Inspection | None:
        self.looks.append(self.now)
        if not self.answers:
            return None
        return Inspection(hostname, self.now, stats={"pid": 1}, active_queues=[], **self.lists)

    def discover(self, timeout: float = 1.5) -> list[tuple[str, bool]]:
        return [(W, False)]

    def answering(self, hostnames: Sequence[str], timeout: float = 1.0) -> set[str]:
        self.pings.append([*hostnames])
        return set(hostnames) if self.answers else set()

    def held_by(self, hostname: str, uuids: Sequence[str], timeout: float = 1.0) -> set[str] | None:
        self.asked.append(list(uuids))
        return None if self.holds is None else self.holds & set(uuids)

    def read_results(self, uuids: Iterable[str]) -> list[Settled]:
        names = set(uuids)
        self.read |= names
        return [self.results[uuid] for uuid in names if uuid in self.results]

    def say(self, kind: str, uuid: str = "", host: str = W, **fields: Any) -> None:
        self.clock += 1
        base = {"type": kind, "hostname": host, "pid": 1, "clock": self.clock, "timestamp": self.now}
        self.cluster.apply(event_from_dict(base | ({"uuid": uuid} if uuid else {}) | fields), self.now)

    def drain(self) -> None:
        self.cluster.cold()
        self.cluster.absorb([])
        for record in self.cluster.drain(self.now):
            if isinstance(record, TaskRecord):
                self.rows[record.uuid] = record

    def beat(self) -> None:
        self.say("worker-heartbeat", freq=2.0, active=0, processed=0)
        self.drain()

    async def go_on(self, rounds: Rounds, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            self.beat()
            await rounds.look_around()
            async with asyncio.timeout(10 * PATIENCE):
                while rounds._runners:
                    await asyncio.sleep(0)
            await rounds.settle()
            self.cluster.tick(self.now)
            self.drain()

    def run(self, work: Callable[[Rounds], Any]) -> None:
        async def main() -> None:
            rounds = Rounds(self.cluster, self, self.read_results, lambda: self.now, grace=5.0)
            try:
                await work(rounds)
            finally:
                rounds.close()

        asyncio.run(main())


def test_a_worker_with_more_tasks_than_its_lists_tell_is_asked_for_single_ones() -> None:
    story = Story()
    story.beat()
    for uuid in ("here", "gone"):
        story.say("task-received", uuid, name="n")
        story.say("task-started", uuid)
    story.lists["reserved"] = [{"id": f"r{n}", "name": "n"} for n in range(CUT_AT)]
    story.holds = {"here"}
    story.run(lambda rounds: story.go_on(rounds, 30))
    assert story.asked and {"here", "gone"} <= set(story.asked[0])
    assert (story.rows["gone"].state, story.rows["gone"].note) == ("LOST", "end not seen")
    assert story.rows["here"].state == "STARTED"


def test_a_question_that_is_not_answered_says_nothing() -> None:
    story = Story()
    story.beat()
    story.say("task-started", "runs")
    story.lists["reserved"] = [{"id": f"r{n}", "name": "n"} for n in range(CUT_AT)]
    story.holds = None
    story.run(lambda rounds: story.go_on(rounds, 30))
    assert len(story.asked) > 2
    assert story.rows["runs"].state == "STARTED"


@pytest.mark.parametrize(("limit", "state"), [("rate_limit=1/m", "RECEIVED"), ("rate_limit=0", "LOST")])
def test_a_task_that_a_rate_limit_holds_back_is_in_no_list_and_is_not_given_up(
    limit: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ends, "RECEIVED_GRACE", 10.0)
    story = Story()
    story.beat()
    story.say("task-received", "held", name="n")
    story.lists["registered"] = [f"n [{limit}]"]
    story.run(lambda rounds: story.go_on(rounds, 40))
    assert story.rows["held"].state == state


def test_thousands_that_wait_in_queues_hide_none_that_has_run() -> None:
    story = Story()
    story.beat()
    for number in range(3_000):
        story.say("task-sent", f"w{number}", host="gen1@c", name="n", queue="q")
    story.say("task-received", "ran", name="n")
    story.say("task-started", "ran")
    story.results["ran"] = Settled("ran", "SUCCESS", ended_at=story.now)
    story.results["w2999"] = Settled("w2999", "SUCCESS", ended_at=story.now)
    story.run(lambda rounds: story.go_on(rounds, 10))
    assert (story.rows["ran"].state, story.rows["ran"].known) == ("SUCCESS", "inferred")
    assert story.rows["w2999"].state == "SUCCESS"
    assert len(story.read) == 3_001


def test_a_worker_that_never_answers_is_asked_ever_less_often_until_something_is_new_with_it() -> None:
    story = Story()
    story.answers = False

    async def work(rounds: Rounds) -> None:
        story.beat()
        await story.go_on(rounds, 60)
        assert 3 <= len(story.pings) <= 14
        story.pings.clear()
        await story.go_on(rounds, 600)
        assert 3 <= len(story.pings) <= 15
        assert not story.looks
        story.answers = True
        story.say("worker-online", pid=2, freq=2.0)
        await story.go_on(rounds, 2)
        assert story.looks
        assert story.cluster.workers.known[W].record.inspected_at == story.looks[-1]

    story.run(work)


def test_workers_that_do_not_answer_are_asked_in_one_question() -> None:
    story = Story()
    story.answers = False
    hosts = {f"w{n}@host" for n in range(50)}

    async def work(rounds: Rounds) -> None:
        for host in hosts:
            story.say("worker-heartbeat", host=host, freq=2.0, active=0, processed=0)
        await story.go_on(rounds, 1)
        assert set(story.pings[0]) >= hosts
        assert not story.looks
        story.answers = True
        await story.go_on(rounds, 4)
        assert len(story.pings) <= 4
        assert len(story.looks) >= 50

    story.run(work)
