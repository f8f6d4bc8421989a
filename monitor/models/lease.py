"""Who may write: see ``engine.leader``."""

from __future__ import annotations

from django.db import models


class Lease(models.Model):
    """Who may write now: one row a name, held for seconds; see ``engine.leader``. Times: Unix seconds, by the
    database's clock.
    """

    name = models.CharField(max_length=32, unique=True)
    holder = models.CharField(max_length=255, default="", blank=True)  # host:pid:token; '' when given back
    machine = models.CharField(max_length=64, default="", blank=True)  # who can see whether that pid is alive
    # Grows by one with each holder: a write under an older number is refused.
    epoch = models.BigIntegerField(default=0)
    since = models.FloatField(default=0.0)
    expires_at = models.FloatField(default=0.0)
    note = models.CharField(max_length=255, default="", blank=True)  # how it came to its holder

    def __str__(self) -> str:
        return f"{self.name} {self.epoch}: {self.holder or 'free'}"
