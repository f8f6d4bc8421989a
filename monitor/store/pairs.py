"""Lifetime counts by worker and task name for metrics: those of workers that are gone make room."""

from __future__ import annotations

from django.db.backends.utils import CursorWrapper

from monitor import models

GONE = 3600.0  # seconds offline
_CHUNK = 500
_ROLLUP, _WORKER = f'"{models.Rollup._meta.db_table}"', f'"{models.Worker._meta.db_table}"'


def forget(cursor: CursorWrapper, now: float) -> int:
    """Deletes the pairs of workers that are not known, or offline for an hour; how many."""
    cursor.execute(f"SELECT id, key FROM {_ROLLUP} WHERE \"by\" = 'pair' AND width = 0 AND start = 0")  # noqa: S608
    pairs = cursor.fetchall()
    if not pairs:
        return 0
    cursor.execute(
        f"SELECT hostname FROM {_WORKER} WHERE status <> 'offline' "  # noqa: S608 - our own table
        "OR COALESCE(offline_at, heartbeat_at, first_seen_at) > %s",
        [now - GONE],
    )
    there = {hostname for (hostname,) in cursor.fetchall()} | {"other"}
    gone = [pk for pk, key in pairs if key.partition("\n")[0] not in there]
    for start in range(0, len(gone), _CHUNK):
        chunk = gone[start : start + _CHUNK]
        places = ", ".join(["%s"] * len(chunk))
        cursor.execute(f"DELETE FROM {_ROLLUP} WHERE id IN ({places})", chunk)  # noqa: S608 - our own table
    return len(gone)
