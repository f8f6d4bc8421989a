"""Lives of tasks in a shop, as records that the engine would have made of them, for ``bench.fill``."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monitor.records import Mark, TaskRecord, WorkerRecord

END = 1_000_000_000.0  # when the tasks of a pool have their last event
NAMES = 40
WORKERS = 12
QUEUES = ("default", "mail", "image", "report", "search", "billing")
VERBS = ("send", "build", "check", "sync", "prune", "score", "merge")
OPEN = {"PENDING": 1_000, "RECEIVED": 300, "STARTED": 96, "RETRY": 40}  # unfinished ones, the newest
ENDS = (("SUCCESS", 0.945), ("FAILURE", 0.04), ("REVOKED", 0.01), ("REJECTED", 0.003), ("LOST", 0.002))
RETRIED = 0.03  # of those that run
TOWNS = ("Aarhus", "Bergen", "Coimbra", "Dresden", "Evora", "Fulda", "Ghent", "Hamar", "Imola", "Jena")
# "@n" stands for the order's number, each task's own.
FAULTS = ("ValueError('no such order @n')", "TimeoutError('gateway silent for 30 s')", "KeyError('sku-@n')")
PASSING = "ConnectionError('connection refused')"
TRACE = (
    'Traceback (most recent call last):\n  File "/srv/shop/tasks.py", line 41, in {0}\n    run(order)\n'
    '  File "/srv/shop/orders.py", line 108, in run\n    raise {1}\n{1}\n'
)
STEPS = {
    "PENDING": (),
    "RECEIVED": ("received",),
    "STARTED": ("received", "started"),
    "RETRY": ("received", "started", "retried"),
    "SUCCESS": ("received", "started", "succeeded"),
    "FAILURE": ("received", "started", "failed"),
    "REVOKED": ("received", "revoked"),
    "REJECTED": ("received", "rejected"),
    "LOST": ("received", "started", "lost"),
}


def ended(dice: random.Random, at: float = END) -> TaskRecord:
    """A finished task whose last event was at ``at``."""
    return life(dice, dice.choices([s for s, _ in ENDS], [w for _, w in ENDS])[0], at)


def unfinished(dice: random.Random, now: float, within: float) -> list[TaskRecord]:
    """Tasks without an end, each heard of in the last seconds, the newest at the end."""
    records = []
    for state, count in OPEN.items():
        for _ in range(count):
            record = life(dice, state, now - dice.random() * (within - 1))
            record.uuid = f"{dice.getrandbits(32):08x}-0000-4000-a000-{dice.getrandbits(48):012x}"
            record.root_id = record.uuid
            record.args = (record.args or "").replace("@n", str(dice.randrange(10**6)))
            records.append(record)
    return sorted(records, key=lambda record: record.seen_at)


def life(dice: random.Random, state: str, at: float) -> TaskRecord:
    """A task in that state, its last event at ``at``; it has no id yet."""
    from monitor.cluster.derive import derive
    from monitor.records import Mark, TaskRecord

    name, queue, worker, typical = _kind(dice)
    runtime = round(typical * dice.lognormvariate(0, 0.5), 6)
    wait = round(dice.expovariate(4), 6)
    pid, clock = 1000 + dice.randrange(64), dice.randrange(10**6, 10**8)
    steps = STEPS[state]
    again = len(steps) == 3 and state in ("SUCCESS", "FAILURE") and dice.random() < RETRIED
    fault = PASSING if again or state == "RETRY" else dice.choice(FAULTS)
    details: dict[str, dict[str, Any]] = {
        "received": {"retries": 0, "has": "nakr"},
        "retried": {"exception": PASSING},
        "succeeded": {"result": f"{{'order': @n, 'town': '{dice.choice(TOWNS)}'}}", "runtime": runtime},
        "failed": {"exception": fault, "traceback": TRACE.format(name.rpartition(".")[2], fault)},
        "revoked": {"terminated": False, "expired": False},
        "rejected": {"requeue": False},
        "lost": {"note": "end not seen"},
    }
    # From the end to the beginning.
    marks: list[Mark] = []
    for kind in reversed((*STEPS["RETRY"], *steps) if again else steps):
        marks.append(Mark(kind, worker, pid, clock, at, at, details.get(kind)))
        if kind == "received" and again and len(marks) < len(steps) + 1:
            marks[-1] = Mark(kind, worker, pid, clock, at, at, {"retries": 1, "has": "nakr"})
        at = round(at - {"received": wait / 2, "started": wait / 2}.get(kind, runtime) - 1e-6, 6)
        clock -= 2
    sent = {"retries": 0, "has": "nakrqy", "queue": queue}
    marks.append(Mark("sent", "web@shop", 77, clock, at, at, sent))
    identity = TaskRecord(
        uuid="",
        name=name,
        queue=queue,
        routing_key=queue,
        args=f"(@n, '{dice.choice(TOWNS)}', {dice.randrange(1, 9)})",
        kwargs=json.dumps({"sku": f"sku-{dice.randrange(5000)}", "gift": dice.random() < 0.1}).replace(
            '"', "'"
        ),
    )
    return derive(identity, marks)


def workers(now: float, since: float) -> list[WorkerRecord]:
    """Those that the tasks ran on."""
    from monitor.records import WorkerRecord

    return [
        WorkerRecord(
            hostname=f"{queue}-{k}@shop", status="online", pid=100 + k, pool="prefork", size=8, busy=8,
            processed=10**6, prefetch=32, queues=[queue], software="py-celery 5.7.0", system="Linux",
            load=[1.0, 0.9, 0.8], heartbeat_at=now, drift=0.0, clock=10**8, online_at=since,
            events_on=True, first_seen_at=since,
        )
        for queue in QUEUES
        for k in range(WORKERS // len(QUEUES))
    ]  # fmt: skip


def _kind(dice: random.Random) -> tuple[str, str, str, float]:
    """Name, queue, worker and typical runtime: few names have most of the tasks."""
    rank = min(int(dice.paretovariate(0.9)) - 1, NAMES - 1)
    queue = QUEUES[rank % len(QUEUES)]
    name = f"shop.{queue}.{VERBS[rank // len(QUEUES)]}"
    return name, queue, f"{queue}-{dice.randrange(WORKERS // len(QUEUES))}@shop", 0.05 * 1.35 ** (rank % 17)
