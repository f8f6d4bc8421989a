from typing import Any

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


def asked(*more: tuple[str, Any]) -> list[tuple[str, Any]]:
    """The columns of ``tended.Asked`` and those of the table."""
    return [
        ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
        ("worker", models.CharField(max_length=255)),
        ("at", models.FloatField()),
        ("username", models.CharField(max_length=150)),
        ("role", models.CharField(max_length=16)),
        ("address", models.CharField(blank=True, default="", max_length=64)),
        ("reason", models.CharField(blank=True, default="", max_length=500)),
        ("pid", models.IntegerField(null=True)),
        ("ended_at", models.FloatField(null=True)),
        ("ended", models.CharField(blank=True, default="", max_length=500)),
        *more,
        (
            "user",
            models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
    ]


class Migration(migrations.Migration):
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("monitor", "0008_sent_tasks"),
    ]

    operations = [
        migrations.AlterField(
            model_name="controlrecord",
            name="effect",
            field=models.CharField(
                choices=[
                    ("pending", "Pending"),
                    ("verified", "Verified"),
                    ("partly", "Partly"),
                    ("unverified", "Not verified"),
                    ("none", "No effect"),
                    ("refused", "Refused"),
                    ("noted", "Noted"),
                ],
                default="pending",
                max_length=16,
            ),
        ),
        migrations.CreateModel(
            name="WaitingShrink",
            fields=asked(("to", models.IntegerField()), ("until", models.FloatField())),
            options={
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("ended_at__isnull", True)),
                        fields=("worker",),
                        name="waiting_shrink",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Drain",
            fields=asked(
                ("queues", models.JSONField(default=list)),
                ("records", models.JSONField(default=list)),
                ("refused", models.JSONField(default=dict)),
            ),
            options={
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("ended_at__isnull", True)), fields=("worker",), name="open_drain"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Start",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("worker", models.CharField(max_length=255, unique=True)),
                ("pid", models.IntegerField(null=True)),
                ("booted_at", models.FloatField(null=True)),
                ("online_at", models.FloatField(null=True)),
                ("began_at", models.FloatField(null=True)),
                ("asked_at", models.FloatField(null=True)),
                ("was", models.JSONField(default=dict)),
            ],
        ),
        migrations.CreateModel(
            name="Drift",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("worker", models.CharField(max_length=255)),
                ("kind", models.CharField(max_length=16)),
                ("key", models.CharField(blank=True, default="", max_length=255)),
                ("value", models.JSONField(default=dict)),
                ("command", models.CharField(max_length=32)),
                ("configured", models.CharField(blank=True, default="", max_length=255)),
                ("at", models.FloatField()),
                ("username", models.CharField(max_length=150)),
                ("record_id", models.UUIDField(null=True)),
                ("forgotten_at", models.FloatField(null=True)),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("worker", "kind", "key"), name="drift")],
            },
        ),
    ]
