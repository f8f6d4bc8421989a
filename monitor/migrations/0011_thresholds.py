"""Thresholds that people set for a task name."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("monitor", "0010_standing_stamps"),
    ]

    operations = [
        migrations.CreateModel(
            name="Threshold",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=255, unique=True)),
                ("slow", models.FloatField(null=True)),
                ("stuck", models.FloatField(null=True)),
                ("username", models.CharField(max_length=150)),
                ("at", models.FloatField()),
            ],
        ),
    ]
