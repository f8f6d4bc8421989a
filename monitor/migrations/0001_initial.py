import uuid

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Feed",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("at", models.FloatField()),
                ("data", models.JSONField()),
            ],
        ),
        migrations.CreateModel(
            name="Gap",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("started_at", models.FloatField(unique=True)),
                ("ended_at", models.FloatField(null=True)),
                ("reason", models.CharField(blank=True, default="", max_length=255)),
            ],
        ),
        migrations.CreateModel(
            name="TaskType",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=255, unique=True)),
                ("runs", models.BigIntegerField(default=0)),
                ("failures", models.BigIntegerField(default=0)),
                ("first_seen_at", models.FloatField()),
                ("last_seen_at", models.FloatField()),
                ("histogram", models.JSONField(default=dict)),
                ("p50", models.FloatField(null=True)),
                ("p95", models.FloatField(null=True)),
                ("p99", models.FloatField(null=True)),
            ],
        ),
        migrations.CreateModel(
            name="Worker",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("hostname", models.CharField(max_length=255, unique=True)),
                ("status", models.CharField(max_length=16)),
                ("reason", models.CharField(blank=True, default="", max_length=255)),
                ("pid", models.IntegerField(null=True)),
                ("pool", models.CharField(blank=True, default="", max_length=255)),
                ("size", models.IntegerField(null=True)),
                ("autoscale_max", models.IntegerField(null=True)),
                ("autoscale_min", models.IntegerField(null=True)),
                ("busy", models.IntegerField(null=True)),
                ("processed", models.BigIntegerField(null=True)),
                ("prefetch", models.IntegerField(null=True)),
                ("queues", models.JSONField(default=list)),
                ("software", models.CharField(blank=True, default="", max_length=255)),
                ("system", models.CharField(blank=True, default="", max_length=255)),
                ("load", models.JSONField(default=list)),
                ("freq", models.FloatField(default=2.0)),
                ("heartbeat_at", models.FloatField(null=True)),
                ("drift", models.FloatField(null=True)),
                ("clock", models.BigIntegerField(null=True)),
                ("booted_at", models.FloatField(null=True)),
                ("online_at", models.FloatField(null=True)),
                ("offline_at", models.FloatField(null=True)),
                ("events_on", models.BooleanField(null=True)),
                ("missed", models.BigIntegerField(default=0)),
                ("is_beat", models.BooleanField(default=False)),
                ("duplicate", models.BooleanField(default=False)),
                ("first_seen_at", models.FloatField()),
                ("inspected_at", models.FloatField(null=True)),
                ("details", models.JSONField(default=dict)),
            ],
            options={
                "ordering": ["hostname"],
            },
        ),
        migrations.CreateModel(
            name="ControlRecord",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("at", models.FloatField(db_index=True)),
                ("username", models.CharField(max_length=150)),
                ("role", models.CharField(max_length=16)),
                ("address", models.CharField(blank=True, default="", max_length=64)),
                ("command", models.CharField(max_length=32)),
                ("targets", models.JSONField(default=list)),
                ("arguments", models.JSONField(default=dict)),
                ("reason", models.CharField(blank=True, default="", max_length=500)),
                ("destinations", models.JSONField(default=list)),
                ("sent_at", models.FloatField(null=True)),
                ("answered_at", models.FloatField(null=True)),
                ("replies", models.JSONField(default=list)),
                (
                    "effect",
                    models.CharField(
                        choices=[
                            ("pending", "Pending"),
                            ("verified", "Verified"),
                            ("partly", "Partly"),
                            ("unverified", "Not verified"),
                            ("none", "No effect"),
                            ("refused", "Refused"),
                        ],
                        default="pending",
                        max_length=16,
                    ),
                ),
                ("seen", models.JSONField(default=list)),
                ("evidence", models.TextField(blank=True, default="")),
                ("completed_at", models.FloatField(null=True)),
                (
                    "user",
                    models.ForeignKey(
                        null=True, on_delete=django.db.models.deletion.SET_NULL, to=settings.AUTH_USER_MODEL
                    ),
                ),
            ],
            options={
                "ordering": ["-at"],
            },
        ),
        migrations.CreateModel(
            name="RateBucket",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("start", models.BigIntegerField()),
                ("width", models.IntegerField()),
                ("name", models.CharField(blank=True, default="", max_length=255)),
                ("received", models.IntegerField(default=0)),
                ("started", models.IntegerField(default=0)),
                ("succeeded", models.IntegerField(default=0)),
                ("failed", models.IntegerField(default=0)),
                ("retried", models.IntegerField(default=0)),
                ("revoked", models.IntegerField(default=0)),
                ("rejected", models.IntegerField(default=0)),
                ("lost", models.IntegerField(default=0)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("width", "name", "start"), name="rate_bucket")
                ],
            },
        ),
        migrations.CreateModel(
            name="Task",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("uuid", models.CharField(max_length=155, unique=True)),
                ("name", models.CharField(blank=True, default="", max_length=255)),
                ("state", models.CharField(max_length=16)),
                ("worker", models.CharField(blank=True, default="", max_length=255)),
                ("queue", models.CharField(blank=True, default="", max_length=255)),
                ("routing_key", models.CharField(blank=True, default="", max_length=255)),
                ("args", models.TextField(null=True)),
                ("kwargs", models.TextField(null=True)),
                ("result", models.TextField(null=True)),
                ("exception", models.TextField(null=True)),
                ("exception_type", models.CharField(blank=True, default="", max_length=255)),
                ("traceback", models.TextField(null=True)),
                ("sent_at", models.FloatField(null=True)),
                ("received_at", models.FloatField(null=True)),
                ("started_at", models.FloatField(null=True)),
                ("ended_at", models.FloatField(null=True)),
                ("eta", models.FloatField(null=True)),
                ("expires", models.FloatField(null=True)),
                ("first_seen_at", models.FloatField()),
                ("seen_at", models.FloatField()),
                ("runtime", models.FloatField(null=True)),
                ("wait", models.FloatField(null=True)),
                ("retries", models.PositiveIntegerField(default=0)),
                ("root_id", models.CharField(max_length=155, null=True)),
                ("parent_id", models.CharField(max_length=155, null=True)),
                ("sender", models.CharField(blank=True, default="", max_length=255)),
                ("signum", models.CharField(blank=True, default="", max_length=16)),
                ("terminated", models.BooleanField(default=False)),
                ("expired", models.BooleanField(default=False)),
                ("known", models.CharField(default="seen", max_length=16)),
                ("note", models.CharField(blank=True, default="", max_length=255)),
                ("attempts", models.JSONField(default=list)),
                ("marks", models.JSONField(default=list)),
            ],
            options={
                "indexes": [
                    models.Index(fields=["-seen_at"], name="task_seen"),
                    models.Index(fields=["state", "-seen_at"], name="task_state"),
                    models.Index(fields=["name", "-seen_at"], name="task_name"),
                    models.Index(fields=["worker", "-seen_at"], name="task_worker"),
                    models.Index(fields=["queue", "-seen_at"], name="task_queue"),
                    models.Index(fields=["root_id"], name="task_root"),
                    models.Index(fields=["parent_id"], name="task_parent"),
                ],
            },
        ),
    ]
