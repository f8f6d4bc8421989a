"""Counts by name, worker and queue with their histograms; tasks by day, partitioned on PostgreSQL.

Online: a web process of the release before goes on reading tasks and the counts it knows while this runs and
after. No row of a task is copied.
"""

from typing import Any

from django.db import migrations, models

# Not Django's AddField, which copies the whole table on SQLite.
ADD_DAY = 'ALTER TABLE "monitor_task" ADD COLUMN "day" integer NOT NULL DEFAULT 0'
COUNTS = "received, started, succeeded, failed, retried, revoked, rejected, lost"
COPY_RATES = f"""
    INSERT INTO monitor_rollup (width, "by", "key", start, {COUNTS}, runtime, wait, writes)
    SELECT width, CASE WHEN name = '' THEN 'all' ELSE 'name' END, name, start, {COUNTS}, '{{}}', '{{}}', 1
    FROM monitor_ratebucket
"""  # noqa: S608 - constants
SUMS = ", ".join(f"SUM({name})" for name in COUNTS.split(", "))
SUM_MINUTES = f"""
    INSERT INTO monitor_rollup (width, "by", "key", start, {COUNTS}, runtime, wait, writes)
    SELECT width, 'all', '', start, {SUMS}, '{{}}', '{{}}', 1
    FROM monitor_ratebucket WHERE width = 60 AND name <> '' GROUP BY width, start
"""  # noqa: S608 - constants
TEXT_KEYS = ("uuid", "root_id", "parent_id")


def copy_rates(apps: Any, schema_editor: Any) -> None:
    schema_editor.execute(COPY_RATES)
    schema_editor.execute(SUM_MINUTES)


def partition(apps: Any, schema_editor: Any) -> None:
    """The table of tasks becomes the default partition of a new one of its name: rows stay where they are."""
    if schema_editor.connection.vendor != "postgresql":
        return
    run = schema_editor.execute
    task = apps.get_model("monitor", "Task")
    run("ALTER TABLE monitor_task RENAME TO monitor_task_default")
    for index in task._meta.indexes:
        run(f"ALTER INDEX {index.name} RENAME TO {index.name}_default")
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(
            "SELECT conname FROM pg_constraint "
            "WHERE conrelid = 'monitor_task_default'::regclass AND contype IN ('p', 'u')"
        )
        constraints = [row[0] for row in cursor.fetchall()]
        cursor.execute(
            "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
            "WHERE indrelid = 'monitor_task_default'::regclass AND relname LIKE '%\\_like'"
        )
        likes = [row[0] for row in cursor.fetchall()]
        cursor.execute("SELECT COALESCE(MAX(id), 0) + 1 FROM monitor_task_default")
        following = cursor.fetchone()[0]
    for name in constraints:
        run(f'ALTER TABLE monitor_task_default DROP CONSTRAINT "{name}"')
    for name in likes:
        run(f"DROP INDEX {name}")
    # Bytewise: one index then serves equality and prefixes, and sorts as SQLite does.
    changes = ", ".join(f'ALTER COLUMN {name} TYPE varchar(155) COLLATE "C"' for name in TEXT_KEYS)
    run(f"ALTER TABLE monitor_task_default ALTER COLUMN id DROP IDENTITY IF EXISTS, {changes}")
    # A partitioned table can have no identity column before PostgreSQL 17.
    run(f"CREATE SEQUENCE monitor_task_id_seq START {following}")
    run("CREATE TABLE monitor_task (LIKE monitor_task_default INCLUDING DEFAULTS) PARTITION BY RANGE (day)")
    run(
        "ALTER TABLE monitor_task ALTER COLUMN id SET DEFAULT nextval('monitor_task_id_seq'), "
        "ADD PRIMARY KEY (uuid, day)"
    )
    run("ALTER SEQUENCE monitor_task_id_seq OWNED BY monitor_task.id")
    for index in task._meta.indexes:
        schema_editor.add_index(task, index)
    # Takes over the indexes that are there. Other partitions are made day by day, by monitor.store.
    run("ALTER TABLE monitor_task ATTACH PARTITION monitor_task_default DEFAULT")


class Migration(migrations.Migration):
    dependencies = [
        ("monitor", "0002_waiting"),
    ]

    operations = [
        migrations.CreateModel(
            name="Rollup",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("width", models.IntegerField()),
                ("by", models.CharField(max_length=8)),
                ("key", models.CharField(blank=True, default="", max_length=255)),
                ("start", models.BigIntegerField()),
                ("received", models.BigIntegerField(default=0)),
                ("started", models.BigIntegerField(default=0)),
                ("succeeded", models.BigIntegerField(default=0)),
                ("failed", models.BigIntegerField(default=0)),
                ("retried", models.BigIntegerField(default=0)),
                ("revoked", models.BigIntegerField(default=0)),
                ("rejected", models.BigIntegerField(default=0)),
                ("lost", models.BigIntegerField(default=0)),
                ("runtime", models.JSONField(default=dict)),
                ("wait", models.JSONField(default=dict)),
                ("writes", models.IntegerField(default=1)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("width", "by", "key", "start"), name="rollup")
                ],
                "indexes": [models.Index(fields=["width", "start"], name="rollup_start")],
            },
        ),
        migrations.RunPython(copy_rates, migrations.RunPython.noop, elidable=True),
        migrations.RemoveIndex(model_name="task", name="task_root"),
        migrations.RemoveIndex(model_name="task", name="task_parent"),
        migrations.RunSQL(
            ADD_DAY,
            migrations.RunSQL.noop,
            state_operations=[
                migrations.AddField(
                    model_name="task", name="day", field=models.IntegerField(db_default=0, default=0)
                )
            ],
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(
                    ("root_id__lt", models.F("uuid")), ("root_id__gt", models.F("uuid")), _connector="OR"
                ),
                fields=["root_id"],
                name="task_root",
            ),
        ),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("parent_id__isnull", False)), fields=["parent_id"], name="task_parent"
            ),
        ),
        migrations.RunPython(partition, elidable=False),
    ]
