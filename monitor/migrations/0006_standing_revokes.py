import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("monitor", "0005_lease"),
    ]

    operations = [
        migrations.CreateModel(
            name="StandingRevoke",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("uuid", models.CharField(max_length=155, unique=True)),
                ("since", models.FloatField()),
                ("again", models.JSONField(default=list)),
                ("started_at", models.FloatField(null=True)),
                ("moot_at", models.FloatField(null=True)),
                (
                    "record",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, to="monitor.controlrecord"
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("moot_at__isnull", True)), fields=["since"], name="standing"
                    )
                ],
            },
        ),
    ]
