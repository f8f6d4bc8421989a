"""What needs a human, worst first, and the sentence on top that is built from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from django.db.models import Sum
from django.urls import reverse
from django.utils.html import format_html

from dashboard.queries import backlog, drift, forsaken, ladders, shared, stalled, stuck, twice, workers
from dashboard.queries.backlog import QueueView
from dashboard.queries.feed import Freshness, freshness
from dashboard.queries.items import Item
from dashboard.queries.odds import counts_of, odds
from dashboard.queries.usual import after
from dashboard.queries.workers import Fleet, Running, WorkerView, span
from dashboard.templatetags.words import duration_text, number, percent, plain
from monitor import models
from monitor.records import STARTED, Stalled

MOST = 7  # shown; then "and n more"
SPIKE_WINDOW = 15 * 60.0
SPIKE_NAMES = 1000  # looked at, the last seen first
SPIKES = 5.0  # seconds a reading of them serves
SPIKE_LEAST, SPIKE_SHARE, SPIKE_TIMES = 5, 0.05, 3.0
QUIET = 30.0  # seconds without any event


@dataclass(frozen=True, slots=True)
class Verdict:
    """The sentence on top, and its line of evidence."""

    state: str
    icon: str
    head: str
    text: str


def current() -> list[Item]:
    """All of it as of now, shared for a moment between the regions and pages that ask."""

    def read() -> list[Item]:
        fleet = workers.current()
        return attention(fleet, backlog.current().queues, freshness(fleet.now))

    return shared.reading("attention", workers.FRESH, read)


def attention(fleet: Fleet, queues: Sequence[QueueView], fresh: Freshness) -> list[Item]:
    """All of it; when the picture itself is broken, that comes first and silent workers are not blamed."""
    items = [*_picture(fresh, fleet)]
    stalls = stalled.by_worker(fresh)
    for worker in fleet.workers:
        items += _worker(worker, stalls.get(worker.hostname), fleet.now)
    items += [_returned(one, fleet.now) for one in drift.returned()]
    if fresh.live or fresh.at is None:
        # Else a task whose end nobody heard would look stuck.
        items += _stuck(fleet, queues)
        items += _broken_revokes(fleet.now)
        items += twice.items(fresh, fleet.now) + ladders.items(fleet.now)
        items += forsaken.items(fleet)
        items += [_growing(queue, fleet.recent.span) for queue in queues if queue.grows]
        items += shared.reading("spikes", SPIKES, lambda: _spikes(fleet.now))
    if (
        fleet.workers
        and not fleet.online
        and fresh.live
        and not any(item.state == "offline" for item in items)
    ):
        text = f"{len(fleet.workers)} said goodbye. New tasks wait in the broker until a worker starts."
        items.append(
            Item(
                0,
                0,
                "offline",
                "s-offline",
                "No worker is online",
                text,
                "no worker is online",
                reverse("workers"),
            )
        )
    return sorted(items, key=lambda item: (item.severity, -item.age, item.title))


def verdict(items: Sequence[Item], fleet: Fleet) -> Verdict:
    """Built from the list, so that they cannot disagree: at most two clauses, worst first."""
    known, online = len(fleet.workers), fleet.online
    if items:
        head = " and ".join(item.clause for item in items[:2])
        worst = items[0]
        text = format_html("<b>{} of {}</b> workers online. {}", online, known, worst.text)
        return Verdict(worst.state, worst.icon, head, text)
    if known == 0:
        return Verdict("sent", "s-sent", "No workers yet", "Waiting for the first heartbeat.")
    head = "1 worker, healthy" if known == 1 else f"All {known} workers healthy"
    if online != known:
        head = f"All {online} online workers healthy"
    gone = known - online
    left = {0: "", 1: " 1 said goodbye and is not missed."}.get(gone, f" {gone} said goodbye.")
    text = format_html(
        "<b>{} of {}</b> slots busy, <b>{}</b> tasks reserved.{}",
        fleet.busy,
        fleet.size,
        f"{fleet.reserved:,}",
        left,
    )
    return Verdict("succeeded", "s-succeeded", head, text)


def _picture(fresh: Freshness, fleet: Fleet) -> list[Item]:
    if fresh.at is None:
        return []
    if not fresh.live:
        what = "Umbel’s engine is silent" if fresh.silent else "Umbel cannot reach the broker"
        text = "All below is as it was last seen. Workers may be fine; Umbel cannot see them."
        age = span(fresh.since, fleet.now) or 0.0
        return [Item(-1, age, "failed", "s-offline", what, text, what, reverse("feed"), "Explain")]
    silent = span(fresh.feed.last_event_at or fresh.feed.since, fleet.now)
    if silent is not None and silent >= QUIET and (fleet.online or not fleet.workers):
        title = f"No events for {duration_text(silent)}"
        text = "Not even a heartbeat. Are the workers started with -E, and on this broker?"
        return [
            Item(
                2,
                silent,
                "slow",
                "s-warn",
                title,
                text,
                f"no events for {duration_text(silent)}",
                reverse("feed"),
                "Explain",
            )
        ]
    return []


def _worker(worker: WorkerView, stall: Stalled | None, now: float) -> list[Item]:
    row, href = worker.row, reverse("worker", args=[worker.row.pk])
    name = plain(row.hostname)
    if worker.offline:
        if row.reason == "said goodbye" and not worker.lost:
            return []
        silent = worker.silent or 0.0
        left = (
            f"{_tasks(worker.lost)} {'was' if worker.lost == 1 else 'were'} running on it."
            if worker.lost
            else "No task was running on it."
        )
        why = (
            "It said goodbye <b>{}</b> ago. {}"
            if row.reason == "said goodbye"
            else "No heartbeat for <b>{}</b>. {}"
        )
        text: str = format_html(why, duration_text(silent), left)
        return [
            Item(
                0 if worker.lost else 1,
                silent,
                "offline",
                "s-offline",
                f"{name} is offline",
                text,
                f"{name} is offline",
                href,
            )
        ]
    if not worker.online:
        return []
    items = []
    if worker.size == 0 and (stall or row.autoscale_min != 0):
        title = f"{name} has no pool process"
        text = stalled.words(stall, now) if stall else "It takes tasks from the broker and runs none."
        text = f"{text} {stalled.remedy(worker)}"
        age = now - stall.since if stall else 0.0
        items.append(Item(1, age, "failed", "s-failed", title, text, title, href, "Grow pool"))
    elif stall:
        title = f"{name} works nothing"
        text = f"{stalled.words(stall, now)} {stalled.remedy(worker)}"
        items.append(
            Item(1, now - stall.since, "failed", "s-failed", title, text, title, href, "Open worker")
        )
    if row.events_on is False:
        text = "It runs tasks and sends no task event, so they do not show here."
        items.append(
            Item(
                3,
                0,
                "slow",
                "s-warn",
                f"{name} sends no task events",
                text,
                f"{name} sends no task events",
                href,
                enable=row.pk,
            )
        )
    if row.duplicate:
        text = (
            "Two processes answer under one name; numbers of this worker mix both. Start one with another -n."
        )
        items.append(
            Item(3, 0, "slow", "s-warn", f"{name} is there twice", text, f"{name} is there twice", href)
        )
    return items


def _returned(one: drift.Returned, now: float) -> Item:
    """A worker that came back without what was set on it."""
    href, post = reverse("worker", args=[one.pk]), reverse("worker-set-again", args=[one.pk])
    age = span(one.at, now) or 0.0
    return Item(
        3,
        age,
        "slow",
        "s-warn",
        one.title,
        one.text,
        one.title,
        href,
        "Open worker",
        post=post,
        button=one.offer,
    )


def _stuck(fleet: Fleet, queues: Sequence[QueueView]) -> list[Item]:
    tasks = sorted((t for t in fleet.running if t.pace == "stuck"), key=lambda t: -t.elapsed)
    if not tasks:
        return []
    worst = tasks[0]
    function = plain(worst.name).rpartition(".")[2] or "a task"
    limit = after(worst.name)
    text = format_html(
        "{} <b>{}</b>; {}. {}",
        "Longest" if len(tasks) > 1 else "Running",
        duration_text(worst.elapsed),
        f"over the {duration_text(limit.stuck)} set for {function}"
        if limit.stuck_is_set
        else _past(worst, function),
        stuck.common(stuck.traits(t.uuid for t in tasks), fleet.online, len(queues))
        if len(tasks) > 1
        else "",
    )
    title = "1 task looks stuck" if len(tasks) == 1 else f"{len(tasks)} tasks look stuck"
    href = (
        reverse("task", args=[worst.uuid])
        if len(tasks) == 1 and worst.uuid.strip("./")
        else _tasks_url(stuck="1")
    )
    return [Item(1, worst.elapsed, "stuck", "s-stuck", title, text, title, href, "Review")]


def _broken_revokes(now: float) -> list[Item]:
    """Tasks that were revoked and run all the same: a worker had forgotten, or never heard of it."""
    rows = models.StandingRevoke.objects.filter(moot_at=None, started_at__isnull=False)
    started = dict(rows.order_by("started_at").values_list("uuid", "started_at")[:SPIKE_NAMES])
    if not started:
        return []
    tasks = models.Task.objects.filter(uuid__in=list(started), state=STARTED)
    running = sorted(tasks.values_list("uuid", "name", "worker"), key=lambda row: started[row[0]] or 0.0)
    if not running:
        return []
    uuid, name, worker = running[0]
    age = span(started[uuid], now) or 0.0
    many = len(running)
    title = "A revoked task runs all the same" if many == 1 else f"{many} revoked tasks run all the same"
    text = format_html(
        "{} was started on {} <b>{}</b> ago: that worker did not know of the revoke. Terminate it.",
        plain(name).rpartition(".")[2] or uuid[:8],
        plain(worker),
        duration_text(age),
    )
    href = reverse("task", args=[uuid]) if many == 1 and uuid.strip("./") else _tasks_url(state="STARTED")
    return [Item(0, age, "failed", "s-failed", title, text, title[0].lower() + title[1:], href, "Review")]


def _past(task: Running, function: str) -> str:
    """How long runs of its name take."""
    kind = models.TaskType.objects.filter(name=task.name).only("histogram").first()
    usual = task.usual
    found = odds(counts_of(kind.histogram), task.elapsed, usual.p95 if usual else 0.0) if kind else None
    if found is not None:
        return found.usually(function)
    low, high = (duration_text(usual.p50), duration_text(usual.p95)) if usual else ("–", "–")
    return f"{function} usually takes {low} to {high}"


def _growing(queue: QueueView, length: float) -> Item:
    more = (queue.entered - queue.left) / length * 60
    title = f"{plain(queue.name)} grows faster than it drains"
    text = format_html(
        "<b>{}</b> waiting, <b>+{}/min</b> over the last {}.",
        queue.shown,
        f"{more:,.0f}",
        duration_text(length),
    )
    href = _tasks_url(queue=queue.name, state="PENDING")
    return Item(
        2,
        queue.oldest or 0.0,
        "slow",
        "s-warn",
        title,
        text,
        f"{plain(queue.name)} is falling behind",
        href,
        "See tasks",
    )


def _spikes(now: float) -> list[Item]:
    """Task names that fail far more often than they used to."""
    since = int((now - SPIKE_WINDOW) // 60) * 60
    active = models.TaskType.objects.filter(last_seen_at__gte=since, failures__gte=SPIKE_LEAST)
    names = list(active.order_by("-last_seen_at").values_list("name", flat=True)[:SPIKE_NAMES])
    # By name: the index holds days of minutes of each name.
    rows = (
        models.Rollup.objects.filter(width=60, by="name", key__in=names, start__gte=since)
        .values("key")
        .annotate(bad=Sum("failed"), good=Sum("succeeded"))
        .filter(bad__gte=SPIKE_LEAST)
        .order_by("-bad")[:50]
    )
    found = {row["key"]: (row["bad"], row["good"]) for row in rows}
    items = []
    for kind in models.TaskType.objects.filter(name__in=found).only("name", "runs", "failures"):
        bad, good = found[kind.name]
        share = bad / (bad + good)
        before = max(0, kind.runs - good) + max(0, kind.failures - bad)
        usual = max(0, kind.failures - bad) / before if before >= 30 else None
        if share < SPIKE_SHARE or (usual is not None and share < usual * SPIKE_TIMES):
            continue
        function = plain(kind.name).rpartition(".")[2] or plain(kind.name)
        title = f"{function} fails {percent(share)}"
        was = f"Usually {percent(usual)}." if usual is not None else "No history to compare with yet."
        text = format_html("{} <b>{}</b> failed in 15\u00a0min.", was, number(bad))
        items.append(
            Item(
                2,
                float(bad),
                "failed",
                "s-failed",
                title,
                text,
                title,
                _tasks_url(name=kind.name, state="FAILURE"),
                "See tasks",
            )
        )
    return items


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count:,} tasks"


def _tasks_url(**filters: str) -> str:
    return f"{reverse('tasks')}?{urlencode(filters)}"
