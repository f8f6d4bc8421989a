"""Order, repetition, lateness and eviction do not matter: the same events always end in the same rows."""

from __future__ import annotations

import json
import random
from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.cluster import Cluster, Limits, derive
from monitor.cluster.deliveries import ENDS
from monitor.cluster.derive import unpacked
from monitor.events import Event, decode, event_from_dict
from monitor.records import ENDED, STATES, Inspection, Mark, Settled, TaskRecord

RECORDINGS = sorted((Path(__file__).parent / "recordings").glob("wire_*.json"))
RECEIPT = ("first_seen_at", "seen_at")


def recorded(path: Path) -> list[Event]:
    messages = json.loads(path.read_text())["messages"]
    wire = [
        payload.encode() for _, channel, payload in messages if "ev/" in channel or channel.endswith("ev")
    ]
    wire += [payload.encode() for _, channel, payload in messages if "myevents" in channel]
    return [event for payload in wire for event in decode(payload).events if event.type.startswith("task-")]


def shown(record: TaskRecord) -> dict[str, Any]:
    """A row without times of receipt, as JSON would store it."""
    row = json.loads(msgspec.json.encode(record))
    for field in RECEIPT:
        row.pop(field)
    for mark in row["marks"]:
        mark[5] = 0.0
    return row


