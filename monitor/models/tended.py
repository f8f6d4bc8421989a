"""What Umbel tends on workers: see ``control.workers.tending``."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class Asked(models.Model):
    """Who asked for something that Umbel does later, or step by step."""

    worker = models.CharField(max_length=255)
    at = models.FloatField()
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    username = models.CharField(max_length=150)
    role = models.CharField(max_length=16)
    address = models.CharField(max_length=64, default="", blank=True)
    reason = models.CharField(max_length=500, default="", blank=True)
    pid = models.IntegerField(null=True)  # of the worker then: another one is another worker
    ended_at = models.FloatField(null=True)
    ended = models.CharField(max_length=500, default="", blank=True)  # how, in a sentence

    class Meta:
        abstract = True


class WaitingShrink(Asked):
    """A pool that becomes smaller once enough of its slots are idle."""

    to = models.IntegerField()
    until = models.FloatField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["worker"], condition=models.Q(ended_at__isnull=True), name="waiting_shrink"
            )
        ]

    def __str__(self) -> str:
        return f"shrink {self.worker} to {self.to} when free"


class Drain(Asked):
    """A worker on its way to its end: no queue, then no task, then shut down."""

    queues = models.JSONField(default=list)  # what it consumed
    records = models.JSONField(default=list)  # ids of the commands sent for it
    refused = models.JSONField(default=dict)  # queue -> why its last command was refused

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["worker"], condition=models.Q(ended_at__isnull=True), name="open_drain"
            )
        ]

    def __str__(self) -> str:
        return f"drain of {self.worker}"


class Start(models.Model):
    """One start of a worker, the last that Umbel knows, and how the worker was when first asked."""

    worker = models.CharField(max_length=255, unique=True)
    pid = models.IntegerField(null=True)
    booted_at = models.FloatField(null=True)
    online_at = models.FloatField(null=True)
    began_at = models.FloatField(null=True)  # when Umbel saw it restart; None: it was there before
    asked_at = models.FloatField(null=True)  # when ``was`` was read
    # {"size", "autoscale": [max, min] or null, "queues": […], "limits": {task: {rate, soft, hard}}}
    was = models.JSONField(default=dict)

    def __str__(self) -> str:
        return f"start of {self.worker}"


class Drift(models.Model):
    """One thing that Umbel set on a worker and that its next start forgets, or has forgotten."""

    worker = models.CharField(max_length=255)
    kind = models.CharField(max_length=16)  # see control.workers.drifting
    key = models.CharField(max_length=255, default="", blank=True)  # task name or queue
    value = models.JSONField(default=dict)  # the arguments of the command that sets it
    command = models.CharField(max_length=32)
    configured = models.CharField(max_length=255, default="", blank=True)  # what a start brings; '' unknown
    at = models.FloatField()
    username = models.CharField(max_length=150)
    record_id = models.UUIDField(null=True)  # of its ControlRecord
    forgotten_at = models.FloatField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["worker", "kind", "key"], name="drift")]

    def __str__(self) -> str:
        return f"{self.kind} {self.key} on {self.worker}"
