"""What was seen: tasks, workers, counts, and when Umbel was not listening. Written by ``store`` alone."""

from __future__ import annotations

from django.db import models

# Tasks that began from another. An index serves only a query that says the same in the same words.
NOT_ROOT = models.Q(root_id__lt=models.F("uuid")) | models.Q(root_id__gt=models.F("uuid"))


class Task(models.Model):
    """One execution of a task, by uuid. Columns are those of ``records.TaskRecord``; times: Unix seconds."""

    uuid = models.CharField(max_length=155, unique=True)
    name = models.CharField(max_length=255, default="", blank=True)
    state = models.CharField(max_length=16)
    worker = models.CharField(max_length=255, default="", blank=True)
    queue = models.CharField(max_length=255, default="", blank=True)
    routing_key = models.CharField(max_length=255, default="", blank=True)
    args = models.TextField(null=True)
    kwargs = models.TextField(null=True)
    result = models.TextField(null=True)
    exception = models.TextField(null=True)
    exception_type = models.CharField(max_length=255, default="", blank=True)
    traceback = models.TextField(null=True)
    sent_at = models.FloatField(null=True)
    received_at = models.FloatField(null=True)
    started_at = models.FloatField(null=True)
    ended_at = models.FloatField(null=True)
    eta = models.FloatField(null=True)
    expires = models.FloatField(null=True)
    first_seen_at = models.FloatField()
    seen_at = models.FloatField()
    runtime = models.FloatField(null=True)
    wait = models.FloatField(null=True)
    retries = models.PositiveIntegerField(default=0)
    root_id = models.CharField(max_length=155, null=True)
    parent_id = models.CharField(max_length=155, null=True)
    sender = models.CharField(max_length=255, default="", blank=True)
    signum = models.CharField(max_length=16, default="", blank=True)
    terminated = models.BooleanField(default=False)
    expired = models.BooleanField(default=False)
    known = models.CharField(max_length=16, default="seen")
    note = models.CharField(max_length=255, default="", blank=True)
    # On PostgreSQL the table is partitioned by day, and its key is (uuid, day).
    day = models.IntegerField(default=0, db_default=0)
    attempts = models.JSONField(default=list)  # list of records.Attempt as dicts
    marks = models.JSONField(default=list)  # list of records.Mark as arrays

    class Meta:
        indexes = [
            models.Index(fields=["-seen_at"], name="task_seen"),
            models.Index(fields=["state", "-seen_at"], name="task_state"),
            models.Index(fields=["name", "-seen_at"], name="task_name"),
            models.Index(fields=["worker", "-seen_at"], name="task_worker"),
            models.Index(fields=["queue", "-seen_at"], name="task_queue"),
            models.Index(
                fields=["exception_type", "-seen_at"],
                name="task_error",
                condition=models.Q(exception_type__gt=""),
            ),
            # Most tasks are their own root and nobody's child: those cost no entry.
            models.Index(fields=["root_id"], name="task_root", condition=NOT_ROOT),
            models.Index(
                fields=["parent_id"], name="task_parent", condition=models.Q(parent_id__isnull=False)
            ),
            # Every column that counting what waits reads, of these few rows alone.
            models.Index(
                fields=["state", "first_seen_at", "queue", "worker", "eta", "sent_at", "received_at"],
                name="task_waiting",
                condition=models.Q(state__in=("PENDING", "RECEIVED")),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.uuid}"


class Worker(models.Model):
    """One worker by hostname. Columns are those of ``records.WorkerRecord``."""

    hostname = models.CharField(max_length=255, unique=True)
    status = models.CharField(max_length=16)
    reason = models.CharField(max_length=255, default="", blank=True)
    pid = models.IntegerField(null=True)
    pool = models.CharField(max_length=255, default="", blank=True)
    size = models.IntegerField(null=True)
    autoscale_max = models.IntegerField(null=True)
    autoscale_min = models.IntegerField(null=True)
    busy = models.IntegerField(null=True)
    processed = models.BigIntegerField(null=True)
    prefetch = models.IntegerField(null=True)
    queues = models.JSONField(default=list)
    software = models.CharField(max_length=255, default="", blank=True)
    system = models.CharField(max_length=255, default="", blank=True)
    load = models.JSONField(default=list)
    freq = models.FloatField(default=2.0)
    heartbeat_at = models.FloatField(null=True)
    drift = models.FloatField(null=True)
    clock = models.BigIntegerField(null=True)
    booted_at = models.FloatField(null=True)
    online_at = models.FloatField(null=True)
    offline_at = models.FloatField(null=True)
    events_on = models.BooleanField(null=True)
    missed = models.BigIntegerField(default=0)
    is_beat = models.BooleanField(default=False)
    duplicate = models.BooleanField(default=False)
    first_seen_at = models.FloatField()
    inspected_at = models.FloatField(null=True)
    details = models.JSONField(default=dict)

    class Meta:
        ordering = ["hostname"]

    def __str__(self) -> str:
        return self.hostname


class Rollup(models.Model):
    """Counts and histograms of a slice of time. Columns are those of ``records.Rollup``."""

    width = models.IntegerField()
    by = models.CharField(max_length=8)
    key = models.CharField(max_length=255, default="", blank=True)
    start = models.BigIntegerField()
    received = models.BigIntegerField(default=0)
    started = models.BigIntegerField(default=0)
    succeeded = models.BigIntegerField(default=0)
    failed = models.BigIntegerField(default=0)
    retried = models.BigIntegerField(default=0)
    revoked = models.BigIntegerField(default=0)
    rejected = models.BigIntegerField(default=0)
    lost = models.BigIntegerField(default=0)
    runtime = models.JSONField(default=dict)
    wait = models.JSONField(default=dict)
    # How often the row was written: who last wrote it knows its histograms without reading them.
    writes = models.IntegerField(default=1)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["width", "by", "key", "start"], name="rollup")]
        indexes = [models.Index(fields=["width", "start"], name="rollup_start")]

    def __str__(self) -> str:
        return f"{self.by} {self.key} {self.start}+{self.width}"


