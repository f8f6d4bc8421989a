"""Whole records of what is watched: values that cross from one room to the next, for every room.

Times are Unix seconds (UTC) as floats. ``*_at`` fields that come from events carry the sender's clock;
``seen_at`` fields carry ours. ``None`` always means "not known", never zero.
"""

from __future__ import annotations

from typing import Any

import msgspec

# Celery's states, and one of ours: LOST, a task whose end nobody will report.
PENDING, RECEIVED, STARTED = "PENDING", "RECEIVED", "STARTED"
SUCCESS, FAILURE, RETRY = "SUCCESS", "FAILURE", "RETRY"
REVOKED, REJECTED, LOST = "REVOKED", "REJECTED", "LOST"
STATES = (PENDING, RECEIVED, STARTED, RETRY, SUCCESS, FAILURE, REVOKED, REJECTED, LOST)
ENDED = frozenset({SUCCESS, FAILURE, REVOKED, REJECTED, LOST})
WAITING = frozenset({PENDING, RECEIVED, RETRY})


class Mark(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One thing that happened to a task: an event without its payload, or something Umbel inferred.

    ``kind`` is the event type without ``task-`` (sent, received, started, succeeded, failed, retried,
    revoked, rejected, or a custom one), or one of ours: ``lost`` and ``settled``.
    Two marks are the same when all but ``seen_at`` and ``detail`` are equal.
    """

    kind: str
    worker: str
    pid: int
    clock: int
    at: float
    seen_at: float
    detail: dict[str, Any] | None = None

    @property
    def key(self) -> tuple[str, str, int, int, float]:
        return (self.kind, self.worker, self.pid, self.clock, self.at)


class Attempt(msgspec.Struct, omit_defaults=True, gc=False):
    """One try of a task: from received to its end."""

    number: int  # 0 for the first
    worker: str = ""
    state: str = RECEIVED
    received_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    eta: float | None = None
    runtime: float | None = None
    exception: str | None = None
    note: str = ""


class TaskRecord(msgspec.Struct, gc=False):
    """One execution of a task, by uuid, as far as it is known. Its payload is already redacted and cut."""

    uuid: str
    name: str = ""
    state: str = PENDING
    worker: str = ""
    queue: str = ""
    routing_key: str = ""
    args: str | None = None
    kwargs: str | None = None
    result: str | None = None
    exception: str | None = None
    exception_type: str = ""
    traceback: str | None = None
    sent_at: float | None = None
    received_at: float | None = None  # of the last attempt
    started_at: float | None = None  # of the last attempt
    ended_at: float | None = None
    eta: float | None = None
    expires: float | None = None
    first_seen_at: float = 0.0  # our clock
    seen_at: float = 0.0  # our clock, last event
    runtime: float | None = None  # seconds, of the last attempt
    wait: float | None = None  # seconds from sent (or received) to first start
    retries: int = 0
    root_id: str | None = None
    parent_id: str | None = None
    sender: str = ""  # the client's name in task-sent
    signum: str = ""
    terminated: bool = False
    expired: bool = False
    known: str = "seen"  # seen: by events; inferred: settled by Umbel from something else
    note: str = ""  # "worker lost", "end not seen", "end read from the result backend", …
    # Days since 1970 (UTC) of its first writing, for the row's whole life: where its row lives. 0: not said.
    day: int = 0
    attempts: list[Attempt] = []
    marks: list[Mark] = []


class WorkerRecord(msgspec.Struct):
    """One worker by hostname (``name@host``), or celery beat answering ping."""

    hostname: str
    status: str = "unknown"  # online, offline, unknown (broker silent)
    reason: str = ""  # "said goodbye", "silent since", "broker unreachable", …
    pid: int | None = None
    pool: str = ""  # prefork, threads, solo, gevent, eventlet, or the class path
    size: int | None = None  # pool processes, threads or greenlets; len(pool.processes) on prefork
    autoscale_max: int | None = None
    autoscale_min: int | None = None
    busy: int | None = None
    processed: int | None = None
    prefetch: int | None = None
    queues: list[str] = []
    software: str = ""  # "py-celery 5.7.0"
    system: str = ""
    load: list[float] = []
    freq: float = 2.0  # seconds between heartbeats
    heartbeat_at: float | None = None  # our clock, last heard of by any event
    drift: float | None = None  # seconds its clock is ahead of ours; shown, never trusted
    clock: int | None = None
    booted_at: float | None = None
    online_at: float | None = None
    offline_at: float | None = None
    events_on: bool | None = None  # False: processed rises while no task event arrives
    missed: int = 0  # task-started events of this worker that never reached us
    is_beat: bool = False
    duplicate: bool = False  # two pids answer under one name
    first_seen_at: float = 0.0
    inspected_at: float | None = None
    # Redacted replies of inspect: stats, conf, active, reserved, scheduled, revoked, registered and
    # active_queues
    details: dict[str, Any] = {}


class Inspection(msgspec.Struct):
    """What one worker answered to inspect. A command without an answer is None: could not ask, not empty."""

    hostname: str
    asked_at: float
    stats: dict[str, Any] | None = None
    active: list[dict[str, Any]] | None = None
    reserved: list[dict[str, Any]] | None = None
    scheduled: list[dict[str, Any]] | None = None
    revoked: list[str] | None = None
    registered: list[str] | None = None
    active_queues: list[dict[str, Any]] | None = None
    conf: dict[str, Any] | None = None
    is_beat: bool = False


class Settled(msgspec.Struct):
    """The end of a task read from the result backend."""

    uuid: str
    state: str
    ended_at: float | None = None
    result: str | None = None
    exception: str | None = None
    traceback: str | None = None
    name: str = ""
    worker: str = ""
    args: str | None = None
    kwargs: str | None = None
    note: str = ""  # how it is known, when not from the backend


class Queued(msgspec.Struct):
    """A message found at the broker, redacted: its task has not been acknowledged.

    ``where`` is ``queue`` when it waits in the list of ``queue``; it is ``unacknowledged`` when a worker took
    it and has not acknowledged it: reserved, running with late acknowledgement, held for its ETA, or left
    behind by a worker that died.
    """

    uuid: str
    queue: str = ""
    where: str = "queue"
    name: str = ""
    args: str | None = None
    kwargs: str | None = None
    eta: float | None = None
    expires: float | None = None
    retries: int = 0
    root_id: str | None = None
    parent_id: str | None = None
    sender: str = ""  # the client's name


class Accounting(msgspec.Struct):
    """Where each received event went: ``received == applied + duplicate + malformed + ignored + dropped``."""

    received: int = 0
    applied: int = 0
    duplicate: int = 0
    malformed: int = 0
    ignored: int = 0
    dropped: int = 0
    missed: int = 0  # never received: measured from heartbeats
    refused: dict[str, int] = {}  # reason -> count, of malformed and ignored; bounded

    @property
    def balanced(self) -> bool:
        return self.received == self.applied + self.duplicate + self.malformed + self.ignored + self.dropped


class Stalled(msgspec.Struct, frozen=True):
    """A worker that is online and works nothing, though tasks wait for it."""

    hostname: str
    since: float  # our clock: from when on nothing was begun or run there while they waited
    waiting: int
    # Where they wait, of several the fullest; "": inside the worker, which has reserved them.
    queue: str = ""
    by_events: bool = False  # the broker does not tell a queue's depth


class Twice(msgspec.Struct, frozen=True):
    """A task of which one attempt was started twice: the broker had handed its message out again."""

    uuid: str
    name: str
    at: float  # our clock, when that was noticed
    workers: list[str]  # in the order of their starts
    together: bool  # the second began before the first was known to have ended


class FeedRecord(msgspec.Struct):
    """How fresh and whole the picture is: the header's chip and the page that explains it."""

    connected: bool = False
    since: float | None = None  # connected or disconnected since, our clock
    error: str = ""  # why not connected, redacted
    broker: str = ""  # redacted URL
    transport: str = ""  # redis, amqp, …
    started_at: float = 0.0
    last_event_at: float | None = None  # our clock
    lag: float | None = None  # seconds, p95 of receipt less the sender's timestamp, drift removed
    rate: float = 0.0  # events a second over the last ten seconds
    accounting: Accounting = msgspec.field(default_factory=Accounting)
    workers_online: int = 0
    workers_known: int = 0
    tasks_live: int = 0
    limits: dict[str, int] = {}  # bounded thing -> how many it let go
    store_failures: int = 0
    store_pending: int = 0
    store_error: str = ""
    worst_drift: float | None = None
    worst_drift_worker: str = ""
    silent: int = 0  # starts never announced: of task names with send_events=False
    # What Redis holds back for our own subscription: bytes that wait now, the bytes at which it cuts us off
    # (0: never; None: it may not be asked), and how often it did since Umbel started.
    output_waiting: int | None = None
    output_limit: int | None = None
    output_cuts: int = 0
    # What gives way under overload now (see engine.shedding), the highest level so far, and what was let go.
    shed_level: int = 0
    shed_highest: int = 0
    shedding: str = ""
    shed: dict[str, int] = {}
    waiting: int = 0  # events between reading and writing
    # What the last look back after a gap found, by kind ("ends read", "found waiting", …); see engine.rounds.
    looked_back: dict[str, int] = {}
    stalled: list[Stalled] = []
    twice: list[Twice] = []  # of the last hour, the newest first
    # Messages in the queues of workers that rest, as the broker counted them, and when.
    depths: dict[str, int] = {}
    depths_at: float | None = None


class Gap(msgspec.Struct):
    """A span in which Umbel was not listening."""

    started_at: float
    ended_at: float | None = None
    reason: str = ""


class Rollup(msgspec.Struct):
    """What happened in ``[start, start + width)`` to all tasks, or to those of one name, worker or queue.

    An increment: two of one identity (``width``, ``by``, ``key``, ``start``) add up. Time is that of receipt.
    """

    width: int  # seconds: 10, 60, 3600 or 86400
    by: str  # all, name, worker or queue
    key: str  # '' when by all
    start: int  # Unix seconds, a multiple of width
    received: int = 0
    started: int = 0
    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    revoked: int = 0
    rejected: int = 0
    lost: int = 0
    runtime: dict[int, int] = {}  # of successes: logarithmic bucket -> count, see rates
    wait: dict[int, int] = {}  # from sent (or received) to the first start


class TaskType(msgspec.Struct):
    """A task name and the histogram of its successful runtimes."""

    name: str
    runs: int = 0
    failures: int = 0
    first_seen_at: float = 0.0
    last_seen_at: float = 0.0
    histogram: dict[int, int] = {}  # logarithmic bucket -> count, see rates
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class Started(msgspec.Struct, frozen=True, gc=False):
    """A ``task-started`` that history holds."""

    hostname: str
    pid: int
    clock: int
    uuid: str


# msgspec works out what a type is made of when it is first read into, and a second thread that reads into it
# meanwhile crashes the process (a segmentation fault; pages are drawn in threads). So it is done here, once.
for _record in (TaskRecord, WorkerRecord, FeedRecord):
    msgspec.json.Decoder(_record)
