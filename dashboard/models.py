"""People: their sign-in links, the throttle on signing in, and their notes. ``access`` writes the links."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class LoginLink(models.Model):
    """A link that signs a person in once. Without a user it is the first one, and makes an admin."""

    digest = models.CharField(max_length=64, unique=True)  # SHA-256 of the token, which is kept nowhere
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.CASCADE)
    expires_at = models.FloatField()
    used_at = models.FloatField(null=True)

    def __str__(self) -> str:
        return f"link for {self.user or 'the first admin'}"


class SignInAttempt(models.Model):
    """One failed try to sign in, kept as long as it counts."""

    account = models.CharField(max_length=32)  # keyed hash of the name: people type passwords there
    address = models.CharField(max_length=64)
    at = models.FloatField()

    class Meta:
        indexes = [
            models.Index(fields=["account", "at"], name="attempt_account"),
            models.Index(fields=["address", "at"], name="attempt_address"),
            models.Index(fields=["at"], name="attempt_at"),
        ]

    def __str__(self) -> str:
        return f"{self.account} from {self.address}"


class WebProcess(models.Model):
    """A process that serves pages, of several. By the database's clock; gone minutes after its last word."""

    name = models.CharField(max_length=128, unique=True)  # host:pid:random
    host = models.CharField(max_length=255, default="", blank=True)
    pid = models.IntegerField(default=0)
    key = models.CharField(max_length=16)  # fingerprint of its secret key, which cannot be told from it
    version = models.CharField(max_length=32, default="", blank=True)
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class Note(models.Model):
    """What a person wrote on a task, a worker or a task name; its history is in the audit log.

    Times: Unix seconds. ``controls.notes`` writes them.
    """

    class On(models.TextChoices):
        TASK = "task", "this task"
        WORKER = "worker", "this worker"
        NAME = "name", "every task of this name"

    on = models.CharField(max_length=8, choices=On.choices)
    subject = models.CharField(max_length=255)  # uuid, hostname or task name
    text = models.TextField()  # redacted before it came here
    author = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL)
    username = models.CharField(max_length=150)
    at = models.FloatField()
    changed_at = models.FloatField(null=True)
    changed_by = models.CharField(max_length=150, default="", blank=True)
    version = models.IntegerField(default=1)  # grows with each change: two who change it at once find out

    class Meta:
        indexes = [models.Index(fields=["on", "subject", "at"], name="note_on")]

    def __str__(self) -> str:
        return f"note of {self.username} on {self.on} {self.subject}"