class RateBucket(models.Model):
    """What ``Rollup`` replaced. Nothing reads or writes it; it goes with the release after this one."""

    start = models.BigIntegerField()
    width = models.IntegerField()
    name = models.CharField(max_length=255, default="", blank=True)
    received = models.IntegerField(default=0)
    started = models.IntegerField(default=0)
    succeeded = models.IntegerField(default=0)
    failed = models.IntegerField(default=0)
    retried = models.IntegerField(default=0)
    revoked = models.IntegerField(default=0)
    rejected = models.IntegerField(default=0)
    lost = models.IntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["width", "name", "start"], name="rate_bucket")]

    def __str__(self) -> str:
        return f"{self.name or 'all'} {self.start}"


class TaskType(models.Model):
    """A task name with the merged histogram of its successful runtimes; see ``rates`` for the buckets."""

    name = models.CharField(max_length=255, unique=True)
    runs = models.BigIntegerField(default=0)
    failures = models.BigIntegerField(default=0)
    first_seen_at = models.FloatField()
    last_seen_at = models.FloatField()
    histogram = models.JSONField(default=dict)
    p50 = models.FloatField(null=True)
    p95 = models.FloatField(null=True)
    p99 = models.FloatField(null=True)

    def __str__(self) -> str:
        return self.name


class Feed(models.Model):
    """The row with id 1 holds ``records.FeedRecord`` as JSON: how fresh and whole the picture is.

    On PostgreSQL the row with id 2 is the mark of the last write.
    """

    at = models.FloatField()
    data = models.JSONField()

    def __str__(self) -> str:
        return "feed"


class Gap(models.Model):
    """A span in which Umbel was not listening."""

    started_at = models.FloatField(unique=True)
    ended_at = models.FloatField(null=True)
    reason = models.CharField(max_length=255, default="", blank=True)

    def __str__(self) -> str:
        return f"{self.started_at} to {self.ended_at}"
