"""What was asked of workers and brokers, and what stands since. Written by ``control`` alone."""

from __future__ import annotations

import uuid as uuidlib

from django.conf import settings
from django.db import models


class ControlRecord(models.Model):
    """One control command: intended, sent, answered, verified. Committed before anything is sent."""

    class Effect(models.TextChoices):
        PENDING = "pending", "Pending"
        VERIFIED = "verified", "Verified"
        PARTLY = "partly", "Partly"
        UNVERIFIED = "unverified", "Not verified"
        NONE = "none", "No effect"
        REFUSED = "refused", "Refused"
        NOTED = "noted", "Noted"  # written down; Umbel sends when its time has come, or never

    id = models.UUIDField(primary_key=True, default=uuidlib.uuid4, editable=False)
    at = models.FloatField(db_index=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    username = models.CharField(max_length=150)
    role = models.CharField(max_length=16)
    address = models.CharField(max_length=64, default="", blank=True)
    # A name of control.kinds.KINDS
    command = models.CharField(max_length=32)
    targets = models.JSONField(default=list)  # task uuids, or worker hostnames
    arguments = models.JSONField(default=dict)  # {"signal": "SIGTERM"}, {"n": 2}, {"max": 8, "min": 2}
    reason = models.CharField(max_length=500, default="", blank=True)
    destinations = models.JSONField(default=list)  # worker hostnames that were asked
    sent_at = models.FloatField(null=True)
    answered_at = models.FloatField(null=True)
    replies = models.JSONField(default=list)  # [{"worker", "outcome": ok|error|silent, "text"}]
    effect = models.CharField(max_length=16, choices=Effect.choices, default=Effect.PENDING)
    seen = models.JSONField(default=list)  # [{"target", "seen": true|false|null, "text"}]
    evidence = models.TextField(default="", blank=True)  # one sentence: what Umbel saw
    completed_at = models.FloatField(null=True)
    skipped = models.JSONField(null=True)  # {target: why it was not acted on}

    class Meta:
        ordering = ["-at"]

    def __str__(self) -> str:
        return f"{self.command} by {self.username}"


class StandingRevoke(models.Model):
    """A revoked task that may yet run: workers forget a revoke at a restart, and after three hours.

    See ``control.revokes.keeping``. Times: Unix seconds.
    """

    uuid = models.CharField(max_length=155, unique=True)
    record = models.ForeignKey(ControlRecord, on_delete=models.CASCADE)  # that asked for it, the last time
    since = models.FloatField()
    again = models.JSONField(default=list)  # [worker, when] it was sent again, the last ones
    # The signal that ends it when it is started all the same, and when that was sent.
    if_started = models.CharField(max_length=16, default="", db_default="", blank=True)
    ended_at = models.FloatField(null=True)
    started_at = models.FloatField(null=True)  # it was started all the same
    moot_at = models.FloatField(null=True)  # it has ended, or too long ago

    class Meta:
        indexes = [
            models.Index(fields=["since"], name="standing", condition=models.Q(moot_at__isnull=True)),
        ]

    def __str__(self) -> str:
        return f"revoke of {self.uuid}"


class StandingStamp(models.Model):
    """A revoked stamp: workers forget it at a restart and are told again until its time is over.

    See ``control.revokes.stamps``. Times: Unix seconds.
    """

    header = models.CharField(max_length=255)
    value = models.CharField(max_length=255)
    record = models.ForeignKey(ControlRecord, on_delete=models.CASCADE)  # that asked for it, the last time
    since = models.FloatField()
    until = models.FloatField()
    told = models.JSONField(default=dict)  # worker -> [pid, when] of the start of it that was told
    again = models.JSONField(default=list)  # [worker, when] it was sent again, the last ones

    class Meta:
        constraints = [models.UniqueConstraint(fields=["header", "value"], name="standing_stamp")]

    def __str__(self) -> str:
        return f"revoke of {self.header}={self.value}"


class Ladder(models.Model):
    """A running task that is ended step by step, see ``control.revokes.ladders``. Times: Unix seconds."""

    uuid = models.CharField(max_length=155)
    worker = models.CharField(max_length=255)
    pid = models.IntegerField(null=True)  # of its pool process, and when that began in the kernel's ticks
    began = models.BigIntegerField(null=True)
    user_id = models.IntegerField(null=True)
    username = models.CharField(max_length=150)
    role = models.CharField(max_length=16)
    address = models.CharField(max_length=64, default="", blank=True)
    reason = models.CharField(max_length=500, default="", blank=True)
    rungs = models.JSONField(default=list)  # [{"do": "SIGTERM", "by": celery|here|backend}]
    wait = models.FloatField()  # seconds between two
    since = models.FloatField()
    step = models.IntegerField(default=0)  # the next one
    due_at = models.FloatField()
    log = models.JSONField(default=list)  # [{"at", "text", "record"}]
    ended_at = models.FloatField(null=True)
    gone = models.BooleanField(null=True)  # None: withdrawn, or not over
    outcome = models.CharField(max_length=500, default="", blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["since"], name="ladder_open", condition=models.Q(ended_at__isnull=True)),
            models.Index(fields=["uuid", "-since"], name="ladder_task"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["uuid"], name="one_ladder", condition=models.Q(ended_at__isnull=True)
            )
        ]

    def __str__(self) -> str:
        return f"steps for {self.uuid}"


class SentTask(models.Model):
    """A task that was sent from Umbel: by hand, or again for an older one. Times: Unix seconds.

    Its arguments are not kept: its own events tell of them, redacted.
    """

    uuid = models.CharField(max_length=155, unique=True)
    of = models.CharField(max_length=155, default="", blank=True)  # the task that it runs again
    name = models.CharField(max_length=255, default="", blank=True)
    queue = models.CharField(max_length=255, default="", blank=True)
    source = models.CharField(
        max_length=16, default="", blank=True
    )  # of control.runs.originals.SOURCES, or form
    edited = models.BooleanField(default=False)
    eta = models.FloatField(null=True)
    expires = models.FloatField(null=True)
    record = models.ForeignKey(ControlRecord, on_delete=models.CASCADE)
    at = models.FloatField()

    class Meta:
        indexes = [
            models.Index(fields=["of", "at"], name="sent_of", condition=models.Q(of__gt="")),
            models.Index(fields=["at"], name="sent_at"),
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.uuid}"


class Threshold(models.Model):
    """From when on a run of a task name counts as slow or stuck, where people have said it; see
    ``control.thresholds``. Seconds; None: by the past of the name.
    """

    name = models.CharField(max_length=255, unique=True)
    slow = models.FloatField(null=True)
    stuck = models.FloatField(null=True)
    username = models.CharField(max_length=150)  # who set it
    at = models.FloatField()  # Unix seconds

    def __str__(self) -> str:
        return f"{self.name}: slow {self.slow}, stuck {self.stuck}"
