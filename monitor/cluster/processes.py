"""What is kept of one worker: its record, and its processes by pid."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from monitor.cluster.losses import NAMES, Account, Losses
from monitor.records import Started, WorkerRecord

HEARTBEATS_MISSED = 3
SHORTEST_SILENCE = 6.0  # seconds
GOODBYE_GRACE = 30.0  # a warm shutdown finishes its tasks after its goodbye
RECONNECT_GRACE = 10.0  # workers come back to a restarted broker later than we do
FREQ = (0.5, 300.0)
SHOWN_AGAIN = 1.0  # seconds between two records of a worker that only beats
ACCOUNT_KEPT = 86_400.0  # seconds that a process that is not heard again may still come back
PLAIN_FOR = 0.25  # seconds between two looks at a worker by its task events

POOLS = {
    "celery.concurrency.prefork:TaskPool": "prefork",
    "celery.concurrency.thread:TaskPool": "threads",
    "celery.concurrency.solo:TaskPool": "solo",
    "celery.concurrency.gevent:TaskPool": "gevent",
    "celery.concurrency.eventlet:TaskPool": "eventlet",
}


Gone = tuple[str, int, float]  # hostname, pid, what it ran before this is lost


class Process:
    """One run of a worker: a pid under a hostname."""

    __slots__ = (
        "beats",
        "clock",
        "goodbye_at",
        "heard_at",
        "is_lost",
        "losses",
        "pid",
        "plain_until",
        "processed",
        "stamp",
    )

    def __init__(self, pid: int, now: float) -> None:
        self.pid = pid
        self.heard_at = now
        self.goodbye_at: float | None = None
        self.clock = -1
        self.processed: int | None = None
        self.stamp = 0.0  # the sender's time of its last heartbeat
        self.beats = 0
        self.losses = Losses()
        self.is_lost = False
        self.plain_until = 0.0  # until then a task event of it tells nothing new of the worker


class Worker:
    """A worker's record and what is needed to keep it."""

    __slots__ = (
        "accounts",
        "idle_since",
        "inspect_at",
        "is_dirty",
        "last_pid",
        "missed_before",
        "missed_restored",
        "named_silent",
        "offsets",
        "processes",
        "reborn",
        "record",
        "returns",
        "shown_at",
        "silent_before",
        "silent_restored",
        "unanswered",
        "unsent_before",
    )

    def __init__(self, record: WorkerRecord, now: float) -> None:
        self.record = record
        self.processes: dict[int, Process] = {}
        self.missed_before = record.missed  # of processes that are gone
        self.missed_restored = record.missed  # of before Umbel started
        losses = record.details.get("losses")
        self.silent_before = self.silent_restored = whole(losses, "silent") or 0
        self.unsent_before = whole(losses, "unsent") or 0
        # pid -> what to go on from, and the starts that history holds
        self.accounts: dict[int, tuple[Account, float, list[Started]]] = {}
        self.named_silent = frozenset(silent_of(record.details.get("registered")))
        self.offsets: deque[float] = deque(maxlen=32)  # receipt less timestamp, seconds
        self.last_pid: int | None = None
        self.returns: deque[float] = deque(maxlen=8)  # when a process spoke again after another had
        self.reborn: list[tuple[int, float]] = []  # processes that began anew under their old pid, and when
        # From when on its heartbeats say that nothing ran and nothing was begun; None: not so, or not known.
        self.idle_since: float | None = None
        self.is_dirty = True
        self.shown_at = 0.0
        self.inspect_at: float | None = now  # when it is due to be asked
        self.unanswered = 0  # how often it was asked since it last answered or gave reason to ask

    @property
    def window(self) -> float:
        """Seconds of silence after which it is not alive any more."""
        return max(HEARTBEATS_MISSED * self.record.freq, SHORTEST_SILENCE)

    @property
    def beats(self) -> bool:
        return any(process.beats for process in self.processes.values())

    @property
    def silent(self) -> int:
        """Tasks that it ran whose names send no events, by design."""
        return self.silent_before + sum(process.losses.silent for process in self.processes.values())

    def ask_soon(self, now: float) -> None:
        """Something is new with it."""
        self.inspect_at, self.unanswered = now, 0

    def rests(self, process: Process, active: int | None, processed: int | None) -> None:
        """Take in a heartbeat before ``process`` does: whether it rested since it was last heard of."""
        if active != 0 or processed is None or processed != process.processed:
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = process.heard_at

    def remember(self, starts: Mapping[int, list[Started]]) -> None:
        """Take over the accounts of its processes, with the starts by pid that history holds."""
        for pid, account, stamp in accounts_of(self.record):
            self.accounts[pid] = (account, stamp, starts.get(pid, []))

    def resume(self, process: Process) -> None:
        """A process that was known before Umbel was restarted is heard again."""
        if (known := self.accounts.pop(process.pid, None)) is not None:
            account, process.stamp, starts = known
            process.clock, process.processed = account[0], account[1]
            process.losses.resume(account, starts)

    def forget(self, process: Process) -> None:
        """A process is followed by another: its account is kept, all else of it goes."""
        self.missed_before += process.losses.missed
        self.silent_before += process.losses.silent
        self.unsent_before += process.losses.unsent

    def losses(self) -> dict[str, Any]:
        """The account of what was not heard of it, for its details: counts and task names."""
        named: dict[str, int] = {}
        for process in self.processes.values():
            for name, count in process.losses.missed_names.items():
                named[name] = named.get(name, 0) + count
        return {
            "silent": self.silent,
            "silent_names": sorted(self.named_silent)[:NAMES],
            "unsent": self.unsent_before + sum(p.losses.unsent for p in self.processes.values()),
            "pending": sum(process.losses.pending for process in self.processes.values()),
            "missed_names": named,
            "accounts": {
                str(process.pid): [*account, process.stamp]
                for process in self.processes.values()
                if (account := process.losses.account) is not None
            }
            # Not heard again yet, should we be killed once more.
            | {str(pid): [*account, stamp] for pid, (account, stamp, _) in self.accounts.items()},
        }


