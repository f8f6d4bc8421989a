"""Workers that tell a cluster of themselves, each by its own clock and count."""

from __future__ import annotations

from typing import Any

from monitor.cluster import Cluster, Limits
from monitor.events import event_from_dict
from monitor.records import WorkerRecord

NOW = 1_000_000.0
W = "w@host"


class Fleet:
    """Tells a cluster what workers send; each process has its own Lamport clock and count of starts."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.cluster = Cluster(limits=limits or Limits())
        self.now = NOW
        self.cluster.connected(self.now)
        self.clocks: dict[tuple[str, int], int] = {}
        self.processed: dict[tuple[str, int], int] = {}
        self.skew = 0.0
        self.uuids = 0

    def send(self, kind: str, host: str = W, pid: int = 1, is_lost: bool = False, **fields: Any) -> None:
        place = (host, pid)
        self.clocks[place] = self.clocks.get(place, 0) + 1
        base = {"type": kind, "hostname": host, "pid": pid, "clock": self.clocks[place]}
        event = event_from_dict(base | {"timestamp": self.now + self.skew} | fields)
        if not is_lost:
            self.cluster.apply(event, self.now)

    def beat(self, host: str = W, pid: int = 1, kind: str = "heartbeat", **fields: Any) -> None:
        given = {
            "freq": 2.0,
            "active": 0,
            "processed": self.processed.get((host, pid), 0),
            "sw_ident": "py-celery",
        }
        self.send(f"worker-{kind}", host, pid, **(given | fields))

    def start(self, host: str = W, pid: int = 1, is_lost: bool = False) -> None:
        self.uuids += 1
        self.processed[host, pid] = self.processed.get((host, pid), 0) + 1
        self.send("task-started", host, pid, is_lost, uuid=f"u{self.uuids}")

    def wait(self, seconds: float, *beating: str) -> None:
        for _ in range(int(seconds * 2)):
            self.now += 0.5
            if self.now % 2 == 0:
                for host in beating:
                    self.beat(host)
            self.cluster.tick(self.now)

    def worker(self, host: str = W) -> WorkerRecord:
        return self.cluster.workers.known[host].record
