"""A cluster that is not there: whole lives of tasks on many workers, as bytes, and the ledger of their ends.

Pure: the same plan gives the same tasks. ``bench.load`` publishes them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from json import dumps

from bench import events
from bench.events import Sender
from bench.ledger import Ledger

BIN = 0.01  # seconds; events of one bin are stamped a microsecond apart
HEARTBEAT = 2.0  # seconds
BEAT_BINS = round(HEARTBEAT / BIN)
EVENTS_A_TASK = 3.47  # with the default plan, heartbeats apart

# How tasks end, of a hundred.
OUTCOMES = {
    "succeed": 88.5,
    "fail": 3.5,
    "retry": 3.0,  # once or twice, then succeed
    "retry_fail": 0.5,
    "reject": 1.0,
    "requeue": 0.5,  # rejected back into the queue, then succeed elsewhere
    "revoke": 1.5,  # while it waits
    "expire": 0.5,  # before it is received: one event alone
    "terminate": 0.5,
    "unfinished": 0.0,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is published. ``rate`` is in events a second, about; ``tasks`` 0 goes on for ever."""

    tasks: int = 0
    rate: float = 5_000.0
    seed: int = 1
    workers: int = 20
    names: int = 60
    queues: int = 6
    sent: float = 0.3  # share of tasks whose clients send task-sent
    kin: float = 0.2  # share of tasks that another one started
    unfinished: float = 0.0  # share of tasks that stay STARTED
    keep: bool = True  # a line of the ledger for each task; else counts only


class _Task:
    __slots__ = (
        "call",
        "eta",
        "kin",
        "name",
        "outcome",
        "queue",
        "retries",
        "sender",
        "state",
        "uuid",
        "worker",
    )

    uuid: str
    name: str
    call: str
    kin: str
    queue: str
    eta: str
    outcome: str
    state: str
    retries: int
    worker: Sender | None
    sender: Sender | None


