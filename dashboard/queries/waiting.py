"""Tasks that are sent or reserved and not yet started, counted by queue and by worker in one query."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from django.db import connection

from monitor import models

MOST = 10_000  # tasks counted of each state, the oldest
SANE = 86_400.0  # seconds a clock may be ahead


@dataclass(frozen=True, slots=True)
class Waiting:
    """Counts, and since when the oldest waits. Tasks with an ETA to come are only counted as reserved."""

    queues: Mapping[str, int]
    oldest: Mapping[str, float]  # by queue, Unix seconds
    reserved: Mapping[str, int]  # by worker
    more: bool  # there are more than were counted


def waiting(now: float) -> Waiting:
    """Of all queues and workers, however many tasks: the index holds every column that is read."""
    with connection.cursor() as cursor:
        cursor.execute(_QUERY, [now, 0.0, now + SANE])
        rows = cursor.fetchall()
    queues: Counter[str] = Counter()
    reserved: Counter[str] = Counter()
    states: Counter[str] = Counter()
    oldest: dict[str, float] = {}
    for state, worker, queue, later, count, since in rows:
        states[state] += count
        if state == "RECEIVED":
            reserved[worker] += count
        if later:
            continue
        queues[queue] += count
        if since is not None:
            oldest[queue] = min(oldest.get(queue, since), since)
    return Waiting(queues, oldest, reserved, any(count >= MOST for count in states.values()))


_TABLE = models.Task._meta.db_table
_ONE = f"""SELECT * FROM (
    SELECT state, worker, queue, eta, COALESCE(eta, sent_at, received_at, first_seen_at) AS since
    FROM {_TABLE} WHERE state IN ('PENDING', 'RECEIVED') AND state = '%s' ORDER BY first_seen_at LIMIT {MOST}
) AS one"""  # noqa: S608 - our own table
_BOTH = " UNION ALL ".join(_ONE % state for state in ("PENDING", "RECEIVED"))
# The states stand in the text: a partial index serves no parameters.
_QUERY = f"""SELECT state, worker, queue, CASE WHEN eta > %s THEN 1 ELSE 0 END AS later, COUNT(*),
    MIN(CASE WHEN since BETWEEN %s AND %s THEN since END)
    FROM ({_BOTH}) AS waiting GROUP BY 1, 2, 3, 4"""  # noqa: S608 - our own table
