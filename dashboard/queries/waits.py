"""What Umbel has stored about a task that waits: its row, its workers' last answers, what waits beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from django.db import connection

from dashboard.queries import chords, redelivery, stalled, workers
from dashboard.queries.facts import Consumer, Facts, Place, Revoked
from dashboard.queries.feed import freshness
from dashboard.queries.reasons import Why, why
from dashboard.queries.waiting import MOST
from dashboard.queries.workers import MOST_RESERVED, WorkerView
from dashboard.templatetags.words import duration_text
from monitor import models, registered
from monitor.control.capabilities import TAKES_AT_ONCE, pool_kind
from monitor.control.inspecting import has_grown
from monitor.records import PENDING, RECEIVED, WAITING

READ = 20  # workers whose answers are read: each may be long
COUNTED = 15.0  # seconds for which a count of a queue's messages says something
RECORDS = 200  # commands of Umbel's that are looked through, the newest
_FIELDS = (
    *("uuid", "name", "state", "queue", "worker", "eta", "expires"),
    *("first_seen_at", "received_at", "seen_at", "args", "kwargs"),
)


def why_waiting(uuid: str, now: float) -> Why | None:
    """None when it does not wait."""
    facts = facts_of(uuid, now)
    return why(facts) if facts is not None else None


def facts_of(uuid: str, now: float) -> Facts | None:
    """All that the tests need; bounded in queries and rows, whatever there is."""
    task = models.Task.objects.filter(uuid=uuid).only(*_FIELDS).first()
    if task is None or task.state not in WAITING:
        return None
    fresh = freshness(now)
    fleet = workers.current()
    stalls = stalled.by_worker(fresh)
    is_counted = fresh.live and fresh.feed.depths_at is not None and now - fresh.feed.depths_at < COUNTED
    near = [view for view in fleet.workers if _matters(view, task)]
    left_out = {view.row.pk for view in near[READ:]}
    read = models.Worker.objects.filter(pk__in=[view.row.pk for view in near[:READ]])
    told = dict(read.values_list("pk", "details"))
    details = next((told.get(view.row.pk) for view in near[:READ] if view.hostname == task.worker), None)
    taken = task.received_at or task.seen_at if task.state == RECEIVED else None
    timeout = redelivery.timeout_of(details)
    return Facts(
        now=now,
        state=task.state,
        name=task.name,
        queue=task.queue,
        worker=task.worker,
        eta=_sane(task.eta, now),
        expires=_sane(task.expires, now),
        live=fresh.live or fresh.at is None,
        blind_since=fresh.since,
        workers=tuple(
            _consumer(
                view,
                told.get(view.row.pk),
                task,
                stalled.words(stall, now) if (stall := stalls.get(view.hostname)) else "",
                view.row.pk in left_out,
            )
            for view in fleet.workers
        ),
        place=_place(task, now) if task.state == PENDING and task.queue else None,
        ahead_there=_ahead_there(task, now) if task.state == RECEIVED and task.worker else None,
        revoked=_revoked(task),
        depth=fresh.feed.depths.get(task.queue) if is_counted else None,
        depth_at=fresh.feed.depths_at,
        seen_at=task.seen_at,
        given_back=taken + timeout.seconds if taken and fresh.feed.transport == "redis" else None,
        timeout=f"{duration_text(timeout.seconds)}, {timeout.words}",
        chord=chords.of_unlock(task, details),
    )


def _matters(view: WorkerView, task: models.Task) -> bool:
    if task.state == RECEIVED:
        return view.hostname == task.worker
    return not view.offline and (not view.queues or not task.queue or task.queue in view.queues)


def _consumer(
    view: WorkerView, details: object, task: models.Task, stall: str, is_left_out: bool
) -> Consumer:
    answers: Mapping[str, Any] = details if isinstance(details, dict) else {}
    revoked = answers.get("revoked")
    running = [slot.task for slot in view.slots if slot.task is not None and not slot.task.lost]
    # A worker without queues has said so, or nothing at all: only its answers tell which.
    has_told = bool(view.queues) or isinstance(answers.get("active_queues"), list)
    return Consumer(
        hostname=view.hostname,
        status=view.row.status,
        pk=view.row.pk,
        queues=frozenset(view.queues) if has_told else None,
        names=registered.names(answers),
        rate_limit=registered.rate_limit(answers, task.name),
        is_revoked=task.uuid in revoked if isinstance(revoked, list) else None,
        takes_at_once=pool_kind(view.row) in TAKES_AT_ONCE,
        has_grown=has_grown(answers.get("stats")),
        size=view.size,
        pool=view.row.pool,
        # Who sends no task events shows nothing that runs; its heartbeats say how much does.
        busy=view.busy if view.row.events_on is not False else view.row.busy or 0,
        runs=tuple((one.name, one.elapsed) for one in running[:2]),
        asked_at=view.row.inspected_at,
        stalled=stall,
        is_read=not is_left_out,
    )


def _place(task: models.Task, now: float) -> Place:
    """Among the oldest that wait in any queue, in the order in which Umbel heard of them."""
    with connection.cursor() as cursor:
        cursor.execute(_PLACE, [task.queue, now, task.first_seen_at, task.queue, now])
        total, ahead, waiting = cursor.fetchone() or (0, 0, 0)
    ahead, waiting = int(ahead or 0), int(waiting or 0)
    return Place(ahead, max(waiting, ahead + 1), total >= MOST)


_TABLE = models.Task._meta.db_table
# The states stand in the text: a partial index serves no parameters.
_PLACE = f"""SELECT COUNT(*),
    SUM(CASE WHEN queue = %s AND (eta IS NULL OR eta <= %s) AND first_seen_at < %s THEN 1 ELSE 0 END),
    SUM(CASE WHEN queue = %s AND (eta IS NULL OR eta <= %s) THEN 1 ELSE 0 END)
    FROM (SELECT queue, eta, first_seen_at FROM {_TABLE}
        WHERE state IN ('PENDING', 'RECEIVED') AND state = 'PENDING'
        ORDER BY first_seen_at LIMIT {MOST}) AS waiting"""  # noqa: S608 - our own table


def _ahead_there(task: models.Task, now: float) -> int | None:
    if task.received_at is None:
        return None
    before = models.Task.objects.filter(
        state=RECEIVED, worker=task.worker, received_at__lt=task.received_at
    ).exclude(eta__gt=now)
    return before[:MOST_RESERVED].count()


def _revoked(task: models.Task) -> Revoked | None:
    """The last command of Umbel's that revoked it and was seen to."""
    effect = models.ControlRecord.Effect
    records = models.ControlRecord.objects.filter(
        command__in=("revoke", "terminate"),
        effect__in=(effect.VERIFIED, effect.PARTLY),
        at__gte=task.first_seen_at,
    ).only("at", "username", "targets", "effect", "seen")
    for record in records.order_by("-at")[:RECORDS]:
        if task.uuid in record.targets and (record.effect == effect.VERIFIED or _was_seen(record, task.uuid)):
            return Revoked(record.at, record.username)
    return None


def _was_seen(record: models.ControlRecord, uuid: str) -> bool:
    return any(
        isinstance(one, dict) and one.get("target") == uuid and one.get("seen") is True for one in record.seen
    )


def _sane(at: float | None, now: float) -> float | None:
    """A time that a clock can show; what senders say may be anything."""
    return at if at is not None and math.isfinite(at) and abs(at - now) < 1e10 else None
