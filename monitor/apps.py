"""The engine as a Django app: how SQLite is opened, and what goes when the database is emptied."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.models.signals import post_migrate


class MonitorConfig(AppConfig):
    name = "monitor"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        connection_created.connect(_open_sqlite, dispatch_uid="monitor.sqlite")
        post_migrate.connect(_forget_words, sender=self, dispatch_uid="monitor.words")


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


def _forget_words(**_: Any) -> None:
    """``flush`` ends with this signal: it empties the tables of models, and no model has the words."""
    from monitor.store import search  # models are not loaded yet when this module is

    search.forget_if_empty()
