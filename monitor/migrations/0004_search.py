"""An index of the words of every task, filled by the engine in its spare time; one for kinds of failure.

Online: nothing is read or written here but new, empty tables. What was stored before is indexed bit by bit.
"""

import sqlite3
from typing import Any

from django.db import migrations, models

MARK = """
    CREATE TABLE monitor_searchmark (
        at double precision NOT NULL, task bigint NOT NULL, place bigint NOT NULL, swept bigint NOT NULL
    )
"""
SQLITE = (
    # Words with nothing of where they stand: a fifth of the size, and whole phrases are looked up in the row.
    """CREATE VIRTUAL TABLE monitor_search USING fts5(
        text, task UNINDEXED, detail = none, columnsize = 0, tokenize = "unicode61 remove_diacritics 0"
    )""",
    "CREATE TABLE monitor_searched (task INTEGER PRIMARY KEY, place INTEGER NOT NULL)",
    """CREATE TRIGGER monitor_task_unsearched AFTER DELETE ON monitor_task BEGIN
        DELETE FROM monitor_search WHERE rowid = (SELECT place FROM monitor_searched WHERE task = old.id);
        DELETE FROM monitor_searched WHERE task = old.id;
    END""",
)
POSTGRESQL = (
    """CREATE TABLE monitor_search (
        place bigint PRIMARY KEY, task bigint NOT NULL, uuid varchar(155) COLLATE "C" NOT NULL,
        day integer NOT NULL, words tsvector NOT NULL
    )""",
    "CREATE INDEX monitor_search_words ON monitor_search USING gin (words)",
    "CREATE INDEX monitor_search_uuid ON monitor_search (uuid)",
)


def make(apps: Any, schema_editor: Any) -> None:
    vendor = schema_editor.connection.vendor
    statements = POSTGRESQL if vendor == "postgresql" else SQLITE
    if vendor == "sqlite" and not has_fts5():
        return  # search then looks through the newest rows only, and says so
    with schema_editor.connection.cursor() as cursor:
        for statement in (*statements, MARK, "INSERT INTO monitor_searchmark VALUES (-1, 0, 0, 0)"):
            cursor.execute(statement)


def has_fts5() -> bool:
    probe = sqlite3.connect(":memory:")
    try:
        probe.execute("CREATE VIRTUAL TABLE probe USING fts5(text)")
    except sqlite3.OperationalError:
        return False
    finally:
        probe.close()
    return True


def unmake(apps: Any, schema_editor: Any) -> None:
    with schema_editor.connection.cursor() as cursor:
        if schema_editor.connection.vendor == "sqlite":
            cursor.execute("DROP TRIGGER IF EXISTS monitor_task_unsearched")
            cursor.execute("DROP TABLE IF EXISTS monitor_searched")
        cursor.execute("DROP TABLE IF EXISTS monitor_search")
        cursor.execute("DROP TABLE IF EXISTS monitor_searchmark")


class Migration(migrations.Migration):
    dependencies = [
        ("monitor", "0003_history"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(exception_type__gt=""),
                fields=["exception_type", "-seen_at"],
                name="task_error",
            ),
        ),
        migrations.RunPython(make, unmake, elidable=False),
    ]
