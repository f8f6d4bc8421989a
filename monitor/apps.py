"""The engine as a Django app: how SQLite is opened."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created


class MonitorConfig(AppConfig):
    name = "monitor"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        connection_created.connect(_open_sqlite, dispatch_uid="monitor.sqlite")


# WAL: pages are read while the engine writes. NORMAL: a power cut may cost the last moments, never the file.
# A checkpoint each 32 MB: pages of the indexes that change with every batch are then copied once for many.
# How long to wait for a lock is the connection's ``timeout`` option (5 s).
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -32000",
    "PRAGMA wal_autocheckpoint = 8000",
    "PRAGMA journal_size_limit = 67108864",
)


def _open_sqlite(connection: BaseDatabaseWrapper, **_: Any) -> None:
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            for pragma in _PRAGMAS:
                cursor.execute(pragma)