class Run:
    """A cluster with a database that is a dict of encoded rows."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.cluster = Cluster(limits=limits or Limits())
        self.rows: dict[str, bytes] = {}
        self.now = 1000.0
        self.cluster.connected(self.now)

    def send(self, events: list[Event]) -> None:
        for event in events:
            self.cluster.apply(event, self.now)

    def turn(self, seconds: float = 0.25) -> None:
        self.now += seconds
        cold = self.cluster.cold()
        self.cluster.absorb(
            msgspec.json.decode(self.rows[uuid], type=TaskRecord) for uuid in cold if uuid in self.rows
        )
        for record in self.cluster.drain(self.now):
            if isinstance(record, TaskRecord):
                self.rows[record.uuid] = msgspec.json.encode(record)
        self.cluster.tasks.evict(self.now)

    def forget(self) -> None:
        """As after a restart of Umbel: nothing is in memory, all is in the database."""
        self.turn()
        accounting = self.cluster.accounting
        assert accounting.balanced
        self.cluster = Cluster()

    def result(self) -> dict[str, dict[str, Any]]:
        self.turn()
        assert self.cluster.accounting.balanced
        return {u: shown(msgspec.json.decode(row, type=TaskRecord)) for u, row in self.rows.items()}


def straight(events: list[Event]) -> dict[str, dict[str, Any]]:
    run = Run()
    run.send(events)
    return run.result()


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("seed", range(4))
def test_a_recording_shuffled_repeated_and_split_by_restarts_gives_the_same_rows(
    path: Path, seed: int
) -> None:
    events = recorded(path)
    expected = straight(events)
    rng = random.Random(seed)
    mixed = events + rng.sample(events, len(events) // 2)
    rng.shuffle(mixed)
    run = Run()
    while mixed:
        size = rng.randint(1, 12)
        run.send(mixed[:size])
        del mixed[:size]
        rng.choice([run.turn, run.forget, run.turn, lambda: None])()
    assert run.result() == expected


def make(kind: str, worker: str, pid: int, clock: int, at: float, **fields: Any) -> Event:
    base = {"type": f"task-{kind}", "hostname": worker, "pid": pid, "clock": clock, "timestamp": at}
    return event_from_dict({"uuid": "u1", **base, **fields})


@st.composite
def lives(draw: st.DrawFn) -> list[Event]:
    """The events of one task over some attempts and redeliveries on workers with wrong clocks."""
    skews = {f"w{i}@h{i}": draw(st.floats(-400, 400)) for i in range(3)}
    clocks = dict.fromkeys(skews, 0)
    events: list[Event] = []
    at, retries = 2_000_000.0, 0

    def emit(kind: str, worker: str, **fields: Any) -> None:
        clocks[worker] += draw(st.integers(1, 3))
        events.append(make(kind, worker, 7, clocks[worker], at + skews[worker], **fields))

    call = {"name": "shop.pay", "args": "(1,)", "kwargs": "{}", "root_id": "u1"}
    events.append(make("sent", "gen1@client", 1, 1, at, retries=0, queue="q", **call))
    for _ in range(draw(st.integers(1, 4))):
        at += draw(st.floats(0.01, 50))
        worker = draw(st.sampled_from(sorted(skews)))
        emit("received", worker, retries=retries, **(call | {"args": f"({retries},)"}))
        at += 0.5
        if draw(st.booleans()):
            emit("started", worker)
            at += 0.5
        how = draw(st.sampled_from(["retried", "failed", "succeeded", "revoked", "rejected", "nothing"]))
        fields = {
            "retried": {"exception": "OSError('again')", "traceback": f"tb {retries} {worker}"},
            "failed": {"exception": f"ValueError('{retries}')", "traceback": f"tb {worker}"},
            "succeeded": {"result": f"'{worker}'", "runtime": 0.25},
            "revoked": {"terminated": draw(st.booleans()), "signum": 15, "expired": False},
            "rejected": {"requeue": draw(st.booleans())},
        }
        if how != "nothing":
            emit(how, worker, **fields[how])
        if how == "retried":
            retries += 1
            fields_sent = call | {"args": f"({retries},)"}
            events.append(make("sent", worker, 99, clocks[worker], at, retries=retries, **fields_sent))
    return events


@settings(max_examples=60, deadline=None)
@given(lives(), st.randoms(use_true_random=False))
def test_any_life_of_a_task_in_any_order_gives_the_same_row(events: list[Event], rng: random.Random) -> None:
    expected = straight(events)
    mixed = events + rng.sample(events, rng.randint(0, len(events)))
    rng.shuffle(mixed)
    run = Run()
    for event in mixed:
        run.send([event])
        rng.choice([run.turn, run.forget, lambda: None])()
    assert run.result() == expected


PLACES = st.tuples(st.sampled_from(["a@h", "b@h"]), st.sampled_from([1, 2]), st.integers(0, 8))
KINDS = [
    *ENDS,
    "sent",
    "received",
    "started",
    "lost",
    "settled",
    "active",
    "reserved",
    "scheduled",
    "progress",
]


@st.composite
def any_marks(draw: st.DrawFn) -> list[Mark]:
    """Any set of marks, possible or not, inferred ones included."""
    marks: dict[Any, Mark] = {}
    for n in range(draw(st.integers(1, 9))):
        kind = draw(st.sampled_from(KINDS))
        detail: dict[str, Any] = {"n": n}
        if kind in ("sent", "received"):
            detail["retries"] = draw(st.integers(0, 2))
        if kind in ("failed", "retried", "settled"):
            detail |= {"exception": f"E('{n}')", "traceback": f"tb {n}"}
        if kind in ("succeeded", "settled"):
            detail["result"] = draw(st.sampled_from([None, "None", "'r'"]))
        if kind == "settled":
            detail["state"] = draw(st.sampled_from(["SUCCESS", "FAILURE", "REVOKED"]))
        if kind == "revoked":
            detail |= {"terminated": draw(st.booleans()), "signum": 15}
        if kind == "rejected":
            detail["requeue"] = draw(st.booleans())
        at = draw(st.sampled_from([0.0, 100.0, 101.5, 103.0, 500.0]))
        mark = Mark(kind, *draw(PLACES), at, 1000.0 + n, detail)
        marks.setdefault(mark.key, mark)
    return list(marks.values())


@settings(max_examples=150, deadline=None)
@given(any_marks(), st.randoms(use_true_random=False))
def test_a_row_is_a_function_of_the_set_of_its_marks(marks: list[Mark], rng: random.Random) -> None:
    row = derive(TaskRecord(uuid="u"), marks)
    mixed = rng.sample(marks, len(marks))
    assert derive(TaskRecord(uuid="u"), mixed) == row
    stored = msgspec.json.decode(msgspec.json.encode(row), type=TaskRecord)
    back = unpacked(stored)
    rng.shuffle(back)
    assert sorted(back, key=lambda mark: mark.key) == sorted(marks, key=lambda mark: mark.key)
    assert derive(TaskRecord(uuid="u"), back) == row
    assert row.state in STATES
    assert (row.ended_at is None) or row.state in ENDED


LIFE = [
    make("sent", "gen1@c", 1, 1, 100.0, name="a.b", args="()", retries=0),
    make("received", "w@h", 2, 10, 101.0, name="a.b", args="()", retries=0),
    make("started", "w@h", 2, 11, 102.0),
    make("retried", "w@h", 2, 12, 103.0, exception="OSError('x')"),
    make("received", "w@h", 2, 13, 104.0, name="a.b", args="()", retries=1),
    make("succeeded", "w@h", 2, 15, 106.0, result="'ok'", runtime=1.0),
]


def test_all_720_orders_of_a_retried_life_end_in_success() -> None:
    expected = straight(LIFE)
    assert expected["u1"]["state"] == "SUCCESS"
    assert [a["state"] for a in expected["u1"]["attempts"]] == ["RETRY", "SUCCESS"]
    for order in permutations(LIFE):
        assert straight(list(order)) == expected


def test_repeated_events_are_counted_as_duplicates_even_after_their_row_left_memory() -> None:
    run = Run()
    run.send(LIFE)
    run.send(LIFE)
    run.turn()
    assert run.cluster.accounting.duplicate == len(LIFE)
    run.turn()
    run.turn(30)
    run.turn()
    assert run.cluster.feed(run.now).tasks_live == 0
    run.send(LIFE)
    run.turn()
    accounting = run.cluster.accounting
    assert (accounting.applied, accounting.duplicate) == (len(LIFE), 2 * len(LIFE))
    assert accounting.balanced


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_in_whatever_order_nothing_breaks_and_the_account_balances(seed: int) -> None:
    rng = random.Random(seed)
    run = Run(Limits(tasks=30, workers=5, marks=8, finished_for=1.0))
    kinds = ["sent", "received", "started", "succeeded", "failed", "retried", "revoked", "rejected", "custom"]
    hosts = [f"w{n}@h" for n in range(7)]

    def task() -> None:
        fields: dict[str, Any] = {"uuid": f"u{rng.randrange(60)}", "retries": rng.randrange(3), "name": "n"}
        place = (rng.choice(hosts), rng.choice([1, 2]), rng.randrange(50))
        run.send([make(rng.choice(kinds), *place, rng.choice([0.0, run.now, 5.0, 9e12]), **fields)])

    def heartbeat() -> None:
        given = {
            "type": f"worker-{rng.choice(['online', 'heartbeat', 'offline'])}",
            "hostname": rng.choice(hosts),
        }
        given |= {"pid": rng.choice([1, 2]), "clock": rng.randrange(99), "timestamp": run.now, "freq": 2.0}
        run.send([event_from_dict(given | {"processed": rng.choice([None, 0, 5, 99])})])

    def inspect() -> None:
        held = [[{"id": f"u{rng.randrange(60)}", "time_start": run.now}] * rng.randrange(3), [], None]
        active, reserved, scheduled = (rng.choice(held) for _ in range(3))
        scheduled = [{"eta": "x", "request": item} for item in scheduled] if scheduled else scheduled
        answer = Inspection(
            rng.choice(hosts), run.now, {"pid": rng.choice([1, 2])}, active, reserved, scheduled
        )
        run.cluster.reconcile(answer, run.now)

    def settle() -> None:
        for row in run.cluster.unfinished(run.now - rng.randrange(20))[:5]:
            state = rng.choice(["SUCCESS", "FAILURE", "REVOKED", "STARTED", "NONSENSE"])
            run.cluster.settle(Settled(row.uuid, state, exception="E('x')"), run.now)
            run.cluster.end_not_seen(row.uuid, run.now)

    def connection() -> None:
        rng.choice([run.cluster.connected, lambda now: run.cluster.disconnected(now, "gone")])(run.now)

    def time() -> None:
        run.now += rng.choice([0.1, 1, 7, 40])
        run.cluster.tick(run.now)
        run.cluster.wants_inspection(run.now)
        run.cluster.feed(run.now)

    deeds = [task] * 20 + [heartbeat] * 5 + [inspect, settle, time, time, run.turn, run.turn, connection]
    for _ in range(3_000):
        rng.choice(deeds)()
        assert run.cluster.accounting.balanced
    run.result()
    time()
    assert run.cluster.feed(run.now).tasks_live <= 60
