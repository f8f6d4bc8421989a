"""``/metrics`` for Prometheus: Flower's six families by their names, and Umbel's own accounting."""

from __future__ import annotations

import time

import prometheus_client
from django.http import HttpRequest, HttpResponse

from dashboard.api.callers import caller
from dashboard.api.exposition import CONTENT_TYPE, Exposition, Labels, label
from dashboard.queries import metrics as queries
from dashboard.queries.shared import reading
from monitor.records import FeedRecord

# Series a family may have, so that a scrape stays under 2 MB whatever names are made up on the broker.
WORKERS = 5_000
EVENTS = 3_000
RUNTIMES = 150  # each of 17 lines
PAIRS = 1_000
MISSED = 1_000
REASONS = 100
QUEUES = 500
SHARED = 1.0  # seconds that scrapes share a reading


@caller
def metrics(request: HttpRequest) -> HttpResponse:
    """The text format of Prometheus."""
    return HttpResponse(reading("metrics", SHARED, exposed), content_type=CONTENT_TYPE)


def exposed() -> bytes:
    """Everything, as of now."""
    told = queries.snapshot()
    out = Exposition()
    _flower(out, told)
    _umbel(out, told)
    let_go: dict[Labels, float] = {(family,): float(count) for family, count in out.let_go.items()}
    out.add(
        "umbel_metrics_label_sets_folded",
        "gauge",
        'Label sets past the bound of a family in this answer; they are summed under "other".',
        let_go,
        ("family",),
    )
    # Of the web process that answers: memory, processor, open files, garbage collection.
    return out.text().encode() + prometheus_client.generate_latest()


def _flower(out: Exposition, told: queries.Snapshot) -> None:
    out.add(
        "flower_events_total",
        "counter",
        "Number of events",
        {(label(worker), kind, label(task)): n for (worker, kind, task), n in told.events.items()},
        ("worker", "type", "task"),
        most=EVENTS,
    )
    out.histogram(
        "flower_task_runtime_seconds",
        "Task runtime",
        {
            (label(worker), label(task)): (runtimes.cumulative, runtimes.total)
            for (worker, task), runtimes in told.runtimes.items()
        },
        ("worker", "task"),
        most=RUNTIMES,
    )
    for name, about, samples in (
        (
            "flower_task_prefetch_time_seconds",
            "The time the task spent waiting at the celery worker to be executed.",
            told.prefetch_time,
        ),
        (
            "flower_worker_prefetched_tasks",
            "Number of tasks of given type prefetched at a worker",
            told.prefetched,
        ),
    ):
        pairs: dict[Labels, float] = {
            (label(worker), label(task)): value for (worker, task), value in samples.items()
        }
        out.add(name, "gauge", about, pairs, ("worker", "task"), most=PAIRS)
    # Online first: past the bound it is the dead that lose their own label.
    online = sorted(told.online.items(), key=lambda item: item[1] is not True)
    out.add(
        "flower_worker_online",
        "gauge",
        "Worker online status",
        {(label(worker),): float(there) for worker, there in online if there is not None},
        ("worker",),
        most=WORKERS,
    )
    executing: dict[Labels, float] = {
        (label(worker),): told.executing[worker] for worker, _ in online if worker in told.executing
    }
    out.add(
        "flower_worker_number_of_currently_executing_tasks",
        "gauge",
        "Number of tasks currently executing at a worker",
        executing,
        ("worker",),
        most=WORKERS,
    )


def _umbel(out: Exposition, told: queries.Snapshot) -> None:
    feed = told.feed
    _accounting(out, feed)
    out.one("umbel_feed_connected", "gauge", "1 while Umbel hears the broker.", float(feed.connected))
    out.one("umbel_feed_told_timestamp_seconds", "gauge", "When the engine last told how it is.", told.at)
    out.one("umbel_engine_start_time_seconds", "gauge", "When the engine started.", feed.started_at or None)
    out.one("umbel_event_lag_seconds", "gauge", "Worker to Umbel, p95, clock drift taken out.", feed.lag)
    out.one("umbel_event_last_timestamp_seconds", "gauge", "When the last event came.", feed.last_event_at)
    out.one(
        "umbel_events_per_second", "gauge", "Events a second over the last ten seconds.", float(feed.rate)
    )
    out.one(
        "umbel_worker_clock_drift_worst_seconds",
        "gauge",
        "The clock that is furthest from Umbel's.",
        feed.worst_drift,
    )
    out.one("umbel_store_pending", "gauge", "Changes that wait to be written.", float(feed.store_pending))
    out.one(
        "umbel_store_failures_total",
        "counter",
        "Writes that failed and were tried again.",
        float(feed.store_failures),
    )
    out.add(
        "umbel_workers",
        "gauge",
        "Workers known, by what is known of them; unknown: the broker is silent.",
        {(status,): float(n) for status, n in told.workers.items()},
        ("status",),
    )
    out.add(
        "umbel_tasks",
        "gauge",
        "Tasks in history by state, counted to 10,001: more are not counted.",
        {(state,): float(n) for state, n in told.states.items()},
        ("state",),
    )
    out.one(
        "umbel_tasks_stuck", "gauge", "Running tasks that look stuck, of the oldest 2,000.", float(told.stuck)
    )
    out.one("umbel_tasks_live", "gauge", "Tasks in the engine's memory.", float(feed.tasks_live))
    out.one("umbel_blind", "gauge", "1 while Umbel is not listening.", float(told.blind_now))
    out.one(
        "umbel_blind_seconds",
        "gauge",
        "Seconds of the last 24 h in which Umbel was not listening.",
        told.blind,
    )
    out.one("umbel_gaps", "gauge", "Gaps in listening that touch the last 24 h.", float(told.gaps))
    out.add(
        "umbel_worker_events_missed_total",
        "counter",
        "Events of a worker that never came, measured by its heartbeats.",
        {(label(worker),): missed for worker, missed in told.missed.items()},
        ("worker",),
        most=MISSED,
    )
    _overload(out, told)
    for name, value in queries.numbers(feed).items():
        out.one(f"umbel_feed_{name}", "gauge", f"{name.replace('_', ' ')}, as the engine tells it.", value)


