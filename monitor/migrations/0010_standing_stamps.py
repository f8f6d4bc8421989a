import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("monitor", "0009_tended"),
    ]

    operations = [
        migrations.AddField(
            model_name="standingrevoke",
            name="if_started",
            field=models.CharField(blank=True, db_default="", default="", max_length=16),
        ),
        migrations.AddField(
            model_name="standingrevoke",
            name="ended_at",
            field=models.FloatField(null=True),
        ),
        migrations.CreateModel(
            name="StandingStamp",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("header", models.CharField(max_length=255)),
                ("value", models.CharField(max_length=255)),
                ("since", models.FloatField()),
                ("until", models.FloatField()),
                ("told", models.JSONField(default=dict)),
                ("again", models.JSONField(default=list)),
                (
                    "record",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, to="monitor.controlrecord"
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("header", "value"), name="standing_stamp")],
            },
        ),
        migrations.CreateModel(
            name="Ladder",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("uuid", models.CharField(max_length=155)),
                ("worker", models.CharField(max_length=255)),
                ("pid", models.IntegerField(null=True)),
                ("began", models.BigIntegerField(null=True)),
                ("user_id", models.IntegerField(null=True)),
                ("username", models.CharField(max_length=150)),
                ("role", models.CharField(max_length=16)),
                ("address", models.CharField(blank=True, default="", max_length=64)),
                ("reason", models.CharField(blank=True, default="", max_length=500)),
                ("rungs", models.JSONField(default=list)),
                ("wait", models.FloatField()),
                ("since", models.FloatField()),
                ("step", models.IntegerField(default=0)),
                ("due_at", models.FloatField()),
                ("log", models.JSONField(default=list)),
                ("ended_at", models.FloatField(null=True)),
                ("gone", models.BooleanField(null=True)),
                ("outcome", models.CharField(blank=True, default="", max_length=500)),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("ended_at__isnull", True)), fields=["since"], name="ladder_open"
                    ),
                    models.Index(fields=["uuid", "-since"], name="ladder_task"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("ended_at__isnull", True)), fields=("uuid",), name="one_ladder"
                    )
                ],
            },
        ),
    ]
