"""When a Redis broker hands a message out again though its task was taken: after the visibility timeout.

What a worker holds for an ETA, or runs with late acknowledgement, is not acknowledged. On Redis every message
that stays so longer than the timeout is given back to its queue, and then its task runs twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db import connection

from dashboard.queries import shared
from dashboard.queries.feed import Freshness
from monitor import models
from monitor.records import RECEIVED, STARTED

DEFAULT = 3600.0  # seconds; kombu's own
MOST = 10_000  # held tasks that are looked at, the oldest
READ = 50  # workers whose settings are read
EVERY = 5.0  # seconds that one look serves


@dataclass(frozen=True, slots=True)
class Timeout:
    """Seconds, and how that is known."""

    seconds: float
    is_told: bool  # by the worker's settings; else it is Celery's own default

    @property
    def words(self) -> str:
        return "as its worker is set" if self.is_told else "kombu’s own, as its worker told no other"


@dataclass(frozen=True, slots=True)
class Forecast:
    """A message that will be, or was, given back while its task still needs it."""

    at: float  # Unix seconds; the sweep may be some minutes later
    timeout: Timeout
    passed: bool
    runs: bool  # it runs; else it is held for its ETA

    def __bool__(self) -> bool:
        return True


def timeout_of(details: object) -> Timeout:
    """The visibility timeout by what a worker told of its settings."""
    conf = details.get("conf") if isinstance(details, Mapping) else None
    options = conf.get("broker_transport_options") if isinstance(conf, Mapping) else None
    value = options.get("visibility_timeout") if isinstance(options, Mapping) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return Timeout(float(value), True)
    return Timeout(DEFAULT, False)


def forecast(
    task: models.Task, details: object, now: float, *, transport: str, late: bool | None
) -> Forecast | None:
    """Of one task; None when its message is acknowledged in time, or the broker has no such timeout."""
    if transport != "redis" or task.received_at is None:
        return None
    timeout = timeout_of(details)
    at = task.received_at + timeout.seconds
    if task.state == RECEIVED and task.eta is not None and task.eta > at:
        return Forecast(at, timeout, at <= now, False)
    if task.state == STARTED and late and now > at - timeout.seconds * 0.2:
        return Forecast(at, timeout, at <= now, True)
    return None


@dataclass(frozen=True, slots=True)
class Ahead:
    """Tasks held for an ETA that lies beyond the visibility timeout."""

    uuid: str  # the first to be handed out again
    name: str
    at: float
    eta: float
    timeout: float
    many: int
    more: bool


def ahead(fresh: Freshness, now: float) -> Ahead | None:
    """All of them in short; None when there is none, or the broker is not Redis."""
    if fresh.feed.transport != "redis":
        return None
    return shared.reading("redelivery", EVERY, lambda: _ahead(now))


def _ahead(now: float) -> Ahead | None:
    with connection.cursor() as cursor:
        cursor.execute(_HELD, [now])
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    held = {row[2] for row in rows}
    told = models.Worker.objects.filter(hostname__in=list(held)[:READ]).values_list("hostname", "details")
    timeouts = {hostname: timeout_of(details).seconds for hostname, details in told}
    beyond = []
    for uuid, name, worker, received_at, eta in rows:
        seconds = timeouts.get(worker, DEFAULT)
        if received_at is not None and eta > received_at + seconds:
            beyond.append((received_at + seconds, uuid, name, eta, seconds))
    if not beyond:
        return None
    at, uuid, name, eta, seconds = min(beyond)
    return Ahead(uuid, name, at, eta, seconds, len(beyond), len(rows) >= MOST)


# The states stand in the text: a partial index serves no parameters.
_HELD = f"""SELECT uuid, name, worker, received_at, eta FROM {models.Task._meta.db_table}
    WHERE state IN ('PENDING', 'RECEIVED') AND state = 'RECEIVED' AND eta > %s
    ORDER BY first_seen_at LIMIT {MOST}"""  # noqa: S608 - our own table