def accounts_of(record: WorkerRecord) -> list[tuple[int, Account, float]]:
    """``(pid, account, stamp)`` of each process whose account a stored record holds."""
    losses = record.details.get("losses")
    kept = losses.get("accounts") if isinstance(losses, dict) else None
    found = []
    for pid, values in kept.items() if isinstance(kept, dict) else ():
        if not str(pid).isdigit() or not isinstance(values, list) or len(values) != 5:
            continue
        clock, processed, unheard, at, stamp = values
        whole_ones = all(isinstance(n, int) and n >= 0 for n in (clock, processed, unheard))
        if not whole_ones or not all(isinstance(t, int | float) for t in (at, stamp)):
            continue
        if at > (record.heartbeat_at or 0.0) - ACCOUNT_KEPT:
            found.append((int(pid), (clock, processed, unheard, float(at)), float(stamp)))
    return found


def accounted_since(workers: Iterable[WorkerRecord]) -> float | None:
    """When the oldest heartbeat was heard that an account stands at: starts since then are needed."""
    times = [account[3] for worker in workers for _, account, _ in accounts_of(worker)]
    return min(times, default=None)


def read_stats(record: WorkerRecord, stats: dict[str, Any], asked: float) -> None:
    """Take pool, size and limits from a worker's answer to inspect stats, whatever shape it has."""
    pool = stats.get("pool")
    pool = pool if isinstance(pool, dict) else {}
    implementation = pool.get("implementation")
    if isinstance(implementation, str):
        record.pool = POOLS.get(implementation, implementation)[:255]
    processes = pool.get("processes")
    if record.pool == "prefork" and isinstance(processes, list):
        record.size = len(processes)
    elif (size := whole(pool, "max-concurrency")) is not None:
        record.size = size
    elif isinstance(processes, list):
        record.size = len(processes)
    scaler = stats.get("autoscaler")
    record.autoscale_max = whole(scaler, "max")
    record.autoscale_min = whole(scaler, "min")
    record.prefetch = whole(stats, "prefetch_count")
    record.pid = whole(stats, "pid") or record.pid
    if (uptime := whole(stats, "uptime")) is not None:
        record.booted_at = asked - uptime


def whole(d: Any, key: str) -> int | None:
    """A number of an answer, also when it is told as a text; None when it is none or out of range."""
    raw = d.get(key) if isinstance(d, dict) else None
    if isinstance(raw, str) and raw.isdigit() and len(raw) < 16:
        raw = int(raw)
    return raw if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw < 2**31 else None


def silent_of(registered: Any) -> set[str]:
    """Names of an answer to inspect registered whose tasks send no events: ``name [send_events=False …]``."""
    found = set()
    for line in registered if isinstance(registered, list) else ():
        if isinstance(line, str) and "send_events=False" in line:
            found.add(line.split(" ", 1)[0])
    return found


def totals_of(stats: Any) -> tuple[int, int, dict[str, int]] | None:
    """``(pid, clock, starts by name)`` of an answer to inspect stats; None when it does not say all three."""
    if not isinstance(stats, dict) or not isinstance(totals := stats.get("total"), dict):
        return None
    pid, clock = whole(stats, "pid"), stats.get("clock")
    if isinstance(clock, str) and clock.isdigit() and len(clock) < 20:
        clock = int(clock)
    if pid is None or not isinstance(clock, int) or isinstance(clock, bool) or clock < 0:
        return None
    counts = {
        name: n for name, n in totals.items() if isinstance(n, int) and not isinstance(n, bool) and n >= 0
    }
    return (pid, clock, counts) if len(counts) == len(totals) else None
