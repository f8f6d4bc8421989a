"""The workers by hostname and their processes: alive means heard, by our clock alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from monitor.cluster.limits import Limits
from monitor.cluster.losses import Losses, nameless
from monitor.cluster.processes import (
    FREQ,
    GOODBYE_GRACE,
    PLAIN_FOR,
    RECONNECT_GRACE,
    SHOWN_AGAIN,
    Gone,
    Process,
    Worker,
    read_stats,
    silent_of,
    totals_of,
    whole,
)
from monitor.events import WORKER_TYPES, Event, TaskEvent, WorkerEvent
from monitor.records import Inspection, Started, WorkerRecord
from monitor.redact import Redactor

UNANSWERED_MOST = 120.0  # seconds until a worker that does not answer is asked again, at most


class Workers:
    """The table of workers. ``name_of`` gives the task name of a uuid, '' when it is not known."""

    def __init__(self, redactor: Redactor, limits: Limits, name_of: Callable[[str], str] = nameless) -> None:
        self._redactor = redactor
        self._limits = limits
        self._name_of = name_of
        self.known: dict[str, Worker] = {}
        self.connected_at: float | None = None
        self.has_reconnected = False

    def heartbeat(self, event: WorkerEvent, now: float) -> bool:
        """A worker-* event; False when it is late or repeated."""
        worker = self._find_or_enter(event.hostname, now)
        if worker is None:
            return True
        if event.type == "worker-heartbeat" and event.processed is None:
            self._heard(worker, self._process(worker, event, now), event, now)
            return True  # asked for by a control command: says nothing but that it lives
        process = self._process(worker, event, now)
        if event.clock <= process.clock and event.timestamp <= process.stamp:
            return False
        if event.clock < process.clock and (event.processed or 0) <= (process.processed or 0):
            process = self._anew(worker, process, now)  # the same pid in a new container
        if event.type == "worker-offline":
            process.heard_at = process.goodbye_at = now
            process.clock, process.stamp = event.clock, event.timestamp
            if self._is_followed(worker, event.pid, now):
                return True  # the old process leaves after the new one came
            self._read(worker, process, event)
            self._offline(worker, "said goodbye", now)
        else:
            worker.rests(process, event.active, event.processed)
            self._read(worker, process, event)
            self._revive(worker, process, now)
            self._heard(worker, process, event, now)
        if event.processed is not None and event.type != "worker-offline":
            process.losses.beat(event.clock, event.processed, self._name_of, now)
        process.plain_until = 0.0
        self._account(worker)
        return True

    def plain(self, hostname: str, pid: int, now: float) -> Losses | None:
        """The account of a process of which a task event says nothing new, but that it came; else None."""
        worker = self.known.get(hostname)
        process = worker.processes.get(pid) if worker is not None else None
        return process.losses if process is not None and now < process.plain_until else None

    def task_event(self, event: TaskEvent, kind: str, now: float, is_standard: bool) -> None:
        """A new task event: its sender is alive, unless it has said goodbye."""
        worker = self.known.get(event.hostname)
        if worker is not None and is_standard:
            process = worker.processes.get(event.pid)
            if process is not None and now < process.plain_until:
                if kind == "started":
                    process.losses.starts.append(event)
                else:
                    process.losses.spoke = True
                return
        self._hear(worker, event, kind, now, is_standard)

    def tick(self, now: float) -> list[Gone]:
        """Judge silence. Gives the processes that are gone for good; pid -1 means all of the hostname."""
        gone: list[Gone] = []
        since = self.connected_at
        if since is None:
            return gone
        settled = now - since
        for worker in self.known.values():
            record, window = worker.record, worker.window
            patience = max(window, RECONNECT_GRACE) if record.status == "unknown" else window
            heard = max(record.heartbeat_at or 0.0, since if record.status == "unknown" else 0.0)
            if record.status != "offline" and not record.is_beat and now - heard > patience:
                if worker.beats or (record.status == "unknown" and record.reason != "sends no heartbeats"):
                    self._offline(worker, "silent since", now)
                    if not worker.processes:
                        gone.append((record.hostname, -1, now))
                elif now - heard > 60.0:
                    self._set(worker, "unknown", "sends no heartbeats")
            if settled > (max(window, RECONNECT_GRACE) if self.has_reconnected else window):
                gone += self._gone(worker, now)
        return gone

    def connected(self, now: float) -> None:
        self.connected_at = now
        for worker in self.known.values():
            worker.ask_soon(now)

    def disconnected(self) -> None:
        self.connected_at = None
        self.has_reconnected = True
        for worker in self.known.values():
            worker.idle_since = None
            for process in worker.processes.values():
                process.losses.blind()
            if worker.record.status != "offline":
                self._set(worker, "unknown", "broker unreachable")

    def reconcile(self, inspection: Inspection, now: float) -> int:
        """Take over what a worker answered; gives its pid, 0 when not known."""
        worker = self._find_or_enter(inspection.hostname, now)
        if worker is None:
            return 0
        record = worker.record
        record.inspected_at = now
        worker.inspect_at, worker.unanswered = None, 0
        worker.is_dirty = True
        # Beat sends no heartbeats: an answer to ping alone was cut short, when the broker stood still.
        record.is_beat = inspection.is_beat and not worker.beats
        stats = inspection.stats
        answered = inspection.is_beat or any(
            getattr(inspection, command) is not None
            for command in ("stats", "active", "reserved", "scheduled", "registered", "active_queues", "conf")
        )
        if answered and not (record.status == "offline" and record.reason == "said goodbye"):
            record.heartbeat_at = now
            self._set(worker, "online", "")
        if stats is not None:
            read_stats(record, stats, inspection.asked_at)
        if inspection.active_queues is not None:
            names = [queue.get("name") for queue in inspection.active_queues if isinstance(queue, dict)]
            record.queues = sorted({name[:255] for name in names if isinstance(name, str)})[:200]
        details = dict(record.details)
        for command in (
            "stats",
            "conf",
            "active",
            "reserved",
            "scheduled",
            "revoked",
            "registered",
            "active_queues",
        ):
            if (value := getattr(inspection, command)) is not None:
                details[command] = self._redactor.value(value)
        details["losses"] = worker.losses()
        record.details = details
        self._told(worker, inspection)
        return whole(stats, "pid") or record.pid or 0

    def restore(
        self, record: WorkerRecord, now: float, starts: Mapping[int, list[Started]] | None = None
    ) -> None:
        """Take over what history says; ``starts`` by pid: those heard about when Umbel was last here."""
        if record.hostname not in self.known and len(self.known) < self._limits.workers:
            record = msgspec.structs.replace(record, duplicate=False)
            if record.status != "offline":
                record.status, record.reason = "unknown", "not heard since Umbel started"
            worker = self.known[record.hostname] = Worker(record, now)
            worker.remember(starts or {})

    def due(self, now: float, every: float) -> list[str]:
        """Who should be asked: new, back again, or not for a while; who does not answer, ever less often."""
        due = []
        for hostname, worker in self.known.items():
            record = worker.record
            if record.status == "offline" or record.is_beat:
                continue
            stale = record.inspected_at is None or now - record.inspected_at >= every
            asked = worker.inspect_at
            if (asked is not None and asked <= now) or (asked is None and stale):
                # Should the answer never come.
                worker.inspect_at = now + min(every * 2.0**worker.unanswered, max(every, UNANSWERED_MOST))
                worker.unanswered += 1
                due.append(hostname)
        return due

    def drain(self, now: float) -> list[WorkerRecord]:
        drained = []
        for worker in self.known.values():
            if worker.is_dirty:
                worker.is_dirty = False
                worker.shown_at = now
                drained.append(msgspec.structs.replace(worker.record))
        return drained

    @property
    def silent(self) -> int:
        """Tasks that ran since Umbel started whose names send no events, by design."""
        return sum(worker.silent - worker.silent_restored for worker in self.known.values())

    # private, in the order of use

    def _hear(
        self, worker: Worker | None, event: TaskEvent, kind: str, now: float, is_standard: bool
    ) -> None:
        if worker is None:
            # Anyone may send custom events; only workers send Celery's own.
            worker = self._find_or_enter(event.hostname, now) if is_standard else None
            if worker is None:
                return
        process = worker.processes.get(event.pid)
        if process is None:
            if not is_standard and worker.processes:
                # A custom event comes from a pool process, whose pid is not the worker's.
                return
            process = self._process(worker, event, now)
        losses = process.losses
        if is_standard:
            if kind == "started":
                losses.starts.append(event)
            losses.spoke = losses.events_on = True
            losses.trim(self._limits.starts)
            if worker.record.events_on is not True:
                worker.record.events_on = True
                worker.is_dirty = True
        process.heard_at = now
        if process.goodbye_at is None:
            self._heard(worker, process, event, now)
            if is_standard:
                process.plain_until = now + PLAIN_FOR

    def _find_or_enter(self, hostname: str, now: float) -> Worker | None:
        worker = self.known.get(hostname)
        if worker is None:
            if len(self.known) >= self._limits.workers and not self._make_room():
                self._limits.let_go["workers"] += 1
                return None
            record = WorkerRecord(hostname=hostname, first_seen_at=now, heartbeat_at=now)
            worker = self.known[hostname] = Worker(record, now)
        return worker

    def _make_room(self) -> bool:
        for hostname, worker in self.known.items():
            if worker.record.status == "offline" and not worker.is_dirty:
                del self.known[hostname]
                self._limits.let_go["workers"] += 1
                return True
        return False

    def _told(self, worker: Worker, inspection: Inspection) -> None:
        if inspection.registered is not None:
            worker.named_silent = frozenset(silent_of(inspection.registered))
            for process in worker.processes.values():
                process.losses.silent_names = worker.named_silent
        if (told := totals_of(inspection.stats)) is not None:
            pid, clock, totals = told
            if (teller := worker.processes.get(pid)) is not None:
                teller.losses.told(clock, totals)

    def _process(self, worker: Worker, event: Event, now: float) -> Process:
        process = worker.processes.get(event.pid)
        if process is None:
            if len(worker.processes) >= 16:
                oldest = min(worker.processes.values(), key=lambda process: process.heard_at)
                worker.forget(oldest)
                del worker.processes[oldest.pid]
            process = worker.processes[event.pid] = Process(event.pid, now)
            worker.resume(process)
            process.losses.silent_names = worker.named_silent
            worker.ask_soon(now)
        return process

    def _is_followed(self, worker: Worker, pid: int, now: float) -> bool:
        others = [process for process in worker.processes.values() if process.pid != pid]
        return any(p.beats and p.goodbye_at is None and now - p.heard_at <= worker.window for p in others)

    def _anew(self, worker: Worker, process: Process, now: float) -> Process:
        worker.forget(process)
        fresh = worker.processes[process.pid] = Process(process.pid, now)
        fresh.losses.silent_names = worker.named_silent
        worker.reborn.append((process.pid, now))
        worker.returns.append(now)
        self._judge_duplicate(worker, now)
        worker.ask_soon(now)
        return fresh

    def _read(self, worker: Worker, process: Process, event: WorkerEvent) -> None:
        record = worker.record
        process.clock, process.stamp = event.clock, event.timestamp
        process.processed = event.processed
        process.beats += 1
        if record.is_beat:
            record.is_beat, worker.is_dirty = False, True
            worker.ask_soon(process.heard_at)
        before = (record.pid, record.busy, record.processed, record.load, record.software)
        record.pid, record.clock = event.pid or record.pid, event.clock
        if event.active is not None:
            record.busy = event.active
        if event.processed is not None:
            record.processed = event.processed
        if event.freq is not None:
            record.freq = min(max(event.freq, FREQ[0]), FREQ[1])
        if event.loadavg:
            record.load = event.loadavg
        if event.sw_ident or event.sw_ver:
            record.software = f"{event.sw_ident or ''} {event.sw_ver or ''}".strip()[:255]
        record.system = (event.sw_sys or record.system)[:255]
        if before != (record.pid, record.busy, record.processed, record.load, record.software):
            worker.is_dirty = True

    def _revive(self, worker: Worker, process: Process, now: float) -> None:
        process.goodbye_at = None
        if process.is_lost:
            process.is_lost = False
            worker.ask_soon(now)

    def _heard(self, worker: Worker, process: Process, event: Event, now: float) -> None:
        record = worker.record
        stamp: float = getattr(event, "timestamp", 0.0)
        process.heard_at = now
        record.heartbeat_at = now
        if stamp:
            worker.offsets.append(now - stamp)
            drift = -min(worker.offsets)
            if record.drift is None or abs(drift - record.drift) >= 0.1:
                worker.is_dirty = True
                record.drift = round(drift, 3)
        if record.status != "online":
            if record.status == "offline":
                worker.ask_soon(now)
            if record.online_at is None or record.status == "offline":
                record.online_at = now
            self._set(worker, "online", "")
        if now - worker.shown_at >= SHOWN_AGAIN and event.type in WORKER_TYPES:
            worker.is_dirty = True
        if event.type in WORKER_TYPES:
            self._see_duplicates(worker, process, now)

    def _see_duplicates(self, worker: Worker, process: Process, now: float) -> None:
        # After a restart the old pid is not heard again; two workers of one name take turns.
        if worker.last_pid not in (None, process.pid) and process.beats > 1:
            worker.returns.append(now)
        worker.last_pid = process.pid
        self._judge_duplicate(worker, now)

    def _judge_duplicate(self, worker: Worker, now: float) -> None:
        since = now - 3 * worker.window
        is_duplicate = sum(at >= since for at in worker.returns) >= 3
        if is_duplicate != worker.record.duplicate:
            worker.record.duplicate = is_duplicate
            worker.is_dirty = True

    def _offline(self, worker: Worker, reason: str, now: float) -> None:
        record = worker.record
        if record.status != "offline":
            record.offline_at = now
        record.duplicate = False
        worker.idle_since = None
        self._set(worker, "offline", reason)

    def _set(self, worker: Worker, status: str, reason: str) -> None:
        if (worker.record.status, worker.record.reason) != (status, reason):
            worker.record.status, worker.record.reason = status, reason
            worker.is_dirty = True
            for process in worker.processes.values():
                process.plain_until = 0.0

    def _gone(self, worker: Worker, now: float) -> list[Gone]:
        hostname = worker.record.hostname
        gone: list[Gone] = []
        while worker.reborn and now - worker.reborn[0][1] > worker.window:
            pid, at = worker.reborn.pop(0)
            if not worker.record.duplicate:  # two containers of one name and pid take turns: none is gone
                gone.append((hostname, pid, at))
        for pid, process in list(worker.processes.items()):
            quiet = now - process.heard_at
            limit = GOODBYE_GRACE if process.goodbye_at is not None else worker.window
            if process.is_lost or not process.beats or quiet <= limit:
                continue
            process.is_lost = True
            gone.append((hostname, pid, now))
        return gone

    def _account(self, worker: Worker) -> None:
        record = worker.record
        missed = worker.missed_before + sum(p.losses.missed for p in worker.processes.values())
        current = worker.processes.get(record.pid or 0)
        events_on = current.losses.events_on if current else record.events_on
        if events_on is None and current is not None and record.events_on is not None:
            events_on = record.events_on
        losses = worker.losses()
        if (missed, events_on, losses) != (record.missed, record.events_on, record.details.get("losses")):
            record.missed, record.events_on = missed, events_on
            record.details = {**record.details, "losses": losses}
            worker.is_dirty = True
