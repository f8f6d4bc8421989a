"""The truth: the final state of every task that was published, and how much of it a monitor got right."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

# uuid, state, name, worker, retries
Line = tuple[str, str, str, str, int]
FIELDS = ("uuid", "state", "name", "worker", "retries")
QUERY = "SELECT uuid, state, name, worker, retries FROM monitor_task"


class Ledger(msgspec.Struct):
    """Kept by the generator. ``tasks`` is empty when it was told to keep counts only."""

    tasks: list[Line] = []
    by_name: dict[str, dict[str, int]] = {}  # name -> final state -> tasks
    by_worker: dict[str, dict[str, int]] = {}
    events: int = 0
    messages: int = 0
    kinds: dict[str, int] = {}  # type of event -> how many
    started: dict[str, int] = {}  # worker -> task-started sent, as its `processed` says
    delivered: int = 0  # subscribers that PUBLISH said it reached, summed
    reached: int = 0  # the most that one PUBLISH reached
    began: float = 0.0  # time.time() of the first and last publish
    ended: float = 0.0
    late: float = 0.0  # seconds that the generator was behind its own plan, at most

    @property
    def total(self) -> int:
        return sum(sum(states.values()) for states in self.by_name.values())

    @property
    def rate(self) -> float:
        return self.events / max(1e-9, self.ended - self.began)

    @property
    def cut(self) -> bool:
        """Some message reached fewer subscribers than another: the broker had cut one off."""
        return self.delivered < self.messages * self.reached or not self.reached

    def write(self, path: Path) -> None:
        path.write_bytes(msgspec.msgpack.encode(self))

    @classmethod
    def read(cls, path: Path) -> Ledger:
        return msgspec.msgpack.decode(path.read_bytes(), type=cls)


class Verdict(msgspec.Struct):
    """Task by task: how many are as the ledger has them, and what is not."""

    right: int = 0
    wrong: int = 0
    missing: int = 0
    extra: int = 0
    repeated: int = 0
    kinds: dict[str, int] = {}  # "state: STARTED for REJECTED" -> how many
    examples: list[str] = []

    @property
    def exact(self) -> bool:
        return not (self.wrong or self.missing or self.extra or self.repeated)

    def __str__(self) -> str:
        if self.exact:
            return f"{self.right:,} tasks, all right"
        found = f"{self.right:,} right, {self.wrong:,} wrong, {self.missing:,} missing, {self.extra:,} extra"
        most = sorted(self.kinds.items(), key=lambda kind: -kind[1])[:3]
        example = f"; such as {self.examples[0]}" if self.examples else ""
        return found + "".join(f"; {what} ({count:,})" for what, count in most) + example


def check(ledger: Ledger, rows: Iterable[Line]) -> Verdict:
    """Holds every row against the ledger; an unknown name, worker or retries may be None or empty."""
    expected = {line[0]: line for line in ledger.tasks}
    verdict, seen = Verdict(kinds={}, examples=[]), set()
    for row in rows:
        uuid = row[0]
        if uuid in seen:
            verdict.repeated += 1
            continue
        seen.add(uuid)
        truth = expected.get(uuid)
        if truth is None:
            verdict.extra += 1
            continue
        found = (uuid, row[1], row[2] or "", row[3] or "", row[4] or 0)
        if found == tuple(truth):
            verdict.right += 1
            continue
        verdict.wrong += 1
        for field, is_, should in zip(FIELDS, found, truth, strict=True):
            if is_ != should:
                # Names and workers are too many to list each pair.
                what = f"state: {is_} for {should}" if field == "state" else field
                verdict.kinds[what] = verdict.kinds.get(what, 0) + 1
        if len(verdict.examples) < 5:
            verdict.examples.append(f"{found} for {truth}")
    verdict.missing = len(expected) - verdict.right - verdict.wrong
    return verdict


def counts(rows: Iterable[Line]) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
    """By name and by worker: final state -> tasks, as the ledger has them."""
    names: dict[str, Counter[str]] = {}
    workers: dict[str, Counter[str]] = {}
    for _, state, name, worker, _ in rows:
        names.setdefault(name or "", Counter())[state] += 1
        workers.setdefault(worker or "", Counter())[state] += 1
    return (
        {key: dict(count) for key, count in names.items()},
        {key: dict(count) for key, count in workers.items()},
    )


def check_counts(
    ledger: Ledger, by_name: dict[str, dict[str, int]], by_worker: dict[str, dict[str, int]]
) -> int:
    """How many tasks are in a wrong (name, state) or (worker, state), the larger of the two."""
    return max(_apart(ledger.by_name, by_name), _apart(ledger.by_worker, by_worker))


def _apart(truth: dict[str, dict[str, int]], found: dict[str, dict[str, int]]) -> int:
    keys = {(key, state) for side in (truth, found) for key, states in side.items() for state in states}
    differences = (truth.get(key, {}).get(state, 0) - found.get(key, {}).get(state, 0) for key, state in keys)
    return sum(map(abs, differences))


# where rows come from


def sqlite_rows(path: Path, query: str = QUERY) -> list[Any]:
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        rows = database.execute(query).fetchall()
    database.close()
    return rows


def postgresql_rows(url: str, query: str = QUERY) -> list[Any]:
    import psycopg

    with psycopg.connect(url) as database:
        return database.execute(query).fetchall()


def rows_of(folder: Path, database: str = "", query: str = QUERY) -> list[Any]:
    """The rows of an Umbel whose data folder is ``folder/data``, or of its PostgreSQL."""
    return (
        postgresql_rows(database, query)
        if database
        else sqlite_rows(folder / "data" / "umbel.sqlite3", query)
    )


def counts_of(
    folder: Path, database: str = ""
) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
    """As ``counts``, but counted by the database."""
    found: list[dict[str, dict[str, int]]] = []
    for column in ("name", "worker"):
        query = f"SELECT {column}, state, COUNT(*) FROM monitor_task GROUP BY {column}, state"
        grouped: dict[str, dict[str, int]] = {}
        for key, state, count in rows_of(folder, database, query):
            grouped.setdefault(key, {})[state] = count
        found.append(grouped)
    return found[0], found[1]
