"""Bulk acts as they are kept: what was asked for, of which tasks or workers, and what became of each."""

from __future__ import annotations

import uuid as uuidlib

from django.conf import settings
from django.db import models


class BulkAct(models.Model):
    """One command for many tasks or workers: made, held, sent in batches, and settled one by one.

    Its targets are frozen when the list is read, before anybody confirms it. Times: Unix seconds.
    """

    class State(models.TextChoices):
        DRAFT = "draft", "Not confirmed"  # shown in a dialog, and forgotten if nobody confirms it
        HELD = "held", "Held"
        SENDING = "sending", "Sending"
        SETTLING = "settling", "Settling"  # nothing is left to send; effects are looked for
        DONE = "done", "Done"
        WITHDRAWN = "withdrawn", "Withdrawn"

    id = models.UUIDField(primary_key=True, default=uuidlib.uuid4, editable=False)
    state = models.CharField(max_length=10, choices=State.choices, default=State.DRAFT)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    username = models.CharField(max_length=150)
    role = models.CharField(max_length=16)
    address = models.CharField(max_length=64, default="", blank=True)
    command = models.CharField(max_length=32)  # a name of acts.kinds.KINDS
    what = models.CharField(max_length=8, default="task")  # its targets are: task or worker
    arguments = models.JSONField(default=dict)
    reason = models.CharField(max_length=500, default="", blank=True)
    chosen = models.TextField(default="", blank=True)  # the filter in words
    query = models.TextField(default="", blank=True)  # the filter as it stands in the URL
    count = models.PositiveIntegerField(default=0)  # targets
    summary = models.JSONField(default=dict)  # {"names": [[name, n], ...], "workers": ..., "queues": ...}
    read_at = models.FloatField()  # when the list was read
    at = models.FloatField(null=True)  # when it was confirmed
    hold = models.FloatField(default=0.0)  # seconds
    send_at = models.FloatField(null=True)  # when the hold is over
    batch_at = models.FloatField(null=True)  # when a batch was last begun
    sent_at = models.FloatField(null=True)  # when the last batch was
    ended_at = models.FloatField(null=True)
    # Who withdrew or stopped it; with a time and no name Umbel itself did, with its reason in the note.
    stopped_by = models.CharField(max_length=150, default="", blank=True)
    stopped_at = models.FloatField(null=True)
    note = models.CharField(max_length=500, default="", blank=True)
    tally = models.JSONField(default=dict)  # targets by outcome, once it has ended

    class Meta:
        indexes = [
            # Those that somebody has to do something about: few, whatever the history holds.
            models.Index(
                fields=["state"],
                name="act_open",
                condition=models.Q(state__in=("draft", "held", "sending", "settling")),
            ),
            models.Index(fields=["-at"], name="act_at"),
        ]

    def __str__(self) -> str:
        return f"{self.words} by {self.username}"

    @property
    def words(self) -> str:
        """revoke of 412 tasks; shutdown of w1@host"""
        verb = self.command.replace("_", " ")
        named = self.summary.get("workers") if isinstance(self.summary, dict) else None
        if self.what == "worker" and self.count == 1 and named:
            return f"{verb} of {named[0][0]}"
        return f"{verb} of {self.count:,} {self.what}{'' if self.count == 1 else 's'}"

    def targets(self, most: int) -> list[str]:
        """The first of them."""
        found = ActTarget.objects.filter(act=self).order_by("place")
        return list(found.values_list("target", flat=True)[:most])


class ActTarget(models.Model):
    """One task or worker of a bulk act, as it was when the list was read, and what became of it."""

    class Outcome(models.TextChoices):
        WAITING = "waiting", "Waiting"
        SENDING = "sending", "Being sent"
        SENT = "sent", "Sent, not settled"
        CONFIRMED = "confirmed", "Confirmed"
        NOT = "not", "Not confirmed"
        SKIPPED = "skipped", "Skipped"
        REFUSED = "refused", "Refused"
        SILENT = "silent", "Silent"
        UNKNOWN = "unknown", "Fate unknown"
        LEFT = "left", "Not sent"

    act = models.ForeignKey(BulkAct, on_delete=models.CASCADE, db_index=False)
    place = models.PositiveIntegerField()  # in the order of the list, from 0
    target = models.CharField(max_length=255)  # uuid or hostname
    was = models.CharField(max_length=16, default="", blank=True)  # its state
    # Which run or start that was: retries of what waits, the start of what runs, a worker's pid.
    run = models.FloatField(null=True)
    outcome = models.CharField(max_length=10, choices=Outcome.choices, default=Outcome.WAITING)
    text = models.CharField(max_length=500, default="", blank=True)
    batch = models.UUIDField(null=True)  # the ControlRecord of its batch, also before that is written
    settled_at = models.FloatField(null=True)  # nothing more will be found out

    class Meta:
        indexes = [
            models.Index(fields=["act", "outcome", "place"], name="act_outcome"),
            models.Index(fields=["act", "place"], name="act_place"),
            models.Index(fields=["batch"], name="act_batch", condition=models.Q(batch__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.target}: {self.outcome}"


def counts(act: BulkAct) -> dict[str, int]:
    """Its targets by outcome, from the index alone."""
    rows = ActTarget.objects.filter(act=act).order_by().values_list("outcome").annotate(n=models.Count("*"))
    return {str(outcome): int(n) for outcome, n in rows}