class Stream:
    """``upto(t)`` gives the commands for all that happens until then; ``done`` when every task has ended."""

    def __init__(self, plan: Plan, start: float, prefix: str = "/0.") -> None:
        self.plan, self.start, self.prefix = plan, start, prefix
        self.ledger = Ledger(tasks=[], by_name={}, by_worker={}, kinds={}, started={})
        self.messages = self.events = 0
        self.shift = 0.0  # added to each timestamp
        self._random = rng = random.Random(plan.seed)
        self._pools = Pools(plan, rng)
        self._workers = [Sender(f"celery@worker-{n:02}", 1_000 + 10 * n) for n in range(plan.workers)]
        self._clients = [Sender(f"gen{pid}@web-{pid % 7}", pid) for pid in range(40_000, 40_012)]
        self._beats: dict[int, list[Sender]] = {}
        for place, worker in enumerate(self._workers):
            self._beats.setdefault(place * BEAT_BINS // plan.workers, []).append(worker)
        self._bin = 0
        self._bins: dict[int, list[tuple[Callable[[_Task], None], _Task]]] = {}
        self._live: dict[str, _Task] = {}
        self._ends: Counter[tuple[str, str, str]] = Counter()  # name, worker, state
        self._kinds: Counter[str] = Counter()
        self._kinsmen: list[tuple[str, str]] = []  # uuid and root of tasks that may start others
        self._begun = 0
        self._due = 0.0
        self._a_bin = max(plan.rate - plan.workers / HEARTBEAT, 1.0) / EVENTS_A_TASK * BIN
        self._out: list[bytes] = []
        bits = f"{rng.getrandbits(80):020x}"
        self._tag = f"{bits[:8]}-{bits[8:12]}-4{bits[13:16]}-a{bits[17:20]}-"
        self._at = start
        lengths = [1] * 50 + [2] * 25 + [3] * 12 + [4] * 6 + [5] * 3 + [8, 12, 16, 24]
        self._lengths = [rng.choice(lengths) for _ in range(997)]
        self._turn = 0
        for worker in self._workers:
            self._state(worker, "online")

    @property
    def done(self) -> bool:
        return bool(self.plan.tasks) and self._begun >= self.plan.tasks and not self._bins

    @property
    def simulated(self) -> float:
        """The time up to which all is told."""
        return self.start + self._bin * BIN

    def catch_up(self, at: float) -> None:
        """What is told next happens at ``at``, or later: no worker's clock goes back."""
        self.shift = max(self.shift, at - self.simulated)

    def upto(self, at: float) -> list[bytes]:
        """Commands of every bin that begins before ``at``."""
        while self.simulated < at and not self.done:
            self._one_bin()
        out, self._out = self._out, []
        return out

    def close(self) -> Ledger:
        """The ledger as of now: tasks on their way have the state they were last seen in."""
        for task in list(self._live.values()):
            self._ended(task, task.state)
        names: dict[str, dict[str, int]] = {}
        workers: dict[str, dict[str, int]] = {}
        for (name, worker, state), count in self._ends.items():
            for side, key in ((names, name), (workers, worker)):
                states = side.setdefault(key, {})
                states[state] = states.get(state, 0) + count
        ledger = self.ledger
        ledger.by_name, ledger.by_worker, ledger.kinds = names, workers, dict(self._kinds)
        ledger.started = {worker.hostname: worker.processed for worker in self._workers}
        ledger.events, ledger.messages = self.events, self.messages
        return ledger

    # private, in the order of a task's life

    def _one_bin(self) -> None:
        self._at = max(self._at, self.simulated + self.shift)
        for worker in self._beats.get(self._bin % BEAT_BINS, ()):
            self._state(worker, "heartbeat")
        if not self.plan.tasks or self._begun < self.plan.tasks:
            self._due += self._a_bin
            while self._due >= 1 and (not self.plan.tasks or self._begun < self.plan.tasks):
                self._due -= 1
                self._begin()
        # Steps may add others to this same bin.
        for step, task in self._bins.setdefault(self._bin, []):
            step(task)
        del self._bins[self._bin]
        for worker in self._workers:
            if worker.buffer:
                self._flush(worker)
        self._bin += 1

    def _later(self, seconds: float, step: Callable[[_Task], None], task: _Task) -> None:
        self._bins.setdefault(self._bin + int(seconds / BIN), []).append((step, task))

    def _begin(self) -> None:
        rng, pools = self._random, self._pools
        self._begun += 1
        task = _Task()
        bits = f"{rng.getrandbits(128):032x}"
        task.uuid = uuid = f"{bits[:8]}-{bits[8:12]}-4{bits[13:16]}-a{bits[17:20]}-{bits[20:]}"
        luck = int(rng.random() * 10_000)
        task.name, task.call, task.queue = pools.calls[luck * 7_919 % len(pools.calls)]
        task.outcome = pools.outcomes[luck]
        task.retries, task.eta, task.state = 0, "null", "PENDING"
        task.worker = task.sender = None
        luck = int(rng.random() * 10_000)
        if luck < self.plan.kin * 10_000 and self._kinsmen:
            parent, root = self._kinsmen[luck % len(self._kinsmen)]
            task.kin = events.kin(root, parent)
        else:
            task.kin, root = events.kin(uuid, None), uuid
        if luck % 16 == 0:
            self._kinsmen.append((uuid, root))
            if len(self._kinsmen) > 64:
                del self._kinsmen[:32]
        self._live[uuid] = task
        if rng.random() < self.plan.sent:
            task.sender = self._clients[luck % len(self._clients)]
            self._sent(task, task.sender)
            self._later(0.02 + luck % 50 * 0.001, self._arrive, task)
        else:
            self._arrive(task)

    def _sent(self, task: _Task, sender: Sender) -> None:
        text = sender.sent(task.uuid, task.call, task.retries, task.eta, task.kin, task.queue, self._now())
        self._kinds["task-sent"] += 1
        self._message(sender, "task.sent", text, 1)

    def _arrive(self, task: _Task) -> None:
        luck = self._random.random()
        task.worker = worker = self._workers[int(luck * self.plan.workers)]
        if task.outcome == "expire":
            # Celery looks before it says "received": this one event is all that a worker tells.
            if task.sender is None:
                task.name = ""
            self._tell(worker, "task-revoked", worker.revoked(task.uuid, events.EXPIRED, self._now()))
            self._ended(task, "REVOKED")
            return
        text = worker.received(task.uuid, task.call, task.retries, task.eta, task.kin, self._now())
        self._tell(worker, "task-received", text)
        task.state = "RECEIVED"
        step = self._revoke if task.outcome == "revoke" else self._start
        self._later(luck * 7_919 % 1.0 * 0.4, step, task)

    def _revoke(self, task: _Task) -> None:
        assert task.worker is not None
        self._tell(task.worker, "task-revoked", task.worker.revoked(task.uuid, events.REVOKED, self._now()))
        self._ended(task, "REVOKED")

    def _start(self, task: _Task) -> None:
        worker = task.worker
        assert worker is not None
        worker.processed += 1
        worker.active += 1
        self._tell(worker, "task-started", worker.started(task.uuid, self._now()))
        task.state = "STARTED"
        if task.outcome != "unfinished":
            self._later(self._random.random() ** 3 * 0.8, self._end, task)

    def _end(self, task: _Task) -> None:
        worker, outcome, uuid, now = task.worker, task.outcome, task.uuid, self._now()
        assert worker is not None
        worker.active -= 1
        if outcome == "succeed":
            self._succeed(task, worker, now)
        elif outcome in ("retry", "retry_fail"):
            if task.retries < (1 if outcome == "retry" and uuid < "8" else 2):
                self._retry(task, worker, now)
            elif outcome == "retry":
                self._succeed(task, worker, now)
            else:
                self._fail(task, worker, now)
        elif outcome == "fail":
            self._fail(task, worker, now)
        elif outcome == "reject":
            self._tell(worker, "task-rejected", worker.rejected(uuid, False, now))
            self._ended(task, "REJECTED")
        elif outcome == "requeue":
            self._tell(worker, "task-rejected", worker.rejected(uuid, True, now))
            # Back in its queue: Celery's State calls it REJECTED, the broker has it waiting.
            task.state, task.outcome = "PENDING", "succeed"
            self._later(0.05, self._arrive, task)
        else:
            self._tell(worker, "task-revoked", worker.revoked(uuid, events.TERMINATED, now))
            self._ended(task, "REVOKED")

    def _succeed(self, task: _Task, worker: Sender, now: float) -> None:
        luck = self._random.random()
        result = self._pools.results[int(luck * len(self._pools.results))]
        self._tell(worker, "task-succeeded", worker.succeeded(task.uuid, result, 0.003 + luck**3 * 0.8, now))
        self._ended(task, "SUCCESS")

    def _fail(self, task: _Task, worker: Sender, now: float) -> None:
        error = self._pools.errors[len(task.name) % len(self._pools.errors)]
        self._tell(worker, "task-failed", worker.raised("failed", task.uuid, error, now))
        self._ended(task, "FAILURE")

    def _retry(self, task: _Task, worker: Sender, now: float) -> None:
        pools, pause = self._pools, 0.3
        error = pools.retries[task.retries % len(pools.retries)]
        task.retries += 1
        task.eta = f'"{datetime.fromtimestamp(now + pause, UTC).isoformat()}"'
        task.kin = events.kin(task.kin[12:48], task.uuid)
        if task.sender is not None:
            # The pool process that ran it sends it again.
            self._sent(task, self._clients[task.retries])
        self._tell(worker, "task-retried", worker.raised("retried", task.uuid, error, now))
        task.state = "RETRY"
        self._later(pause, self._arrive, task)

    def _ended(self, task: _Task, state: str) -> None:
        del self._live[task.uuid]
        worker = task.worker.hostname if task.worker is not None else ""
        self._ends[task.name, worker, state] += 1
        if self.plan.keep:
            self.ledger.tasks.append((task.uuid, state, task.name, worker, task.retries))

    # messages

    def _now(self) -> float:
        self._at += 1e-6
        return self._at

    def _tell(self, worker: Sender, kind: str, text: str) -> None:
        self._kinds[kind] += 1
        worker.buffer.append(text)
        worker.left -= 1
        if worker.left <= 0:
            self._flush(worker)

    def _flush(self, worker: Sender) -> None:
        self._message(worker, "task.multi", f"[{', '.join(worker.buffer)}]", len(worker.buffer))
        worker.buffer.clear()
        self._turn += 1
        worker.left = self._lengths[self._turn % 997]

    def _state(self, worker: Sender, kind: str) -> None:
        if worker.buffer:
            self._flush(worker)
        self._kinds[f"worker-{kind}"] += 1
        load = (round(worker.active / 8, 2), 1.32, 0.55)
        self._message(worker, f"worker.{kind}", worker.state(kind, load, self._now()), 1)

    def _message(self, sender: Sender, key: str, body: str, count: int) -> None:
        self.messages += 1
        self.events += count
        tag = f"{self._tag}{self.messages:012x}"
        self._out.append(events.command(sender, key, body, tag, self.prefix))


class Pools:
    """Texts that tasks draw from, encoded once; sizes as of real workers, about 550 bytes an event."""

    def __init__(self, plan: Plan, rng: random.Random) -> None:
        verbs = ("send", "build", "import", "sync", "charge", "resize", "index", "notify", "export", "clean")
        nouns = ("invoice", "receipt", "catalog", "image", "report", "account", "basket", "parcel", "review")
        apps = ("shop", "billing", "media", "mail", "search")
        names = [
            f"{apps[n % 5]}.tasks.{verbs[n % 10]}_{nouns[n % 9]}{n // 45 or ''}" for n in range(plan.names)
        ]
        weights = [1 / (1 + place) for place in range(plan.names)]
        self.calls: list[tuple[str, str, str]] = []
        for name in rng.choices(names, weights, k=2_003):
            queue = f"queue-{names.index(name) % plan.queues}"
            args = f"({rng.randrange(10**6)}, {_words(rng, 8, 40)!r})"
            kwargs = {
                "tenant": rng.choice(nouns),
                "locale": "en_GB",
                "note": _words(rng, 10, 45),
                "attempt": 0,
            }
            self.calls.append((name, events.call(name, args, repr(kwargs)), queue))
        self.results = [
            dumps(repr({"id": rng.randrange(10**6), "status": "done", "log": _words(rng, 15, 65)}))
            for _ in range(211)
        ]
        self.errors = [events.error(f"{kind}({text!r})", _traceback(kind, text)) for kind, text in _ERRORS]
        again = "Traceback (most recent call last):\ncelery.exceptions.Retry: Retry in 0.3s: "
        self.retries = [
            events.error(f"{kind}({text!r})", again + f"{kind}({text!r})\n") for kind, text in _ERRORS[:3]
        ]
        shares = dict(OUTCOMES)
        shares["succeed"] -= 100 * plan.unfinished
        shares["unfinished"] = 100 * plan.unfinished
        self.outcomes = [outcome for outcome, share in shares.items() for _ in range(round(share * 100))]
        self.outcomes += ["succeed"] * (10_000 - len(self.outcomes))
        rng.shuffle(self.outcomes)


_ERRORS = [
    ("ConnectionError", "the payment provider closed the connection"),
    ("TimeoutError", "no answer within 30 s"),
    ("OSError", "try again"),
    ("ValueError", "the amount is negative: -12.40"),
    ("KeyError", "tenant"),
]


def _words(rng: random.Random, least: int, most: int) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(least, most)))


_WORDS = ["order", "parcel", "green", "café", "light", "river", "stone", "paper", "cloud", "round", "seven"]


def _traceback(kind: str, text: str) -> str:
    frames = "".join(
        f'  File "/srv/shop/app/{place}.py", line {line}, in {place}\n    return {place}_of(task, *args)\n'
        for place, line in (("trace", 564), ("run", 883), ("charge", 46), ("client", 210), ("retry", 91))
    )
    return f"Traceback (most recent call last):\n{frames}{kind}: {text}\n"


def disordered(
    messages: list[bytes], rng: random.Random, window: int = 200, again: float = 0.05
) -> Iterator[bytes]:
    """The same messages, each up to ``window`` places from its own, some of them twice."""
    order = [(place + rng.random() * window, message) for place, message in enumerate(messages)]
    order += [
        (place + rng.random() * window * 3, message)
        for place, message in enumerate(messages)
        if rng.random() < again
    ]
    order.sort(key=lambda item: item[0])
    return (message for _, message in order)
