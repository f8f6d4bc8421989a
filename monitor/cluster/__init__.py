"""The live state of what is watched: events in, whole records out. Pure: time is passed in.

``apply`` only files an event; rows are derived once per changed task in ``drain``. A task not in memory may
have a row in history, so it is ``cold`` until that row has been looked for and absorbed:
``cold`` -> (read the store) -> ``absorb`` -> ``drain`` -> (write the store), each tick.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from monitor.cluster.derive import derive
from monitor.cluster.hearsay import Hearsay
from monitor.cluster.limits import Limits
from monitor.cluster.pulse import Pulse
from monitor.cluster.tally import Tally
from monitor.cluster.tasks import HOLD, Tasks
from monitor.cluster.workers import Workers
from monitor.deltas import Record
from monitor.events import (
    TASK_KINDS,
    Decoded,
    Failed,
    Received,
    Rejected,
    Retried,
    Revoked,
    Sent,
    Succeeded,
    TaskEvent,
    WorkerEvent,
)
from monitor.events import Started as StartedEvent
from monitor.records import (
    STARTED,
    Accounting,
    FeedRecord,
    Gap,
    Inspection,
    Queued,
    Settled,
    Started,
    TaskRecord,
    WorkerRecord,
)
from monitor.redact import DEFAULT, Redactor

__all__ = ["HOLD", "Cluster", "Limits", "derive"]

# What a worker says of a task; clients say "sent", tasks may say anything else.
_FROM_WORKERS = frozenset({Received, StartedEvent, Succeeded, Failed, Retried, Revoked, Rejected})


class Cluster:
    """Everything live. Used from one thread."""

    def __init__(
        self, redactor: Redactor = DEFAULT, limits: Limits | None = None, *, inspect_every: float = 30.0
    ) -> None:
        self.limits = limits if limits is not None else Limits()
        self.inspect_every = inspect_every
        self._redactor = redactor
        self.tasks = Tasks(redactor, self.limits)
        self.hearsay = Hearsay(self.tasks, redactor)
        self.workers = Workers(redactor, self.limits, self.tasks.name_of)
        self._accounting = Accounting(refused={})
        self._tally = Tally(self.limits)
        self._pulse = Pulse()
        self._feed = FeedRecord()
        self._gaps: list[Gap] = []
        self._gap: Gap | None = None

    @property
    def keep(self) -> bool:
        """While the store cannot be written, nothing may leave memory: it could not be read back."""
        return self.tasks.keep

    @keep.setter
    def keep(self, keep: bool) -> None:
        self.tasks.keep = keep

    @property
    def waiting(self) -> int:
        """Task events that are filed and not yet in a row."""
        return self.tasks.waiting

    # what comes in

    def apply(self, event: TaskEvent | WorkerEvent, now: float) -> None:
        """File one event."""
        self.apply_all((event,), now)

    def apply_all(self, events: Iterable[TaskEvent | WorkerEvent], now: float) -> None:
        """File events under their tasks and workers; what proves repeated changes the account at the drain.

        An error counts nothing of the event that raised it: the caller drops that one, and goes on with
        what is left of an iterator.
        """
        # One loop with nothing called for nearly all events: it runs for each event there is. What each is
        # follows from its class, which is looked up in a set: no type checker reads that.
        each: Iterable[Any] = events
        workers, heard = self.workers, self.tasks.heard
        room, holds = self.tasks.room, self.tasks.holds
        hostname, pid, losses = "", -1, None
        done = repeated = refused = filed = 0
        last: Any = None
        try:
            for event in each:
                shape = event.__class__
                if shape in _FROM_WORKERS:
                    # Those that follow each other often come from one process, of which all is known.
                    if event.pid != pid or event.hostname != hostname:
                        hostname, pid = event.hostname, event.pid
                        losses = workers.plain(hostname, pid, now)
                    if losses is None:
                        workers.task_event(event, event.kind, now, True)
                        losses = workers.plain(hostname, pid, now)
                    elif shape is StartedEvent:
                        losses.starts.append(event)
                    else:
                        losses.spoke = True
                elif shape is not Sent:
                    hostname = ""
                    if not isinstance(event, TaskEvent):
                        done += 1
                        last = event
                        repeated += not workers.heartbeat(event, now)
                        continue
                    workers.task_event(event, event.kind, now, False)
                done += 1
                last = event
                event.seen_at = now
                uuid = event.uuid
                group = heard.get(uuid)
                if group is not None:
                    group.append(event)
                elif room > 0 or holds(uuid):
                    heard[uuid] = [event]
                    room -= 1
                else:
                    refused += 1
                    continue
                filed += 1
        finally:
            self.tasks.waiting += filed
            self._applied(done, repeated, refused)
            if last is not None:
                self._pulse.event(last.hostname, last.timestamp, now, done)

    def count(self, decoded: Decoded) -> None:
        """Account for what a message held beside its good events."""
        if not decoded.malformed and not decoded.ignored:
            return
        count = self._accounting
        count.malformed += decoded.malformed
        count.ignored += decoded.ignored
        count.received += decoded.malformed + decoded.ignored
        for reason in decoded.reasons:
            self._refused(reason)

    def drop(self, n: int, reason: str) -> None:
        """Account for events that were received and thrown away."""
        self._accounting.dropped += n
        self._accounting.received += n
        self._refused(reason, n)

    def reconcile(self, inspection: Inspection, now: float) -> None:
        """Take over what one worker says of itself and of the tasks it holds."""
        pid = self.workers.reconcile(inspection, now)
        self.hearsay.inspected(inspection, pid, now)

    def settle(self, settled: Settled, now: float, *, create: bool = False) -> bool:
        """Take an end from the result backend; a real end event always wins. False when it was of no use.

        ``create`` also takes the end of a task that is not in memory: history, and what comes later, has the
        last word.
        """
        return self.hearsay.settle(settled, now, create)

    def queued(self, found: Queued, now: float) -> bool:
        """Take a message that was found at the broker; False when more is known of its task already."""
        return self.hearsay.queued(found, now)

    def shed(self, events: Sequence[TaskEvent | WorkerEvent], now: float) -> None:
        """Account for events that are let go under overload: their workers live, and starts are no losses."""
        for event in events:
            if isinstance(event, TaskEvent) and event.kind != "sent":
                self.workers.task_event(event, event.kind, now, event.kind in TASK_KINDS)
                self._tally.shed(event, now)
        self.drop(len(events), "let go under overload")

    def end_not_seen(self, uuid: str, now: float) -> bool:
        """Give up on a task that nobody holds any more; False when it may still run or wait."""
        task = self.tasks.live.get(uuid)
        if task is None or task.row is None:
            return False
        worker = self.workers.known.get(task.row.worker)
        if uuid not in self.tasks.suspects and not (worker and worker.record.status == "offline"):
            return False
        self.tasks.suspects.pop(uuid, None)
        return self.tasks.infer(uuid, "lost", {"note": "end not seen"}, now)

    def absorb(self, records: Iterable[TaskRecord]) -> None:
        """Merge the rows that history held for the uuids of ``cold``. Call it even when there were none."""
        self.tasks.absorb(records)
        self.hearsay.keep_promises()
        self._take_duplicates()

    def restore(
        self,
        workers: Iterable[WorkerRecord],
        tasks: Iterable[TaskRecord],
        now: float = 0.0,
        starts: Iterable[Started] = (),
    ) -> None:
        """Take over history at the start: all workers, the tasks that had not ended, and the last starts."""
        heard: dict[str, dict[int, list[Started]]] = {}
        for start in starts:
            heard.setdefault(start.hostname, {}).setdefault(start.pid, []).append(start)
        for worker in workers:
            self.workers.restore(worker, now, heard.get(worker.hostname))
        self.tasks.restore(tasks, now)

    # time and connection

    def tick(self, now: float) -> None:
        """Let time pass: silence, losses, evictions."""
        for hostname, pid, before in self.workers.tick(now):
            self._lose(hostname, pid, before, now)
        if not self.keep:
            self.tasks.evict(now)

    def connected(self, now: float) -> Gap | None:
        """We listen again; gives the gap that this ends."""
        feed, gap = self._feed, self._gap
        if feed.connected:
            return None
        feed.connected, feed.since, feed.error = True, now, ""
        self.workers.connected(now)
        if gap is not None:
            gap.ended_at = now
            self._gaps.append(gap)
            self._gap = None
        return gap

    def disconnected(self, now: float, reason: str) -> None:
        feed = self._feed
        reason = self._redactor.text(reason)
        if self._gap is None:
            self._gap = Gap(started_at=now, reason=reason[:255])
            self._gaps.append(self._gap)
        if feed.connected or feed.since is None:
            feed.since = now
        feed.connected, feed.error = False, reason
        self.workers.disconnected()

    # what is wanted and what goes out

    def cold(self) -> list[str]:
        """Uuids whose stored rows must be read and absorbed before their tasks are drained."""
        return self.tasks.cold()

    def unfinished(self, older_than: float) -> list[TaskRecord]:
        """Rows to look up in the result backend: suspects at once, others unheard of since ``older_than``."""
        return self.hearsay.unfinished(older_than)

    def is_suspect(self, uuid: str) -> bool:
        """Whether its worker, when asked, did not know it any more."""
        return uuid in self.tasks.suspects

    def wants_inspection(self, now: float) -> list[str]:
        """Hostnames to ask: new, back again, or not asked for ``inspect_every`` seconds."""
        return self.workers.due(now, self.inspect_every)

    @property
    def undrained(self) -> bool:
        """Whether ``drain``, told to stop early, is to be called again."""
        return self.tasks.undrained

    def drain(self, now: float, most: int | None = None, *, hold: bool = False) -> list[Record]:
        """Every change since the last drain, as whole records and as increments.

        ``most`` is how many tasks to look at in this call, so that others have their turn. ``hold``: what
        only began since the last drain may wait for the next.
        """
        changed: list[Record] = [*self.tasks.drain(now, self._tally, most, hold)]
        self._take_duplicates()
        if self.tasks.undrained:
            return changed
        changed += self.workers.drain(now)
        changed += self._tally.drain(now)
        changed += [Gap(gap.started_at, gap.ended_at, gap.reason) for gap in self._gaps]
        self._gaps = []
        return changed

    def last_counts(self) -> list[Record]:
        """Increments that wait for their turn; at the end there will be none."""
        return [*self._tally.pairs.drain(0.0, all_of_it=True)]

    def feed(self, now: float) -> FeedRecord:
        """How fresh and whole the picture is; the caller adds what it alone knows (broker, store, start)."""
        feed = self._feed
        known = [worker.record for worker in self.workers.known.values() if not worker.record.is_beat]
        here = [record for record in known if record.status != "offline"]
        drifts = [(abs(r.drift), r.drift, r.hostname) for r in here if r.drift is not None]
        worst = max(drifts, default=(0.0, None, ""))
        return FeedRecord(
            connected=feed.connected,
            since=feed.since,
            error=feed.error,
            last_event_at=self._pulse.last_at,
            lag=self._pulse.lag(now),
            rate=self._pulse.rate(now),
            accounting=self.accounting,
            workers_online=sum(record.status == "online" for record in known),
            workers_known=len(known),
            tasks_live=len(self.tasks.live),
            limits=dict(self.limits.let_go),
            worst_drift=worst[1],
            worst_drift_worker=worst[2],
            twice=self.tasks.doubles.latest(now),
        )

    @property
    def accounting(self) -> Accounting:
        """A copy of the account, with what the workers' heartbeats say was missed."""
        count = self._accounting
        known = self.workers.known.values()
        missed = sum(worker.record.missed - worker.missed_restored for worker in known)
        return Accounting(
            received=count.received,
            applied=count.applied,
            duplicate=count.duplicate,
            malformed=count.malformed,
            ignored=count.ignored,
            dropped=count.dropped,
            missed=missed,
            refused=dict(count.refused),
        )

    # private

    def _applied(self, done: int, repeated: int, refused: int) -> None:
        count = self._accounting
        count.received += done
        count.applied += done - refused - repeated
        count.duplicate += repeated
        if refused:
            count.dropped += refused
            self.limits.let_go["events without room for their task"] += refused

    def _take_duplicates(self) -> None:
        duplicates, self.tasks.duplicates = self.tasks.duplicates, 0
        self._accounting.applied -= duplicates
        self._accounting.duplicate += duplicates

    def _refused(self, reason: str, n: int = 1) -> None:
        refused = self._accounting.refused
        if reason not in refused and len(refused) >= self.limits.reasons:
            reason = "other reasons"
        refused[reason] = refused.get(reason, 0) + n

    def _lose(self, hostname: str, pid: int, before: float, now: float) -> None:
        # Tasks that a worker process was running when it went silent.
        for (host, of), uuids in list(self.tasks.by_process.items()):
            if host == hostname and pid in (-1, of):
                for uuid in list(uuids):
                    task = self.tasks.live.get(uuid)
                    if task is None or task.row is None or task.row.state != STARTED:
                        continue
                    if task.row.seen_at <= before and not self.tasks.is_waiting(uuid):
                        self.tasks.infer(uuid, "lost", {"note": "worker lost"}, now)
