"""A cluster that is told the events of tasks, and what it makes of them."""

from __future__ import annotations

from typing import Any

from monitor.cluster import Cluster, Limits
from monitor.events import event_from_dict
from monitor.records import TaskRecord

NOW = 1_000_000.0
W, V = "w@host", "v@other"


class Story:
    """Tells a cluster the events of one task, by worker and Lamport clock."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.cluster = Cluster(limits=limits or Limits())
        self.cluster.connected(NOW - 100)
        self.now = NOW
        self.clock = 0
        self.rows: dict[str, TaskRecord] = {}  # as the database would hold them

    def tell(
        self, kind: str, worker: str = W, at: float | None = None, uuid: str = "u1", **fields: Any
    ) -> Story:
        self.clock += 1
        self.now += 0.1
        stamp = self.now if at is None else at
        base = {"type": f"task-{kind}", "hostname": worker, "pid": 7, "clock": self.clock, "timestamp": stamp}
        self.cluster.apply(event_from_dict({"uuid": uuid, **base, **fields}), self.now)
        return self

    def beat(self, worker: str = W, pid: int = 7, kind: str = "heartbeat", **fields: Any) -> Story:
        self.clock += 1
        base = {"type": f"worker-{kind}", "hostname": worker, "pid": pid, "clock": self.clock, "freq": 2.0}
        given = {"timestamp": self.now, "processed": 0, "active": 0}
        self.cluster.apply(event_from_dict(base | given | fields), self.now)
        return self

    def received(self, retries: int = 0, **fields: Any) -> Story:
        return self.tell("received", name="shop.pay", args="(1,)", kwargs="{}", retries=retries, **fields)

    def drain(self) -> list[Any]:
        self.cluster.cold()
        self.cluster.absorb([])
        return list(self.cluster.drain(self.now))

    def row(self, uuid: str = "u1") -> TaskRecord:
        self.rows |= {r.uuid: r for r in self.drain() if isinstance(r, TaskRecord)}
        return self.rows[uuid]
