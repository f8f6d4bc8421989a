"""Notes on tasks, workers and task names."""

from __future__ import annotations

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("dashboard", "0002_web_processes"),
    ]

    operations = [
        migrations.CreateModel(
            name="Note",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "on",
                    models.CharField(
                        choices=[
                            ("task", "this task"),
                            ("worker", "this worker"),
                            ("name", "every task of this name"),
                        ],
                        max_length=8,
                    ),
                ),
                ("subject", models.CharField(max_length=255)),
                ("text", models.TextField()),
                ("username", models.CharField(max_length=150)),
                ("at", models.FloatField()),
                ("changed_at", models.FloatField(null=True)),
                ("changed_by", models.CharField(blank=True, default="", max_length=150)),
                ("version", models.IntegerField(default=1)),
                (
                    "author",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "indexes": [models.Index(fields=["on", "subject", "at"], name="note_on")],
            },
        ),
    ]