def _overload(out: Exposition, told: queries.Snapshot) -> None:
    """What stands between the broker and the database, and what gave way."""
    feed = told.feed
    out.one(
        "umbel_events_silent_total",
        "counter",
        "Starts that workers never announced: of tasks that send no events.",
        float(feed.silent),
    )
    out.one("umbel_events_waiting", "gauge", "Events between reading and writing.", float(feed.waiting))
    out.one("umbel_shed_level", "gauge", "What gives way now: 0 nothing, 5 all but ends.", feed.shed_level)
    out.one("umbel_shed_level_highest", "gauge", "The most since the engine's start.", feed.shed_highest)
    out.add(
        "umbel_shed_total",
        "counter",
        "What was let go under overload. Ends of tasks and counts never are.",
        {(label(what),): float(n) for what, n in feed.shed.items()},
        ("what",),
        most=REASONS,
    )
    for name, kind, about, value in (
        ("waiting_bytes", "gauge", "What Redis holds back for Umbel.", feed.output_waiting),
        ("limit_bytes", "gauge", "At which Redis cuts Umbel off; 0: never.", feed.output_limit),
        ("cuts_total", "counter", "How often it did.", feed.output_cuts),
    ):
        out.one(f"umbel_redis_output_{name}", kind, about, value)
    queues = sorted(told.waiting.queues.items(), key=lambda item: (-item[1], item[0]))
    out.add(
        "umbel_queue_waiting",
        "gauge",
        "Tasks sent or reserved and not started, as events tell; of the 10,000 oldest of each kind.",
        {(label(queue),): float(n) for queue, n in queues},
        ("queue",),
        most=QUEUES,
    )
    now = time.time()
    out.add(
        "umbel_queue_oldest_seconds",
        "gauge",
        "How long the oldest of them waits.",
        {
            (label(queue),): max(0.0, now - told.waiting.oldest[queue])
            for queue, _ in queues[:QUEUES]
            if queue in told.waiting.oldest
        },
        ("queue",),
        most=QUEUES,
    )


def _accounting(out: Exposition, feed: FeedRecord) -> None:
    """received = applied + duplicate + malformed + ignored + dropped. Since the engine's start."""
    counts = feed.accounting
    out.one("umbel_events_received_total", "counter", "Events from the broker.", float(counts.received))
    fates = ("applied", "duplicate", "malformed", "ignored", "dropped")
    out.add(
        "umbel_events_total",
        "counter",
        "Events by what became of them; the sum is umbel_events_received_total.",
        {(fate,): float(getattr(counts, fate)) for fate in fates},
        ("fate",),
    )
    for name in counts.__struct_fields__:
        if name not in (*fates, "received", "refused"):
            about = _LOSSES.get(name, f"Events {name}.")
            out.one(f"umbel_events_{name}_total", "counter", about, float(getattr(counts, name)))
    out.one(
        "umbel_events_balanced", "gauge", "0 when the accounting does not add up.", float(counts.balanced)
    )
    out.add(
        "umbel_events_refused_total",
        "counter",
        "Malformed and ignored events by reason.",
        {(label(reason),): float(n) for reason, n in counts.refused.items()},
        ("reason",),
        most=REASONS,
    )
    out.add(
        "umbel_let_go_total",
        "counter",
        "What a limit of the engine made it let go.",
        {(label(what),): float(n) for what, n in feed.limits.items()},
        ("what",),
        most=REASONS,
    )


_LOSSES = {"missed": "Events that never came, measured by the workers' heartbeats."}
