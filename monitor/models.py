"""History: what was seen, kept in the database. Written by ``store`` and ``control`` alone."""

from __future__ import annotations

import uuid as uuidlib

from django.conf import settings
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
    """The one row (id 1) with ``records.FeedRecord`` as JSON: how fresh and whole the picture is."""

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


# What Umbel tends on workers: see ``control.workers.tending``.


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


from monitor.acts import models as _acts  # noqa: E402, F401 - Django finds models by way of this module
