from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("monitor", "0004_search"),
    ]

    operations = [
        migrations.CreateModel(
            name="Lease",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=32, unique=True)),
                ("holder", models.CharField(blank=True, default="", max_length=255)),
                ("machine", models.CharField(blank=True, default="", max_length=64)),
                ("epoch", models.BigIntegerField(default=0)),
                ("since", models.FloatField(default=0.0)),
                ("expires_at", models.FloatField(default=0.0)),
                ("note", models.CharField(blank=True, default="", max_length=255)),
            ],
        ),
    ]
